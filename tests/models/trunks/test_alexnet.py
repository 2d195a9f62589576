"""AlexNet's convolutions against the paper."""

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import UserError
from trainer.models.trunks.alexnet import alexnet


def build(size: int) -> keras.Model:
    return alexnet(keras.Input((size, size, 3)), None)


def test_maps_of_the_paper_at_227_pixels():
    model = build(227)
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers[1:]}
    assert shapes["conv_1"] == (55, 55, 96)
    assert shapes["convpool_1"] == (27, 27, 96)
    assert shapes["conv_2"] == (27, 27, 256)
    assert shapes["convpool_2"] == (13, 13, 256)
    assert shapes["conv_3"] == shapes["conv_4"] == (13, 13, 384)
    assert shapes["conv_5"] == (13, 13, 256)
    assert model.output.shape[1:] == shapes["convpool_5"] == (6, 6, 256)
    # 11x11 kernels of 3 channels, then 5x5 and 3x3, of half the channels where there are groups.
    assert model.count_params() == (
        (363 * 96 + 96) + (25 * 48 * 256 + 256) + (9 * 256 * 384 + 384)
        + (9 * 192 * 384 + 384) + (9 * 192 * 256 + 256)
    )  # fmt: skip


def test_groups_see_half_of_the_channels():
    model = build(67)
    layer = model.get_layer("conv_2")
    x = np.random.default_rng(0).normal(size=(1, 7, 7, 96)).astype("float32")
    changed = x.copy()
    changed[..., 48:] += 1
    before, after = np.asarray(layer(x)), np.asarray(layer(changed))
    np.testing.assert_array_equal(before[..., :128], after[..., :128])
    assert (before[..., 128:] != after[..., 128:]).any()


def test_the_smallest_picture():
    assert build(67).output.shape[1:] == (1, 1, 256)
    with pytest.raises(ValueError, match="alexnet needs an image size of 67 or more: 66"):
        models.build("alexnet", image_size=66)


def test_no_weights_from_imagenet():
    with pytest.raises(ValueError, match="alexnet has no ImageNet weights: set weights to none"):
        models.build("alexnet", image_size=227, weights="imagenet")
    with pytest.raises(UserError, match="no such file; allowed are imagenet, none or a file"):
        models.build("alexnet", image_size=227, weights="alexnet.h5")

"""The small convnet against its description."""

import keras
import numpy as np
import pytest

from trainer.models.trunks.convnet import convnet_small


def build(size=32, **parameters) -> keras.Model:
    return convnet_small(keras.Input((size, size, 3)), None, **parameters)


@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_each_block_halves_and_widens(downsample, norm):
    model = build(33, widths=(4, 6, 9), downsample=downsample, norm=norm)
    shapes = [model.get_layer(f"block{n}_relu").output.shape[1:] for n in (1, 2, 3)]
    assert shapes == [(17, 17, 4), (9, 9, 6), (5, 5, 9)]
    kinds = {"batch": keras.layers.BatchNormalization, "group": keras.layers.GroupNormalization}
    found = [x for x in model.layers if isinstance(x, tuple(kinds.values()))]
    assert all(isinstance(layer, kinds[norm]) for layer in found)
    assert len(found) == (0 if norm == "none" else 3)


def test_default_size():
    # 3x3 kernels: 9 x (3 x 32 + 32 x 64 + 64 x 128 + 128 x 256), and 4 values a channel for the
    # normalisation: 4 x 480.
    assert build().count_params() == 387_936 + 1_920


def test_pooling_before_the_relu_changes_nothing():
    model = build(8, widths=(5,), downsample="pool", norm="none")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    conv = np.asarray(model.get_layer("block1_conv")(x))
    want = np.maximum(conv, 0).reshape(2, 4, 2, 4, 2, 5).max((2, 4))
    np.testing.assert_array_equal(model(x), want)


def test_group_norm_does_not_depend_on_the_batch():
    model = build(16, widths=(4, 8), norm="group")
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(model(x, training=True)[:1], model(x[:1]), atol=1e-5)

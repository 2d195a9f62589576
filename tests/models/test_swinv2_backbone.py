"""Swin V2 as KerasCV wants a backbone, with KerasCV and without."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models.layers import Preprocess
from trainer.models.swinv2_backbone import SwinV2Backbone
from trainer.models.trunks.swinv2 import PRESETS

TINY = {
    "embed_dim": 16,
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": 4,
}


def photos(rows: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (rows, height, width, 3)).astype(np.float32)


def pyramid(backbone: SwinV2Backbone) -> keras.Model:
    """As KerasCV's get_feature_extractor does it."""
    levels = backbone.pyramid_level_inputs
    outputs = {level: backbone.get_layer(name).output for level, name in levels.items()}
    return keras.Model(backbone.input, outputs)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 71), (33, 128)])
def test_levels_are_at_a_quarter_to_a_thirty_second_of_the_size_rounded_up(height, width):
    backbone = SwinV2Backbone(input_shape=(height, width, 3), **TINY)
    found = pyramid(backbone)(photos(2, height, width))
    assert list(found) == ["P2", "P3", "P4", "P5"]
    for level, map_ in found.items():
        stride = 2 ** int(level[1:])
        channels = 16 * stride // 4
        assert map_.shape == (2, -(-height // stride), -(-width // stride), channels)
    assert backbone.embedding_dims == tuple(map_.shape[-1] for map_ in found.values())
    assert backbone.output_shape == (None, *found["P5"].shape[1:])


def test_a_config_makes_the_same_backbone_again():
    backbone = SwinV2Backbone(
        include_rescaling=True, input_shape=(64, 48, 3), pretrained_window_sizes=(4, 4, 3, 2),
        patch_size=2, mlp_ratio=2.0, drop_path_rate=0.2, name="tiny", trainable=False, **TINY,
    )  # fmt: skip
    again = SwinV2Backbone.from_config(backbone.get_config())
    assert again.get_config() == backbone.get_config()
    assert (again.name, again.trainable) == ("tiny", False)
    assert list(again.pyramid_level_inputs) == ["P1", "P2", "P3", "P4"]
    again.set_weights(backbone.get_weights())
    np.testing.assert_array_equal(again(photos(1, 64, 48)), backbone(photos(1, 64, 48)))


def test_rescaling_is_that_of_the_published_weights():
    plain = SwinV2Backbone(input_shape=(64, 64, 3), **TINY)
    rescaling = SwinV2Backbone(input_shape=(64, 64, 3), include_rescaling=True, **TINY)
    rescaling.set_weights(plain.get_weights())
    images = photos(1, 64, 64)
    np.testing.assert_allclose(
        rescaling(images), plain(Preprocess("torch")(images)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_published_sizes(name):
    dim, depths, heads, window = PRESETS[name]
    values = SwinV2Backbone.presets[f"swinv2_{name}"]
    assert values["embed_dim"] == dim
    assert values["depths"] == depths
    assert values["num_heads"] == heads
    assert values["window_size"] == window == {"base": 16, "large": 12}.get(name, 8)
    assert values["input_shape"] == ((192, 192, 3) if name == "large" else (256, 256, 3))


def test_from_preset_takes_other_numbers_and_refuses_what_is_not_there():
    backbone = SwinV2Backbone.from_preset("swinv2_tiny", input_shape=(32, 32, 3), **TINY)
    assert backbone.get_config()["input_shape"] == (32, 32, 3)
    assert backbone.get_config()["embed_dim"] == 16
    with pytest.raises(ValueError, match="no preset 'swin_tiny'; there are swinv2_tiny, swinv2_sm"):
        SwinV2Backbone.from_preset("swin_tiny")
    with pytest.raises(ValueError, match="brings no weights: fetch"):
        SwinV2Backbone.from_preset("swinv2_tiny", load_weights=True)
    with pytest.raises(ValueError, match="height and width have to be given"):
        SwinV2Backbone(input_shape=(None, None, 3), **TINY)
    with pytest.raises(ValueError, match="patch_size must be a power of two, not 3"):
        SwinV2Backbone(input_shape=(64, 64, 3), patch_size=3, **TINY)


def test_a_classifier_of_kerascv_learns_and_is_saved(tmp_path):
    keras_cv = pytest.importorskip("keras_cv")
    backbone = SwinV2Backbone(
        input_shape=(64, 64, 3), include_rescaling=True, drop_path_rate=0.0, **TINY
    )
    classifier = keras_cv.models.ImageClassifier(backbone=backbone, num_classes=3)
    images, labels = photos(6, 64, 64), np.array([0, 1, 2, 0, 1, 2])
    first = backbone.get_layer("patches").kernel
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(labels, classifier(images))
    gradients = tape.gradient(loss, [v.value for v in classifier.trainable_variables])
    for variable, gradient in zip(classifier.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(np.asarray(gradient)).all(), variable.path
    (of_first,) = [
        gradient
        for variable, gradient in zip(classifier.trainable_variables, gradients, strict=True)
        if variable is first
    ]
    assert np.abs(of_first).max() > 0

    before = np.asarray(first).copy()
    classifier.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    classifier.fit(images, labels, batch_size=6, verbose=0)
    assert np.abs(first - before).max() > 0
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    assert isinstance(loaded, keras_cv.models.ImageClassifier)
    assert isinstance(loaded.backbone, SwinV2Backbone)
    assert loaded.backbone.get_config() == backbone.get_config()
    np.testing.assert_array_equal(loaded(images), classifier(images))


def test_tasks_of_kerascv_take_the_pyramid():
    keras_cv = pytest.importorskip("keras_cv")
    from keras_cv.src.utils.train import get_feature_extractor

    backbone = SwinV2Backbone(input_shape=(64, 64, 3), **TINY)
    levels = ["P3", "P4", "P5"]
    names = [backbone.pyramid_level_inputs[level] for level in levels]
    found = get_feature_extractor(backbone, names, levels)(photos(1, 64, 64))
    expected = pyramid(backbone)(photos(1, 64, 64))
    for level in levels:
        np.testing.assert_array_equal(found[level], expected[level])
    detector = keras_cv.models.RetinaNet(
        num_classes=2, bounding_box_format="xywh", backbone=backbone
    )
    assert detector.input_shape == (None, 64, 64, 3)
    segmenter = keras_cv.models.SegFormer(backbone=backbone, num_classes=2, projection_filters=8)
    assert segmenter(photos(1, 64, 64)).shape == (1, 64, 64, 2)

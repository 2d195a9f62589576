"""Nets of KerasHub and KerasCV as trunks: as by hand, trained, saved, exported."""

import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.presets import cv_preset, hub_preset
from trainer import models
from trainer.config import UserError
from trainer.serving.export import export

SIDE = 40
PICTURES = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype("float32")


def build(trunk, **parameters) -> keras.Model:
    values = {"embedding_dim": None, "normalize": False, **parameters}
    return models.build("mildnet", image_size=SIDE, trunk=trunk, **values)


def by_hand(family, tokens="auto"):
    """Return what KerasHub itself makes of the pictures."""
    _, net, converter = hub_preset(family)
    pixels = converter(PICTURES)
    if family in ("siglip", "clip") and tokens == "auto":
        return net.get_vision_embeddings(pixels)
    net = getattr(net, "vision_encoder", net)
    found = net(dict.fromkeys(net.input, pixels) if isinstance(net.input, dict) else pixels)
    if len(found.shape) == 4:
        return tf.reduce_mean(found, (1, 2))
    others = {"vit": 1, "dinov2": 3, "dinov3": 5, "clip": 1}[family]
    return tf.reduce_mean(found[:, others:], 1) if tokens in ("mean", "map") else found[:, 0]


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "resnet", "siglip", "clip"])
def test_features_are_those_of_kerashub(family):
    model = build(f"kerashub:{hub_preset(family)[0]}")
    np.testing.assert_allclose(model(PICTURES), by_hand(family), atol=1e-5)
    assert len({v.path for v in model.variables}) == len(model.variables)
    random = build(f"kerashub:{hub_preset(family)[0]}", weights="none")
    assert np.abs(np.asarray(random(PICTURES)) - by_hand(family)).max() > 1e-3


@pytest.mark.parametrize("tokens", ["cls", "mean", "map"])
@pytest.mark.parametrize("family", ["dinov2", "clip"])
def test_what_is_taken_of_the_tokens_can_be_chosen(family, tokens):
    model = build(f"kerashub:{hub_preset(family)[0]}(tokens='{tokens}')")
    np.testing.assert_allclose(model(PICTURES), by_hand(family, tokens), atol=1e-5)


def test_features_are_those_of_kerascv():
    folder, net = cv_preset()
    want = tf.reduce_mean(net(PICTURES), (1, 2))
    np.testing.assert_allclose(build(f"kerascv:{folder}")(PICTURES), want, atol=1e-5)
    random = build(f"kerascv:{folder}", weights="none")
    assert np.abs(np.asarray(random(PICTURES)) - want).max() > 1e-3


@pytest.mark.parametrize("family", ["dinov2", "siglip", "kerascv"])
def test_a_trained_one_is_saved_and_exported_as_it_is(family, tmp_path):
    trunk = (
        f"kerascv:{cv_preset()[0]}" if family == "kerascv" else f"kerashub:{hub_preset(family)[0]}"
    )
    model = build(trunk, embedding_dim=4)
    optimizer = keras.optimizers.SGD(0.5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(PICTURES, training=True)[:, 0])
    weights = [v.value for v in model.trainable_variables]
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    before = np.asarray(model(PICTURES))
    optimizer.apply(gradients, model.trainable_variables)
    want = np.asarray(model(PICTURES))
    assert np.abs(want - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(PICTURES), want)
    folder = export(loaded, tmp_path / "exported")
    found = tf.saved_model.load(str(folder)).signatures["images"](images=tf.constant(PICTURES))
    # Embeddings that are not of unit length may be in the hundreds.
    np.testing.assert_allclose(found["embedding"], want, rtol=1e-6, atol=1e-5)


def test_another_size_where_the_net_allows_one():
    folder = hub_preset("dinov2")[0]
    model = build(f"kerashub:{folder}(size=35)")
    assert model.get_layer("trunk").get_layer("pixels").size == (35, 35)
    with pytest.raises(ValueError, match="takes 32 x 32 pixels, not 48"):
        build(f"kerashub:{hub_preset('siglip')[0]}(size=48)")


def test_all_of_it_can_be_frozen():
    model = build(f"kerashub:{hub_preset('resnet')[0]}", frozen="all", embedding_dim=4)
    assert {v.path for v in model.trainable_variables} == {"project/kernel", "project/bias"}
    np.testing.assert_allclose(model(PICTURES, training=True), model(PICTURES), atol=1e-6)


@pytest.mark.parametrize(
    ("trunk", "match"),
    [
        ("kerashub:dinov2_smal", "nearest are dinov2_small"),
        ("kerascv:efficientnetv2_s_imagene", "nearest are efficientnetv2_s_imagenet"),
        ("kerashub:/no/such", "there is no folder /no/such"),
        ("kerashub", "says no preset: write kerashub:PRESET"),
        ("kerashub:", "says no preset"),
        ("mobilenet:x", "mobilenet takes no 'x'"),
        ("kerashub:dinov2_small(token='cls')", "did you mean 'tokens'"),
    ],
)
def test_mistakes_are_told_in_one_line(trunk, match):
    with pytest.raises(UserError, match=match) as error:
        build(trunk)
    assert "\n" not in str(error.value)


def test_parameters_that_do_not_fit(tmp_path):
    folder = hub_preset("resnet")[0]
    with pytest.raises(ValueError, match="no tokens"):
        build(f"kerashub:{folder}(tokens='cls')")
    with pytest.raises(ValueError, match="weights of its own"):
        build(f"kerashub:{folder}", weights="imagenet")
    with pytest.raises(ValueError, match="size must be above 0"):
        build(f"kerashub:{folder}(size=0)")
    with pytest.raises(UserError, match="cannot be made of its preset"):
        build(f"kerashub:{tmp_path}")


@pytest.mark.parametrize(("kind", "module"), [("kerashub", "keras_hub"), ("kerascv", "keras_cv")])
def test_a_missing_extra_is_named(kind, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=re.escape(f'pip install "mildnet[{kind}]"')):
        build(f"{kind}:anything")

"""SavedModels of both kinds as trunks: values, training, and life without the folder."""

import hashlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import saved_models
from tests.models.saved_models import SIZE, WIDTH, features, start
from trainer import models
from trainer.config import UserError
from trainer.models import saved_model
from trainer.serving.export import export

KINDS = {
    "v1": saved_models.make_v1,
    "v1_ref": lambda folder: saved_models.make_v1(folder, resource=False),
    "v2": saved_models.make_v2,
    "v2_signature": saved_models.make_v2_signature,
}
PICTURES = np.random.default_rng(0).uniform(0, 255, (4, SIZE, SIZE, 3)).astype("float32")


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    return KINDS[request.param](tmp_path / "module")


@pytest.fixture
def module(tmp_path):
    return saved_models.make_v2(tmp_path / "module")


def build(folder, **parameters) -> keras.Model:
    keras.utils.set_random_seed(1)
    return models.build(
        "hub_embedding", image_size=SIZE, hub_handle=str(folder), embedding_dim=4, **parameters
    )


def plain(folder, **parameters) -> keras.Model:
    values = {"embedding_dim": None, "normalize": False, **parameters}
    return models.build("hub_embedding", image_size=SIZE, hub_handle=str(folder), **values)


def value_of(model: keras.Model, end: str) -> np.ndarray:
    return next(v.numpy() for v in model.variables if v.path.endswith(end))


def test_features_are_those_of_the_saved_model(folder):
    want, *_ = features(tf.constant(PICTURES / 255), start(), False)
    model = plain(folder)
    np.testing.assert_allclose(model(PICTURES), want, atol=1e-6)
    np.testing.assert_allclose(model(PICTURES.astype("uint8"))[0], want[0], atol=0.01)
    assert model.output_shape == (None, WIDTH)
    shifted, *_ = features(tf.constant(PICTURES / 127.5 - 1), start(), False)
    np.testing.assert_allclose(plain(folder, input_range="-1..1")(PICTURES), shifted, atol=1e-5)
    paths = {f"hub/{name}" for name in start()}
    assert models.trunk_variables(model) == paths
    assert {v.path for v in model.trainable_variables} == {p for p in paths if "moving" not in p}


def test_tf_load_agrees_with_both_formats(folder):
    tags = [] if (folder / "tfhub_module.pb").exists() else None
    loaded = tf.saved_model.load(str(folder), tags)
    run = loaded if callable(loaded) else next(iter(loaded.signatures.values()))
    found = run(images=tf.constant(PICTURES / 255)) if run is not loaded else run(PICTURES / 255)
    want = next(iter(found.values())) if isinstance(found, dict) else found
    np.testing.assert_allclose(plain(folder)(PICTURES), want, atol=1e-6)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_training_reaches_the_variables_and_the_statistics(kind, tmp_path):
    model = plain(KINDS[kind](tmp_path / "module"))
    values = {name: tf.Variable(value) for name, value in start().items()}
    with tf.GradientTape() as tape:
        want, mean, _ = features(tf.constant(PICTURES / 255), values, True)
        loss = tf.reduce_sum(want**2)
    names = [name for name in values if "moving" not in name]
    expected = dict(zip(names, tape.gradient(loss, [values[n] for n in names]), strict=True))

    @tf.function
    def gradients(pictures):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(pictures, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    for variable, gradient in zip(model.trainable_variables, gradients(PICTURES), strict=True):
        want = expected[variable.path.removeprefix("hub/")]
        np.testing.assert_allclose(gradient, want, atol=1e-4, rtol=1e-4)
    kept = saved_models.KEEP * start()["norm/moving_mean"] + (1 - saved_models.KEEP) * mean
    np.testing.assert_allclose(value_of(model, "moving_mean"), kept, atol=1e-6)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_frozen_one_stays_as_it_was_saved(kind, tmp_path):
    model = build(KINDS[kind](tmp_path / "module"), trainable=False)
    assert {v.path for v in model.trainable_variables} == {"project/kernel", "project/bias"}
    np.testing.assert_allclose(model(PICTURES, training=True), model(PICTURES), atol=1e-6)
    for name, value in start().items():
        np.testing.assert_array_equal(value_of(model, name), value)


def test_what_is_saved_and_exported_needs_no_folder(folder, tmp_path, monkeypatch):
    model = build(folder)
    for variable in model.trainable_variables:
        variable.assign(variable.value * 1.25)
    want = np.asarray(model(PICTURES))
    model.save(tmp_path / "model.keras")
    exported = export(model, tmp_path / "exported")
    shutil.rmtree(folder)
    # As in another process, which has never seen the folder.
    monkeypatch.setattr(saved_model, "_SEEN", {})
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(PICTURES), want)
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]
    found = tf.saved_model.load(str(exported)).signatures["images"](images=tf.constant(PICTURES))
    np.testing.assert_allclose(found["embedding"], want, atol=1e-6)
    again = export(loaded, tmp_path / "again")
    found = tf.saved_model.load(str(again)).signatures["images"](images=tf.constant(PICTURES))
    np.testing.assert_allclose(found["embedding"], want, atol=1e-6)


def test_it_goes_as_a_trunk_too_at_a_size_of_its_own(module):
    model = models.build(
        "mildnet", image_size=20, trunk=f"hub:{module}(size={SIZE})", embedding_dim=None
    )
    assert model(np.zeros((2, 20, 20, 3), "float32")).shape == (2, WIDTH)
    with pytest.raises(ValueError, match="scales pixels by itself"):
        models.build("mildnet", image_size=20, trunk=f"hub:{module}", preprocessing="torch")


def test_an_address_is_found_in_the_cache_of_tf_hub(module, tmp_path, monkeypatch):
    address = "https://tfhub.dev/google/small/feature_vector/1"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    key = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    cached = tmp_path / "cache" / key
    shutil.copytree(module, cached)
    np.testing.assert_array_equal(plain(address)(PICTURES), plain(module)(PICTURES))
    assert keras.__version__ >= "3", "TF-Hub brings tf-keras, which must not take Keras' place"


def test_mistakes_are_told_in_one_line(module, tmp_path, monkeypatch):
    def refused(match, handle=module, **parameters):
        with pytest.raises((UserError, ValueError), match=match) as error:
            plain(handle, **parameters)
        assert "\n" not in str(error.value)

    refused("no folder .*nowhere", tmp_path / "nowhere")
    refused("is not a SavedModel: it holds no saved_model.pb", tmp_path)
    refused("has no signature 'vector'", signature="vector")
    refused("size must be above 0", hub_size=0)
    fixed = saved_models.make_v2_signature(tmp_path / "fixed")
    refused("cannot be a trunk for pictures of 9 x 9 pixels", fixed, hub_size=9)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no protocol buffer")
    refused("no saved_model.pb of a SavedModel", tmp_path / "broken")
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "empty"))
    ways_out = r"cannot be downloaded .*run once with network .*give its folder"
    # Reserved names: no network in the world has them.
    refused(ways_out, "https://modules.invalid/vector.tar.gz")
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    refused(re.escape('pip install "mildnet[hub]"'), "https://modules.invalid/vector.tar.gz")

"""Exports in 16 bits: what is stored, what is computed, and how near the embeddings stay."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.saved_models import make_v2
from trainer import models
from trainer.config import UserError
from trainer.serving.embedder import Embedder
from trainer.serving.export import export
from trainer.serving.precision import copy_of

SIZE = 32
NARROW = ("float16", "bfloat16")
CLOSE = {"float16": 0.999, "bfloat16": 0.99}
CONVOLUTIONS = {"trunk": "convnet_small(widths=(16, 32))", "hidden": (24,)}
ATTENTION = {"trunk": "swinv2(embed_dim=16, depths=(1, 1), heads=(2, 4), window=4)"}


def build(**parameters) -> keras.Model:
    keras.utils.set_random_seed(3)
    parameters = parameters or CONVOLUTIONS
    model = models.build(
        "mildnet", image_size=SIZE, pooling="gem", embedding_dim=16, weights="none", **parameters
    )
    # Statistics of a model in training, not the initial zeros and ones.
    for _ in range(3):
        model(photos(), training=True)
    return model


def photos() -> np.ndarray:
    """Parts of a photograph, uint8 (16, SIZE, SIZE, 3)."""
    file = Path(__file__).parents[1] / "reference" / "efficientnet_goldens.npz"
    photo = np.load(file)["photo"]
    places = [(y, x) for y in range(0, 80, 20) for x in range(0, 80, 20)]
    return np.stack([photo[y : y + SIZE, x : x + SIZE] for y, x in places])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """(model, precision -> folder)."""
    model = build()
    folder = tmp_path_factory.mktemp("exports")
    return model, {p: export(model, folder / p, precision=p) for p in ("float32", *NARROW)}


def stored(folder: Path) -> dict[str, tf.DType]:
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    types = reader.get_variable_to_dtype_map()
    return {name: types[name] for name in types if name in shapes and "OBJECT" not in name}


@pytest.mark.parametrize("precision", NARROW)
def test_embeddings_stay_near_and_of_length_1(exports, precision):
    _, folders = exports
    exact = Embedder(folders["float32"]).embed_images(photos()).astype(np.float64)
    assert np.ptp(exact, axis=0).max() > 0.02  # the pictures are told apart
    embedder = Embedder(folders[precision])
    assert embedder.precision == precision
    found = embedder.embed_images(photos())
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert (found * exact).sum(axis=1).min() >= CLOSE[precision]
    # Were nothing rounded, nothing would have changed.
    assert np.abs(found - exact).max() > 1e-5


@pytest.mark.parametrize("precision", NARROW)
def test_attention_stays_near(precision):
    model = build(**ATTENTION)
    exact, found = model(photos()).numpy(), copy_of(model, precision)(photos()).numpy()
    assert found.dtype == np.float32
    assert (found * exact).sum(axis=1).min() >= CLOSE[precision]
    assert np.abs(found - exact).max() > 1e-5


@pytest.mark.parametrize("precision", NARROW)
def test_weights_are_stored_in_the_type(exports, precision):
    model, folders = exports
    types = stored(folders[precision])
    narrow, wide = tf.as_dtype(precision), tf.float32
    assert set(types.values()) <= {narrow, wide, tf.int64, tf.string}
    kernels = [w for w in model.weights if w.path.endswith("kernel")]
    assert sum(kind == narrow for kind in types.values()) >= len(kernels)
    sizes = {
        name: (folder / "variables" / "variables.data-00000-of-00001").stat().st_size
        for name, folder in folders.items()
    }
    assert sizes[precision] < 0.6 * sizes["float32"]


@pytest.mark.parametrize("precision", NARROW)
def test_what_stays_in_float32(precision):
    copy = copy_of(build(), precision)
    layers = {layer.name: layer for layer in copy._flatten_layers(include_self=False)}
    for name in ("preprocess", "pool", "embedding"):
        assert layers[name].compute_dtype == layers[name].variable_dtype == "float32", name
    for name in ("hidden_1", "project", "block1_conv", "block2_conv"):
        assert layers[name].compute_dtype == layers[name].variable_dtype == precision, name
    norms = [x for x in layers.values() if isinstance(x, keras.layers.BatchNormalization)]
    assert norms
    assert {str(weight.dtype) for layer in norms for weight in layer.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_a_model_trained_in_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build()
        copy = copy_of(model, "float16")
    finally:
        keras.config.set_dtype_policy(before)
    assert copy.get_layer("project").variable_dtype == "float16"
    assert copy.get_layer("preprocess").compute_dtype == "float32"
    np.testing.assert_allclose((copy(photos()) * model(photos())).numpy().sum(axis=1), 1, atol=0.01)


def test_what_cannot_be_had_is_refused(tmp_path):
    model = build()
    kernel = model.get_layer("project").kernel
    kernel.assign(kernel * 0 + 70000.0)
    with pytest.raises(UserError, match="project/kernel has a weight of 7e"):
        copy_of(model, "float16")
    copy_of(model, "bfloat16")
    with pytest.raises(ValueError, match="'float64' is not one of float32, float16"):
        copy_of(model, "float64")
    foreign = models.build(
        "hub_embedding", image_size=SIZE, hub_handle=str(make_v2(tmp_path / "v"))
    )
    with pytest.raises(UserError, match="holds a SavedModel"):
        copy_of(foreign, "float16")


@pytest.mark.parametrize("precision", ["float32", *NARROW])
def test_a_sequential_model_can_be_had_too(precision):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    copied = copy_of(model, precision)(values)
    assert keras.backend.standardize_dtype(copied.dtype) == "float32"
    np.testing.assert_allclose(copied, model(values), atol=0.02)

"""What every registered model and every trunk must stand, found by name: nothing is left untested.

A new model or trunk joins by being registered. Models are built small through the parameters
they offer, with as many layers as they have, and names that then come to the same layers are taken
once (test_sizes.py builds all of MILDNet's as they are). Trunks are built as they are, under the
plainest model.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.config import components
from trainer.models.names import restart_numbers
from trainer.models.shallow import SHALLOW

from . import presets

SIZE = 32

#: Trunks that are smaller by numbers -> the trunk as a config writes it. Layer scale as published
#: begins with factors that let nothing move at first.
BY_NUMBERS = {
    "convnext": "convnext(depths=(1, 2), widths=(8, 16), layer_scale=1.0)",
}

#: Trunks that are nothing without a file -> the trunk as a config writes it.
FROM_FILES = {
    "hub": lambda: f"hub:{presets.saved_model()}",
    "kerascv": lambda: f"kerascv:{presets.cv_preset()[0]}",
    "kerashub": lambda: f"kerashub:{presets.hub_preset('vit')[0]}",
}


def small(name: str) -> dict:
    """Return the parameters of a small model of this name."""
    defaults = components("model")[name].defaults({})
    values = {
        "weights": "none",
        "trunk": "convnet_small(widths=(4, 4, 6, 8))",
        "frozen": 0,
        "skips": ("none",) if defaults.get("skips") == ("none",) else ("default",),
        # Wide enough for ReLU and dropout, twice, to leave something to each picture.
        "hidden": (32,) * len(defaults.get("hidden", ())),
        "embedding_dim": defaults.get("embedding_dim") and 8,
    }
    found = {key: value for key, value in values.items() if key in defaults}
    if "hub_handle" in components("model")[name].parameters:
        found["hub_handle"] = presets.saved_model()
    return found


def one_of_each() -> list[str]:
    """Return names of models that differ in more than numbers and the trunk."""
    found = {}
    for name, component in components("model").items():
        values = {**component.defaults({}), **small(name)}
        values["dropout"] = bool(np.any(values.get("dropout", 0)))
        found.setdefault((component.qualname, repr(sorted(values.items(), key=str))), name)
    return list(found.values())


def size_of(name: str) -> int:
    """Return an image size that the model or trunk takes."""
    if name == "trunk resnet50v2":
        # Its last maps are 1 x 1 below this size, and of an empty batch Keras takes such maps,
        # where they are added to others, for a bias of the wrong shape.
        return 64
    if name.startswith("trunk "):
        return max(SIZE, int(components("trunk")[name.removeprefix("trunk ")].tags["minimum"]))
    shallow = components("model")[name].defaults({}).get("shallow", "none")
    return max(SIZE, SHALLOW[shallow].minimum) if shallow != "none" else SIZE


MODELS = one_of_each()
TRUNKS = [f"trunk {name}" for name in components("trunk")]
EVERY = pytest.mark.parametrize("name", MODELS + TRUNKS)


def build(name: str, **parameters) -> keras.Model:
    keras.utils.set_random_seed(3)
    size = size_of(name)
    if name.startswith("trunk "):
        trunk = name.removeprefix("trunk ")
        trunk = FROM_FILES[trunk]() if trunk in FROM_FILES else BY_NUMBERS.get(trunk, trunk)
        plain = {"trunk": trunk, "embedding_dim": 8, "weights": "none"}
        return models.build("mildnet", image_size=size, **plain | parameters)
    return models.build(name, image_size=size, **small(name) | parameters)


@pytest.fixture
def pictures(name) -> np.ndarray:
    size = size_of(name)
    return np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype("float32")


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def assert_unit_length(embeddings, atol=1e-5) -> None:
    assert embeddings.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1.0, atol=atol)


@EVERY
def test_symbolic_eager_compiled_and_saved_agree(name, pictures, tmp_path):
    model = build(name)
    symbol = model(keras.Input(pictures.shape[1:]))
    assert symbol.dtype == "float32"
    assert symbol.shape == model.output_shape

    eager = model(pictures)
    assert_unit_length(eager)
    assert eager.shape == (4, model.output_shape[-1])
    assert np.ptp(np.asarray(eager), axis=0).max() > 1e-6, "all pictures embedded alike"
    np.testing.assert_array_equal(model(pictures.astype("uint8")), eager)
    np.testing.assert_allclose(model(pictures[1:2]), eager[1:2], atol=1e-5)
    assert model(pictures[:0]).shape == (0, model.output_shape[-1])

    graph = tf.function(lambda x: model(x, training=False))
    np.testing.assert_allclose(graph(pictures), eager, atol=1e-5)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(pictures), eager, atol=1e-4)

    model.save(tmp_path / "model.keras")
    restart_numbers()  # as in a process of its own
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(pictures), eager)
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]
    assert [v.path for v in loaded.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]


@EVERY
def test_one_step_moves_what_is_trained_and_nothing_else(name, pictures):
    freezes = name not in MODELS or "frozen" in components("model")[name].parameters
    freezes &= name != "trunk hub"  # all or nothing: test_hub.py
    # Those of others begin with a layer or two for the pixels.
    layers = 4 if name.removeprefix("trunk ") in FROM_FILES else 3
    model = build(name, **({"frozen": layers} if freezes else {}))
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    target = tf.math.l2_normalize(np.random.default_rng(1).normal(size=(4, 8)), axis=-1)
    before = {v.path: v.numpy() for v in model.variables}

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            embeddings = model(x, training=True)
            loss = -tf.reduce_mean(embeddings[:, :8] * tf.cast(target, tf.float32))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    gradients = step(pictures)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    moved = {v.path for v in model.variables if (v.numpy() != before[v.path]).any()}
    frozen_paths = {
        weight.path
        for layer in _trunk_layers(model)
        if not layer.trainable
        for weight in layer.variables
    }
    assert bool(frozen_paths) == freezes
    assert not moved & frozen_paths
    paths = {v.path for v in model.trainable_variables}
    # Relu units may be dead on four pictures, so a bias or a scale may stay.
    assert len(moved & paths) > 0.9 * len(paths), sorted(paths - moved)
    trunk = models.trunk_variables(model)
    assert trunk
    assert moved & trunk
    assert bool(moved - trunk) == bool(paths - trunk)


def _trunk_layers(model: keras.Model) -> list[keras.layers.Layer]:
    trunk = model.get_layer(models.TRUNK)
    return [layer for layer in trunk._flatten_layers() if not isinstance(layer, keras.Model)]


@EVERY
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(name, dtype, pictures, policy):
    exact = build(name)
    policy(dtype)
    model = build(name)
    model.set_weights(exact.get_weights())
    convolutions = [
        layer for layer in _trunk_layers(model) if isinstance(layer, keras.layers.Conv2D)
    ]
    if "hub" not in name:  # which computes as it was saved, or inside of other layers
        assert {layer.compute_dtype for layer in convolutions} == {dtype.removeprefix("mixed_")}
    assert {v.dtype for v in model.weights} == {"float32"}
    embeddings = model(pictures)
    assert_unit_length(embeddings)
    want = np.asarray(exact(pictures))
    cosine = (np.asarray(embeddings) * want).sum(-1)
    assert cosine.min() > 0.99
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(pictures, training=True)[:, 0])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)


@EVERY
def test_same_seed_same_weights(name):
    for first, second in zip(build(name).weights, build(name).weights, strict=True):
        np.testing.assert_array_equal(first, second)

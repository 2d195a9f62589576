"""A battery for every registered loss: found by name, so that what is registered is tested."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import prepared
from trainer.config import registry

COMPONENTS = registry.components("loss")
OF_LABELS = [name for name, found in COMPONENTS.items() if found.tags["takes"] == "labels"]
OF_PROXIES = [name for name in OF_LABELS if prepared.has_proxies(name)]
WITHOUT_PROXIES = [name for name in OF_LABELS if name not in OF_PROXIES]
OF_PAIRS = [name for name, found in COMPONENTS.items() if found.tags["takes"] == "pairs"]
OF_TRIPLETS = [name for name, found in COMPONENTS.items() if found.tags["takes"] == "triplets"]


def batch(name, size=24, dim=6, seed=0):
    """Labels and float32 embeddings that the loss takes."""
    random = np.random.default_rng(seed)
    if name in OF_TRIPLETS:
        x = random.normal(size=(size, 3, dim))
        return np.zeros(size, np.int64), (x / np.linalg.norm(x, axis=2, keepdims=True)).astype("f4")
    labels = np.sort(random.integers(0, size // 4, size))
    x = random.normal(size=(size, 2, dim) if name in OF_PAIRS else (size, dim))
    x = x + 0.2 * labels.reshape(-1, *[1] * (x.ndim - 1))
    return labels, (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("f4")


def step(loss, labels, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    return value, tape.gradient(value, x)


def test_there_are_all_three_kinds():
    assert "triplet_semihard" in OF_LABELS
    assert "ranker" in OF_PAIRS
    assert "hinge_loss" in OF_TRIPLETS
    assert set(OF_LABELS) | set(OF_PAIRS) | set(OF_TRIPLETS) == set(COMPONENTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_eager_graph_and_xla_agree(name):
    labels, x = batch(name)
    loss = prepared.get(name)
    labels, x = tf.constant(labels), tf.constant(x)
    value, gradient = step(loss, labels, x)
    assert value.shape == ()
    assert value.numpy() > 0
    assert np.abs(gradient).max() > 0
    for jit in (False, True):
        again = tf.function(lambda y, e: step(loss, y, e), jit_compile=jit)(labels, x)
        np.testing.assert_allclose(again[0], value, rtol=1e-5)
        np.testing.assert_allclose(again[1], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", COMPONENTS)
def test_one_graph_serves_batches_of_any_size(name):
    loss = prepared.get(name)
    labels, x = batch(name)
    signature = [
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None, *x.shape[1:]], tf.float32),
    ]
    graph = tf.function(lambda y, e: step(loss, y, e), input_signature=signature)
    for size in (24, 9, 4, 1):
        labels, x = batch(name, size=max(size, 4))
        labels, x = tf.constant(labels[:size]), tf.constant(x[:size])
        value, gradient = step(loss, labels, x)
        again = graph(labels, x)
        np.testing.assert_allclose(again[0], value, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(again[1], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_low_precision_is_computed_with_in_float32(name, dtype):
    labels, x = batch(name)
    loss = prepared.get(name)
    low = tf.cast(x, dtype)
    value, gradient = step(loss, labels, low)
    assert value.dtype == (tf.float64 if dtype == "float64" else tf.float32)
    assert gradient.dtype == low.dtype
    exact, slope = step(loss, labels, tf.cast(low, "float32"))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(
        tf.cast(gradient, "float32"), slope, rtol=0.02, atol=0.01 * np.abs(slope).max()
    )


@pytest.mark.parametrize("name", COMPONENTS)
def test_small_steps_against_the_gradient_lower_the_loss(name):
    labels, x = batch(name)
    loss = prepared.get(name)
    x = tf.constant(x)
    value, gradient = step(loss, labels, x)
    lower = loss(labels, x - 1e-3 * gradient / tf.norm(gradient))
    assert lower < value


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_collapsed_batch_has_a_finite_gradient(name):
    labels, x = batch(name)
    for same in (np.zeros_like(x), np.full_like(x, 0.25)):
        value, gradient = step(prepared.get(name), labels, tf.constant(same))
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("classes", ["one class", "all different", "one item"])
@pytest.mark.parametrize("name", WITHOUT_PROXIES)
def test_without_a_valid_pair_the_loss_is_zero_with_zero_gradients(name, classes):
    _, x = batch(name)
    labels = {"one class": np.zeros(24), "all different": np.arange(24), "one item": [0]}[classes]
    labels = np.asarray(labels, np.int64)
    x = x[: len(labels)]
    if name in ("contrastive", "contrastive_similarity"):
        # They learn from positives alone and from negatives alone: these are where they should be.
        x = np.ones_like(x) if classes == "one class" else np.eye(24, dtype="f4")[: len(x)] * 5
    value, gradient = step(prepared.get(name), labels, tf.constant(x))
    assert value.numpy() == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(x))


@pytest.mark.parametrize("size", [24, 2, 1])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_pairs_of_a_single_item_cost_nothing(name, size):
    _, x = batch(name)
    value, gradient = step(prepared.get(name), np.zeros(size, np.int64), tf.constant(x[:size]))
    assert value.numpy() == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(x[:size]))


@pytest.mark.parametrize("name", OF_PROXIES)
def test_without_an_item_of_a_known_class_the_loss_is_zero_with_zero_gradients(name):
    labels, x = batch(name)
    loss, x = prepared.get(name), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels + 1000, x)
    gradients = tape.gradient(value, [x, loss.proxies.value])
    assert value.numpy() == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize("name", OF_TRIPLETS)
def test_no_triplet_costs_nothing(name):
    value, gradient = step(prepared.get(name), None, tf.zeros((0, 3, 4)))
    assert value.numpy() == 0
    assert gradient.shape == (0, 3, 4)
    solved = tf.constant([[[30.0, 40.0], [30.0, 40.0], [-30.0, -40.0]]])
    value, gradient = step(prepared.get(name), None, solved)
    assert value.numpy() == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(solved))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", COMPONENTS)
def test_what_is_not_finite_shows(name, bad):
    labels, x = batch(name)
    for row in (0, len(x) - 1):
        broken = x.copy()
        broken[row, ..., 0] = bad
        assert not np.isfinite(prepared.get(name)(labels, broken))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
@pytest.mark.parametrize("name", [*OF_LABELS, *OF_PAIRS])
def test_labels_of_any_integer_type(name, dtype):
    labels, x = batch(name)
    loss = prepared.get(name)
    expected = loss(labels, x)
    np.testing.assert_allclose(loss(labels.astype(dtype), x), expected, rtol=1e-6)
    np.testing.assert_allclose(loss(labels[:, None].astype(dtype), x), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [*OF_LABELS, *OF_PAIRS])
def test_large_labels_do_not_merge(name):
    labels, x = batch(name)
    loss = prepared.get(name)
    expected = loss(labels, x)
    for start in (2**24, 2**53, 2**62, -(2**62)):
        moved = prepared.get(name, classes=np.arange(24) + start)
        np.testing.assert_allclose(moved(labels + start, x), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [*OF_LABELS, *OF_PAIRS])
def test_the_order_of_the_batch_does_not_matter(name):
    labels, x = batch(name)
    order = np.random.default_rng(5).permutation(len(labels))
    if name == "npairs":
        # It pairs the items of a class in their order, which stays.
        for label in labels:
            places = np.flatnonzero(labels[order] == label)
            order[places] = np.sort(order[places])
    loss = prepared.get(name)
    value, gradient = step(loss, labels, tf.constant(x))
    again, shuffled = step(loss, labels[order], tf.constant(x[order]))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    np.testing.assert_allclose(shuffled, gradient.numpy()[order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_config_makes_an_equal_loss(name):
    labels, x = batch(name)
    changed = {
        key: parameter.default * 1.5
        for key, parameter in COMPONENTS[name].parameters.items()
        if isinstance(parameter.default, float) and parameter.default
    }
    loss = prepared.get(name, **changed)
    config = loss.get_config()
    for key, value in changed.items():
        assert config[key] == value
    assert set(config) == {"name", *COMPONENTS[name].parameters}
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    if name in OF_PROXIES:
        again.set_weights(loss.get_weights())
    assert again.get_config() == config
    assert again(labels, x) == loss(labels, x)


@pytest.mark.parametrize("name", COMPONENTS)
def test_docstring_names_every_parameter_with_its_default(name):
    doc = inspect.getdoc(COMPONENTS[name].load())
    section = re.search(r"Args:\n(.*?)\n\n", doc, re.DOTALL).group(1)
    documented = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section, re.DOTALL | re.MULTILINE)
    assert [key for key, _ in documented] == list(COMPONENTS[name].parameters)
    for key, text in documented:
        default = COMPONENTS[name].parameters[key].default
        if isinstance(default, str):
            assert f'"{default}" (default)' in " ".join(text.split()), key
        else:
            assert f"default {str(default).lower()}" in " ".join(text.split()), key
    for part in ("Returns:", "Raises:", "Paper:", "scalar" if name in OF_TRIPLETS else "gradients"):
        assert part in doc


@pytest.mark.parametrize("name", COMPONENTS)
def test_wrong_shapes_and_types_are_named(name):
    labels, x = batch(name)
    loss = prepared.get(name)
    with pytest.raises(ValueError, match=r"takes embeddings .* got shape \(24, 6, 6, 6\)"):
        loss(labels, np.zeros((24, 6, 6, 6), "f4"))
    with pytest.raises(ValueError, match="takes no sample_weight"):
        loss(labels, x, sample_weight=np.ones(24))
    if name not in OF_TRIPLETS:
        with pytest.raises(ValueError, match=r"one label for each embedding; got labels \(23,\)"):
            loss(labels[1:], x)
        with pytest.raises(ValueError, match="takes integer labels; got"):
            loss(labels.astype("f4"), x)


@pytest.mark.parametrize("name", COMPONENTS)
def test_parameters_out_of_range_are_refused(name):
    for key, parameter in COMPONENTS[name].parameters.items():
        if key in ("margin", "temperature", "alpha", "beta", "epsilon", "gamma", "la", "tau", "l2"):
            for value in (-0.1, float("nan")):
                with pytest.raises(ValueError, match=f"{key}="):
                    COMPONENTS[name].load()(**{key: value})
        if parameter.type_name.count("|") and isinstance(parameter.default, str):
            with pytest.raises(ValueError, match="is not one of"):
                COMPONENTS[name].load()(**{key: "nearest"})

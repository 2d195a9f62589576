"""Every loss against its float64 loop: values, and gradients along random directions."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import loss_oracles
from trainer import losses
from trainer.config import registry

DISTANCES = ("euclidean", "squared_euclidean", "angular", "cosine")
METRICS = [{"distance": name} for name in DISTANCES]

CASES = {
    "triplet_semihard": [*METRICS, {"margin": 0.1}, {"margin": 0.0}],
    "triplet_hard": [*METRICS, {"margin": 0.1}, {"soft": True}],
    "batch_all": [*METRICS, {"margin": 0.6}],
    "multi_similarity": [
        {},
        {"epsilon": None},
        {"alpha": 1.0, "beta": 10.0, "base": 0.3, "epsilon": 0.3},
    ],
    "contrastive": [*METRICS, {"pos_margin": 0.5, "neg_margin": 1.2}],
    "contrastive_similarity": [{}, {"margin": 0.2}, {"fidelity": "released"}],
    "ntxent": [{}, {"temperature": 0.5}],
    "circle": [{}, {"margin": 0.25, "gamma": 4.0}],
    "supcon": [{}, {"temperature": 0.5}],
    "lifted_structure": [*METRICS, {"margin": 0.2}],
    "npairs": [{}, {"temperature": 0.1}, {"l2": 0.5}],
    "ranker": [
        {},
        {"margin": 0.7, "negatives": "positives"},
        {"fidelity": "released"},
        {"fidelity": "released", "margin": 0.7, "negatives": "positives"},
    ],
    "proxy_anchor": [{}, {"margin": 0.3, "alpha": 4.0}],
    "proxy_nca": [{}, {"temperature": 1.0}],
    "soft_triple": [
        {},
        {"centers_per_class": 1},
        {"centers_per_class": 2, "la": 3.0, "gamma": 0.5, "margin": 0.4, "tau": 0.0},
        {"centers_per_class": 3, "tau": 2.0},
    ],
    "arcface": [{}, {"scale": 4.0, "margin": 2.5}, {"margin": 0.0}],
    "subcenter_arcface": [{}, {"centers": 1, "scale": 5.0}, {"centers": 2, "margin": 2.5}],
    "cosface": [{}, {"scale": 4.0, "margin": 0.1}],
    "normalized_softmax": [{}, {"scale": 4.0}],
    "hinge_loss": [{}, {"margin": 0.2}, {"fidelity": "released"}],
    "hinge_twice_loss": [{}, {"margin": 0.2}, {"fidelity": "released"}],
    "hinge_new_loss": [{}, {"margin": 3.0}, {"fidelity": "released", "margin": 3.0}],
    "lossless_loss": [{}, {"n": 4.0}, {"n": 30.0}, {"n": 4.0, "beta": 9.0}],
    "angular_loss_1": [{}, {"alpha": 20.0}, {"alpha": 58.3}],
    "angular_loss_2": [
        {},
        {"alpha": 30.0, "npair_weight": 0.0},
        {"alpha": 60.0, "npair_weight": 0.5, "negatives": "own"},
    ],
    "contrastive_loss": [{}, {"margin": 2.0}, {"fidelity": "released"}],
    "triplet_margin": [*METRICS, {"swap": True}, {"swap": True, "distance": "cosine"}],
}

LABELS = {
    "balanced": np.arange(12) // 3,
    "unbalanced with singletons": np.array([5, 5, 5, 5, 5, 1, 1, 2, 3, 1, 4, 4]),
    "two classes": np.arange(10) % 2,
    "one class": np.zeros(6, np.int64),
    "all different": np.arange(7),
    "large class": np.array([0] * 19 + [1, 1, 2]),
}


def examples(name, parameters):
    """Yield (labels, embeddings) that `name` takes, normalised and not."""
    random = np.random.default_rng(7)
    takes = registry.get("loss", name).tags["takes"]
    if takes == "triplets":
        for scale in (0.3, 1.0):
            yield None, scale * random.normal(size=(9, 3, 5))
        # Wide triplets: each negative lies between its anchor and its positive.
        wide = random.normal(size=(6, 3, 5))
        wide[:, 2] = 0.1 * wide[:, 2] + wide[:, :2].mean(axis=1)
        yield None, wide
        yield None, wide / np.linalg.norm(wide, axis=2, keepdims=True)
        return
    shape = (2, 5) if takes == "pairs" else (5,)
    for labels in LABELS.values():
        x = random.normal(size=(len(labels), *shape))
        x = x + 0.3 * labels.reshape(-1, *[1] * len(shape))
        yield labels, x
        yield labels, x / np.linalg.norm(x, axis=-1, keepdims=True)


def value_and_gradient(loss, labels, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    return value.numpy(), tape.gradient(value, x).numpy()


@pytest.mark.parametrize(
    ("name", "parameters"), [(name, case) for name, cases in CASES.items() for case in cases]
)
def test_value_and_gradient_equal_the_loop(name, parameters):
    loss = losses.get(name, **parameters)
    oracle = functools.partial(getattr(loss_oracles, name), **parameters)
    if hasattr(loss, "prepare"):
        # Not every label has a proxy, and not every proxy an item.
        classes, counts = (0, 1, 3, 4, 5, 17), (4, 1, 9, 2, 300, 30)
        loss.prepare(np.repeat(classes, counts), 5)
        oracle = functools.partial(oracle, classes=classes, proxies=loss.get_weights()[0])
        if "counts" in inspect.signature(oracle).parameters:
            oracle = functools.partial(oracle, counts=counts)
    has_held = "held" in inspect.signature(oracle).parameters
    random = np.random.default_rng(3)
    values = []
    for labels, x in examples(name, parameters):
        value, gradient = value_and_gradient(loss, labels, x)
        expected = oracle(labels, x)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
        # The step is short, for mining makes the loss jump where another item is chosen.
        direction = random.normal(size=x.shape)
        held = functools.partial(oracle, held=x) if has_held else oracle
        slope = loss_oracles.slope(lambda at, y=labels, f=held: f(y, at), x, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-5, atol=1e-6)
        single = loss(labels, x.astype(np.float32)).numpy()
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, expected, rtol=2e-5, atol=2e-6)
        values.append(expected)
    assert max(values) > 0.01, "the examples do not exercise the loss"


def test_every_registered_loss_has_cases():
    assert set(CASES) == set(registry.components("loss"))


@pytest.mark.parametrize("name", ["triplet_semihard", "batch_all"])
def test_ties_count_as_the_formula_says(name):
    """On a grid of integers all squared distances are exact, and many are equal."""
    random = np.random.default_rng(0)
    for classes in (2, 5, 30):
        x = random.integers(0, 3, size=(60, 4)).astype(np.float32)
        labels = random.integers(0, classes, size=60)
        parameters = {"margin": 1.0, "distance": "squared_euclidean"}
        value = losses.get(name, **parameters)(labels, x).numpy()
        expected = getattr(loss_oracles, name)(labels, x, **parameters)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_the_gradient_passes_through_keras_training():
    """A model compiled with a loss of ours pulls classes together."""
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(6), 6)
    x = random.normal(size=(36, 8)) + 0.5 * labels[:, None]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    loss = losses.get("triplet_semihard")
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=loss, jit_compile=False)
    history = model.fit(x, labels, batch_size=36, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]

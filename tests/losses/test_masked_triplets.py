"""Losses over triplets of which some do not count: as if these were not there."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import losses
from trainer.config import registry

OF_TRIPLETS = [
    (name, parameters)
    for name, found in registry.components("loss").items()
    if found.tags["takes"] == "triplets"
    for parameters in ({}, {"fidelity": "released"}, {"negatives": "own"}, {"swap": True})
    if set(parameters) <= set(found.parameters)
]


def triplets():
    x = np.random.default_rng(3).normal(size=(9, 3, 5))
    x[:, 2] = 0.4 * x[:, 2] + x[:, :2].mean(axis=1)  # so near that every loss has work to do
    x[[2, 7]] = 0.5  # what a miner leaves where there is no triplet: an item with itself
    return (x / np.linalg.norm(x, axis=2, keepdims=True)).astype("f4")


def measured(loss, x, valid):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss.of_valid(x, tf.constant(valid))
    return value.numpy(), tape.gradient(value, x).numpy()


@pytest.mark.parametrize(("name", "parameters"), OF_TRIPLETS)
def test_what_does_not_count_is_as_if_it_were_not_there(name, parameters):
    loss, x = losses.get(name, **parameters), triplets()
    valid = np.array([1, 1, 0, 0, 1, 0, 1, 0, 1], bool)
    value, gradient = measured(loss, x, valid)
    expected, slope = measured(loss, x[valid], np.ones(5, bool))
    assert value > 0
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[valid], slope, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(gradient[~valid], np.zeros((4, 3, 5)))
    assert loss(None, x[valid]) == expected
    assert float(loss(None, x)) != pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(("name", "parameters"), OF_TRIPLETS)
def test_where_none_counts_the_loss_is_zero_with_zero_gradients(name, parameters):
    x = triplets()
    value, gradient = measured(losses.get(name, **parameters), x, np.zeros(9, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(x))

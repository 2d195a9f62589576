import numpy as np
import pytest
import tensorflow as tf

from tests.losses import loss_oracles
from trainer.losses import distances


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_all_pairs_and_rows_equal_the_loop(name):
    x = np.random.default_rng(0).normal(size=(7, 4))
    measure = distances.get(name)
    expected = [[loss_oracles.distance(name, a, b) for b in x] for a in x]
    np.testing.assert_allclose(measure.pairwise(x), expected, atol=1e-7)
    between = measure.between(np.repeat(x, 7, axis=0), np.tile(x, (7, 1)))
    np.testing.assert_allclose(np.reshape(between, (7, 7)), expected, atol=1e-7)


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_away_grows_as_embeddings_part(name):
    measure = distances.get(name)
    start, near, far = np.array([[1.0, 0.0]]), np.array([[0.9, 0.2]]), np.array([[-0.5, 1.0]])
    assert measure.away(measure.between(start, near)) < measure.away(measure.between(start, far))


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_gradient_of_all_pairs_equals_that_of_rows(name):
    """The gradients of whole matrices are written by hand; those of rows are not."""
    random = np.random.default_rng(1)
    x, pull = tf.constant(random.normal(size=(6, 3))), random.normal(size=(6, 6))
    measure = distances.get(name)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(measure.pairwise(x) * pull)
    matrix = tape.gradient(total, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        left, right = tf.repeat(x, 6, axis=0), tf.tile(x, (6, 1))
        off_diagonal = tf.reshape(pull * (1 - np.eye(6)), [-1])
        total = tf.reduce_sum(measure.between(left, right) * off_diagonal)
    np.testing.assert_allclose(matrix, tape.gradient(total, x), atol=1e-9)


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_equal_rows_and_rows_of_zeros_have_finite_gradients(name):
    x = tf.constant([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    measure = distances.get(name)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        everything = measure.pairwise(x)
        rows = measure.between(x, tf.roll(x, 1, axis=0))
    assert np.all(np.isfinite(everything))
    assert np.all(np.isfinite(tape.gradient(everything, x)))
    assert np.all(np.isfinite(tape.gradient(rows, x)))


def test_an_item_is_at_distance_zero_from_itself():
    x = np.random.default_rng(2).normal(size=(200, 64)).astype("f4") * 100
    for name in ("euclidean", "squared_euclidean"):
        found = np.asarray(distances.get(name).pairwise(x))
        assert np.all(np.diag(found) == 0)
        assert np.all(found >= 0)


def test_unknown_distance_lists_the_known():
    with pytest.raises(ValueError, match="distance 'l1' is not one of euclidean, squared"):
        distances.get("l1")

import numpy as np
import pytest
import tensorflow as tf

from tests.losses import loss_oracles
from trainer import losses
from trainer.config import UserError


def at(*degrees):
    """Embeddings of length 1, one for each angle."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def value_and_gradient(loss, labels, pairs):
    pairs = tf.constant(pairs, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(pairs)
        value = loss(labels, pairs)
    return value.numpy(), tape.gradient(value, pairs).numpy()


#: Queries at 0 and 90 degrees, their positives at 60 and 120.
TWO = np.stack([at(0, 60), at(90, 120)])


def test_by_hand():
    # Query 1: near 0.5; the other's query 0, positive -0.5: 0 - 0.5 + 0.1 < 0.
    # Query 2: near cos 30; the other's query 0, positive cos 30: the margin is left.
    value, gradient = value_and_gradient(losses.get("ranker"), np.array([5, 6]), TWO)
    assert value == pytest.approx(0.1 / 2)
    expected = np.zeros((2, 2, 2))
    query, positive, negative = TWO[1, 0], TWO[1, 1], TWO[0, 1]
    expected[1, 0], expected[1, 1], expected[0, 1] = negative - positive, -query, query
    np.testing.assert_allclose(gradient, expected / 2, atol=1e-12)


def test_a_margin_of_one_counts_both_and_positives_can_stand_alone():
    wide = losses.get("ranker", margin=1.0)
    assert float(wide([5, 6], TWO)) == pytest.approx((0.5 + 1.0) / 2)
    alone = losses.get("ranker", margin=1.0, negatives="positives")
    # Without the other query at 90 degrees, query 1 has the positive at 120 alone: -0.5.
    assert float(alone([5, 6], TWO)) == pytest.approx((0.0 + 1.0) / 2)
    assert float(alone([5, 6], TWO[[1, 0]])) == pytest.approx((0.0 + 1.0) / 2)


def test_released_takes_a_pair_of_the_same_item_where_all_negatives_are_below_zero():
    # Items at right angles and beyond: near 0.5, hardest negative -0.5.
    pairs = np.stack([at(0, 60), at(180, 240)])
    labels = np.array([1, 2])
    corrected, slope = value_and_gradient(losses.get("ranker", margin=0.7), labels, pairs)
    released, slope_released = value_and_gradient(
        losses.get("ranker", margin=0.7, fidelity="released"), labels, pairs
    )
    assert (corrected, released) == (0.0, pytest.approx(0.7 - 0.5))
    assert not slope.any()
    # It pulls its own positive closer, and nothing is pushed away.
    np.testing.assert_allclose(slope_released, -pairs[:, ::-1] / 2, atol=1e-12)


def test_pairs_of_the_same_item_are_no_negatives():
    twice = np.stack([at(0, 60), at(1, 59), at(90, 120)])
    labels = np.array([3, 3, 8])
    for parameters in ({}, {"negatives": "positives"}, {"fidelity": "released"}):
        loss = losses.get("ranker", margin=0.3, **parameters)
        expected = loss_oracles.ranker(labels, twice, margin=0.3, **parameters)
        assert float(loss(labels, twice)) == pytest.approx(expected)
    # Taken for other items, they would be hard ones.
    loss = losses.get("ranker")
    assert float(loss(labels, twice)) < float(loss([1, 2, 3], twice))


def test_wrong_values_are_refused():
    with pytest.raises(UserError, match=r"negatives.*queries.*both"):
        losses.get("ranker", negatives="queries")
    with pytest.raises(ValueError, match=r"takes embeddings \(P, 2, D\): query, positive; got"):
        losses.get("ranker")([1, 2], np.zeros((2, 3, 4)))

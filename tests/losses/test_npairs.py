"""The N-pair loss worked by hand, and which items it pairs."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer import losses


def test_two_pairs():
    x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 3.0]])
    # Anchors 0 and 2, positives 1 and 3. Anchor 0: own 2, other 1. Anchor 2: own 3, other 0.
    expected = (math.log1p(math.exp(1 - 2)) + math.log1p(math.exp(0 - 3))) / 2
    assert float(losses.get("npairs")([0, 0, 1, 1], x)) == pytest.approx(expected)
    lengths = (1 + 4 + 1 + 10) / 4
    with_lengths = float(losses.get("npairs", l2=0.5)([0, 0, 1, 1], x))
    assert with_lengths == pytest.approx(expected + 0.5 * lengths)
    sharper = (math.log1p(math.exp(-1 / 0.5)) + math.log1p(math.exp(-3 / 0.5))) / 2
    found = float(losses.get("npairs", temperature=0.5)([0, 0, 1, 1], x))
    assert found == pytest.approx(sharper)


def test_items_are_paired_in_the_order_of_the_batch_and_the_odd_one_is_left_out():
    labels = [4, 9, 4, 4, 9, 9, 4, 2, 9, 9]
    # Pairs: (0, 2), (3, 6) of 4; (1, 4), (5, 8) of 9. Left out: the last 9, and the only 2.
    x = tf.constant(np.random.default_rng(0).normal(size=(10, 4)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = losses.get("npairs", l2=0.1)(labels, x)
    moved = np.flatnonzero(np.abs(tape.gradient(value, x)).max(axis=1))
    np.testing.assert_array_equal(moved, [0, 1, 2, 3, 4, 5, 6, 8])
    rows = [0, 2, 3, 6, 1, 4, 5, 8]
    alone = losses.get("npairs", l2=0.1)([4] * 4 + [9] * 4, tf.gather(x, rows))
    assert float(alone) == pytest.approx(float(value))

import math

import numpy as np
import psutil
import pytest
import tensorflow as tf

from trainer import losses
from trainer.losses.pairs import at, pair_masks
from trainer.losses.triplet_semihard import by_passes, by_sorting


def test_worked_by_hand():
    """On a line: class 0 at 0 and 3, class 1 at 1, 4 and 10.

    Anchor 0, positive at distance 3: negatives at 1, 4, 10, so 4: 3 - 4 + 2 = 1.
    Anchor 3, positive at 3: negatives at 2, 1, 7, so 7: 3 - 7 + 2 < 0.
    Anchor 1, positives at 3 and 9: negatives at 1 and 2, none beyond, so 2: 3 and 9.
    Anchor 4, positives at 3 and 6: negatives at 4 and 1: 4 for the first, 4 for the second: 1, 4.
    Anchor 10, positives at 9 and 6: negatives at 10 and 7: 10 and 7: 1, 1.
    """
    x = np.array([[0.0], [3.0], [1.0], [4.0], [10.0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    loss = losses.get("triplet_semihard", margin=2.0)
    assert math.isclose(loss(labels, x), (1 + 0 + 3 + 9 + 1 + 4 + 1 + 1) / 8, rel_tol=1e-6)


def test_a_negative_as_far_as_the_positive_is_not_beyond_it():
    x = np.array([[0.0], [2.0], [-2.0], [5.0]], np.float32)
    labels = np.array([0, 0, 1, 2])
    # Anchor 0: positive and negative at 2, the next at 5. Anchor 2: 2 -> 3 (of 4, 3).
    loss = losses.get("triplet_semihard", margin=4.0)
    assert math.isclose(loss(labels, x), ((2 - 5 + 4) + (2 - 3 + 4)) / 2, rel_tol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_both_ways_of_mining_choose_alike(classes):
    random = np.random.default_rng(classes)
    labels = np.append(random.integers(0, classes, 49), 99)
    for values in (random.normal(size=(50, 50)), random.integers(0, 6, (50, 50))):
        away = tf.constant(values.astype("f4"))
        _, negative = pair_masks(labels)
        scan, search = by_passes(away, negative), by_sorting(away, negative)
        together = search(away)
        for column in range(50):
            near = away[:, column : column + 1]
            one, other = at(away, scan(near)), at(away, together)[:, column : column + 1]
            np.testing.assert_array_equal(one, other)


def test_many_positives_take_the_sorted_way_in_a_compiled_graph():
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(90, 6)).astype("f4"))
    loss = losses.get("triplet_semihard")
    for classes in (2, 9, 45):
        labels = tf.constant(np.arange(90) % classes)
        expected = loss(labels, x)
        np.testing.assert_allclose(tf.function(loss)(labels, x), expected, rtol=1e-6)


def test_nothing_of_size_b_cubed():
    """1200 items of 2 classes: a float for every triplet would be 1.7 GB."""
    x = tf.random.stateless_normal((1200, 8), (0, 1))
    labels = tf.range(1200) % 2
    before = psutil.Process().memory_info().rss
    for name in ("triplet_semihard", "batch_all", "lifted_structure", "npairs"):
        value = tf.function(losses.get(name))(labels, x)
        assert value > 0
    assert psutil.Process().memory_info().rss - before < 400e6

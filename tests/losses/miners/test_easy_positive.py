"""Choices against loops in float64, and the draws of negatives."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests.losses import loss_oracles as oracles
from tests.reference.golden_batches import labelled
from trainer import losses


def expected(labels, x, negatives, distance):
    away = oracles.table(distance, x)
    found = []
    for a in range(len(labels)):
        others, near = oracles.negatives(labels, a), oracles.positives(labels, a)
        if not others or not near:
            continue
        p = min(near, key=lambda i: away[a][i])
        if negatives == "semihard":
            others = [n for n in others if away[a][n] > away[a][p]]
        if others:
            choose = max if negatives == "easy" else min
            found.append((a, p, choose(others, key=lambda i: away[a][i])))
    return found


@pytest.mark.parametrize("negatives", ["semihard", "hard", "easy"])
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "angular", "cosine"])
def test_choices_by_loops(negatives, distance):
    miner = losses.get_miner("easy_positive", negatives=negatives, distance=distance)
    for case, (labels, x) in labelled().items():
        if case == "twins":  # which of two equal rows is chosen is arbitrary
            continue
        *places, valid = (np.array(part) for part in miner(labels, x))
        found = np.stack(places, axis=1)[valid]
        assert [tuple(row) for row in found] == expected(labels, x, negatives, distance), case


def test_by_hand():
    """On a line: class 0 at 0, 2 and 9, class 1 at 1 and 10.

    At 0: positive at 2, closest negative at 1, and beyond the positive at 10. At 9: positive at 2,
    at a distance of 7; closest negative at 10, and beyond the positive at 1. At 10: positive at 1,
    at a distance of 9, beyond which only 0 lies.
    """
    x = np.array([[0.0], [2.0], [9.0], [1.0], [10.0]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    expected = {
        "semihard": [(0, 1, 4), (1, 0, 4), (2, 1, 3), (4, 3, 0)],
        "hard": [(0, 1, 3), (1, 0, 3), (2, 1, 4), (3, 4, 0), (4, 3, 2)],
        "easy": [(0, 1, 4), (1, 0, 4), (2, 1, 3), (3, 4, 2), (4, 3, 0)],
    }
    for negatives, triplets in expected.items():
        *places, valid = losses.get_miner("easy_positive", negatives=negatives)(labels, x)
        found = np.stack(places, axis=1)[np.array(valid)]
        # For the item at 1, the negatives at 0 and 2 are as close as each other.
        assert [tuple(row) for row in found] == triplets


def test_random_negatives_are_all_alike_likely():
    random = np.random.default_rng(0)
    labels = np.arange(12) % 3
    x = random.normal(size=(12, 4)).astype("f4")
    miner = losses.get_miner("easy_positive", negatives="random")
    mine = tf.function(lambda: miner(labels, x), autograph=False)
    count = np.zeros((12, 12))
    for _ in range(300):
        anchor, _, negative, valid = (np.array(part) for part in mine())
        assert valid.all()
        np.add.at(count, (anchor, negative), 1)
    other = labels[:, None] != labels[None, :]
    assert (count[~other] == 0).all()
    assert scipy.stats.chisquare(count[other]).pvalue > 1e-4

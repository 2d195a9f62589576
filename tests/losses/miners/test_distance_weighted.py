"""Weights against loops in float64, and draws against the weights."""

import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from trainer import losses


def spread(size=12, dim=5, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(size) % 4
    x = random.normal(size=(size, dim)) + 1.0
    return labels, x.astype("f4")


def probabilities(labels, x, cutoff, far):
    """P(n | a) by the published formula, one pair at a time."""
    x = np.asarray(x, np.float64)
    dim, table = x.shape[1], []
    for a, anchor in enumerate(x):
        row = []
        for n, other in enumerate(x):
            away = anchor / np.linalg.norm(anchor) - other / np.linalg.norm(other)
            d = max(math.sqrt(away @ away), cutoff)
            q = d ** (dim - 2) * (1 - d * d / 4) ** ((dim - 3) / 2)
            row.append(1 / q if labels[a] != labels[n] and d < far else 0.0)
        table.append(row)
    table = np.array(table)
    return table / np.maximum(table.sum(axis=1, keepdims=True), 1e-300)


@pytest.mark.parametrize(("cutoff", "far"), [(0.5, 1.4), (0.2, 1.0), (1.0, 1.9)])
@pytest.mark.parametrize("dim", [2, 3, 5, 16])
def test_weights_follow_the_published_formula(dim, cutoff, far):
    labels, x = spread(dim=dim)
    miner = losses.get_miner("distance_weighted", cutoff=cutoff, nonzero_loss_cutoff=far)
    weights = np.array(miner.weights(labels, x))
    total = weights.sum(axis=1, keepdims=True)
    expected = probabilities(labels, x, cutoff, far)
    assert (expected > 0).sum() > 20
    np.testing.assert_array_equal(weights > 0, expected > 0)
    np.testing.assert_allclose(weights / np.maximum(total, 1e-9), expected, rtol=2e-3, atol=1e-6)


def test_draws_come_as_often_as_the_weights_say():
    labels, x = spread()
    miner = losses.get_miner("distance_weighted", 3, positives=2)
    mine = tf.function(lambda: miner(labels, x), autograph=False)
    count, rounds = np.zeros((12, 12)), 300
    for _ in range(rounds):
        anchor, _, negative, valid = (np.array(part) for part in mine())
        assert valid.all()
        np.add.at(count, (anchor, negative), 1)
    expected = probabilities(labels, x, 0.5, 1.4) * 2 * rounds
    assert (count[expected == 0] == 0).all()
    for seen, hoped in zip(count, expected, strict=True):
        often = hoped > 5  # the others together, as the test wants no small numbers
        assert often.sum() > 2
        seen, hoped = ([*each[often], each[~often].sum() + 1e-9] for each in (seen, hoped))
        assert scipy.stats.chisquare(seen, hoped).pvalue > 1e-4


def test_in_many_dimensions_nothing_overflows_and_no_anchor_is_lost():
    """In 1024 dimensions q(0.5) and q(1.4) are 10^240 apart, and float32 ends at 10^38."""
    x = np.random.default_rng(1).normal(size=(16, 1024))
    x[:4] += 3 * x[0]  # some are close to each other, most are not
    labels = np.arange(16) // 2
    miner = losses.get_miner("distance_weighted", nonzero_loss_cutoff=1.9)
    weights = np.array(miner.weights(labels, x.astype("f4")))
    assert np.isfinite(weights).all()
    np.testing.assert_array_equal(weights.max(axis=1), np.ones(16))
    assert np.array(miner(labels, x.astype("f4"))[3]).sum() == 16


def test_an_anchor_far_from_all_negatives_gives_no_triplet():
    x = np.array([[1, 0], [0.9, 0.1], [-1, 0.1], [-1, 0]], "f4")
    anchor, _, _, valid = losses.get_miner("distance_weighted")(np.array([0, 0, 1, 1]), x)
    assert not np.array(valid).any()
    assert np.array(anchor).tolist() == [i for i in range(4) for _ in range(3)]


def test_opposite_and_equal_embeddings_are_no_trouble():
    x = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0], [1, 0, 0, 0]], "f4")
    labels = np.array([0, 0, 1, 1])
    weights = losses.get_miner("distance_weighted", nonzero_loss_cutoff=3.0).weights(labels, x)
    assert np.isfinite(weights).all()
    assert np.array(weights)[:2, 2:].min() > 0

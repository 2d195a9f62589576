"""The lossless triplet loss worked by hand, and what its docstring says of unit length."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.losses import loss_oracles
from trainer import losses


def value_and_gradient(loss, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(None, x)
    return float(value), tape.gradient(value, x).numpy()


def test_worked_by_hand():
    """Squared distances 1 and 0.5 of at most 2: -log(1 - 1 / 2) - log(1 - 1.5 / 2) = log 8."""
    x = np.array([[[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]], np.float32)
    assert float(losses.get("lossless_loss")(None, x)) == pytest.approx(math.log(8))
    # Of at most 1, divided by 2: -log(1 - 1 / 2) - log(1 - (1 - 0.5) / 2).
    loss = losses.get("lossless_loss", n=1.0, beta=2.0)
    assert float(loss(None, x)) == pytest.approx(math.log(2) - math.log(0.75))


def test_embeddings_of_unit_length_give_a_cross_entropy_of_cosines():
    """Anchor at 0 degrees, positive at 60 (cosine 0.5), negative at 120 (cosine -0.5)."""
    angles = np.radians([[0, 60, 120], [0, 90, 180]])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    expected = np.mean([-2 * math.log(0.75), -math.log(0.5) - math.log(1)])
    assert float(losses.get("lossless_loss", n=4.0)(None, x)) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "pull"), [(None, 1 / 512), (4.0, 1 / 2)])
def test_the_embedding_size_as_n_hardly_pulls_unit_positives(n, pull):
    """Orthogonal vectors: the slope over d2(a, p) = 2, by way of the gradient of p = 2 (p - a)."""
    x = np.eye(512)[None, :3]
    _, gradient = value_and_gradient(losses.get("lossless_loss", n=n), x)
    slope = gradient[0, 1] @ (x[0, 1] - x[0, 0]) / 4
    assert slope == pytest.approx(pull, rel=0.01)
    away = gradient[0, 2] @ (x[0, 2] - x[0, 0]) / 4
    assert away == pytest.approx(-1 / 2, rel=0.01)


def test_distances_beyond_the_largest_count_as_the_largest():
    loss = losses.get("lossless_loss", n=4.0)
    far = np.array([[[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]])
    value, gradient = value_and_gradient(loss, far)
    assert value == pytest.approx(-math.log(1e-8), abs=1e-6)
    np.testing.assert_array_equal(gradient, np.zeros_like(far))
    near = np.array([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    value, gradient = value_and_gradient(loss, near)
    assert value == pytest.approx(-math.log(1e-8), abs=1e-6)
    assert np.all(np.isfinite(gradient))


def test_close_negatives_are_told_apart_in_single_precision():
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(4, 1, 2048)), 3, axis=1) / 45
    x[:, 2] += 1e-4 * random.normal(size=(4, 2048))
    single = x.astype(np.float32)
    expected = loss_oracles.lossless_loss(None, single.astype(np.float64))
    assert float(losses.get("lossless_loss")(None, single)) == pytest.approx(expected, rel=1e-5)


def test_beta_below_n_is_refused():
    with pytest.raises(ValueError, match=r"beta=3.0 must be at least 4"):
        losses.get("lossless_loss", n=4.0, beta=3.0)
    with pytest.raises(ValueError, match=r"beta=0.0 must be above 0"):
        losses.get("lossless_loss", beta=0.0)
    with pytest.raises(ValueError, match=r"n=0.0 must be above 0"):
        losses.get("lossless_loss", n=0.0)
    with pytest.raises(ValueError, match=r"beta=3.0 must be at least 5"):
        losses.get("lossless_loss", beta=3.0)(None, np.zeros((1, 3, 5)))

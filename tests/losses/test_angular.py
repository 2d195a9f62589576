"""The angular losses worked by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer import losses

#: Anchor and positive at -1 and 1; the negative at height 1 over their middle: an angle of 45.
LEVEL = np.array([[[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])


def test_the_hinge_is_zero_up_to_the_angle():
    def loss(alpha):
        return float(losses.get("angular_loss_1", alpha=alpha)(None, LEVEL))

    assert loss(45.1) == 0
    assert loss(45.0) == pytest.approx(0, abs=1e-12)
    assert loss(44.9) > 0
    # 4 - 4 tan(30)^2 = 4 - 4 / 3
    assert loss(30.0) == pytest.approx(8 / 3)


def test_the_angle_is_in_degrees():
    """A tangent of 45 radians, as in the released code, is that of 58.31 degrees."""
    low = LEVEL * [1, 0.1]
    value = float(losses.get("angular_loss_1", alpha=58.31)(None, low))
    assert value == pytest.approx(4 - 4 * math.tan(45) ** 2 * 0.01, rel=1e-4)


def test_the_hinge_grows_with_the_square_of_the_scale():
    loss = losses.get("angular_loss_1", alpha=30.0)
    assert float(loss(None, 3 * LEVEL)) == pytest.approx(9 * float(loss(None, LEVEL)))


#: All products of an anchor or positive with a negative are 0, those of anchor and positive 1.
SQUARE = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]])


def test_the_smooth_form_takes_its_own_negative_and_the_other_positives():
    def loss(**parameters):
        return float(losses.get("angular_loss_2", **parameters)(None, SQUARE))

    angular, npair = math.log1p(2 * math.exp(-4)), math.log1p(2 * math.exp(-1))
    assert loss() == pytest.approx(angular + 2 * npair)
    assert loss(npair_weight=0.0) == pytest.approx(angular)
    assert loss(npair_weight=0.5) == pytest.approx(angular + npair / 2)
    own = math.log1p(math.exp(-4)) + 2 * math.log1p(math.exp(-1))
    assert loss(negatives="own") == pytest.approx(own)
    # tan(60)^2 = 3: 2 (1 + 3) a.p
    assert loss(npair_weight=0.0, alpha=60.0) == pytest.approx(math.log1p(2 * math.exp(-8)))


@pytest.mark.parametrize(("negatives", "moves"), [("batch", True), ("own", False)])
def test_triplets_meet_each_other_only_in_a_batch(negatives, moves):
    loss = losses.get("angular_loss_2", negatives=negatives)
    alone = np.mean([float(loss(None, SQUARE[:1])), float(loss(None, SQUARE[1:]))])
    assert (float(loss(None, SQUARE)) > alone + 0.01) == moves
    # The negative of one triplet is none of the others'.
    x = tf.constant(SQUARE)
    with tf.GradientTape() as tape:
        tape.watch(x)
        first = 2 * loss(None, x) - loss(None, x[1:])
    gradient = tape.gradient(first, x).numpy()
    assert np.abs(gradient[0, 2]).max() > 0
    if not moves:
        np.testing.assert_allclose(gradient[1], 0, atol=1e-12)


def test_long_embeddings_do_not_overflow():
    x = tf.constant(100 * SQUARE[:, [0, 2, 1]].astype("f4"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = losses.get("angular_loss_2")(None, x)
    # (a + p).n = a.n = 100^2 and a.p = 0: of the exponents, 4 and 1 times that.
    assert float(value) == pytest.approx(4e4 + 2e4)
    assert np.all(np.isfinite(tape.gradient(value, x)))


@pytest.mark.parametrize("name", ["angular_loss_1", "angular_loss_2"])
@pytest.mark.parametrize("alpha", [0.0, 90.0, 135.0])
def test_an_angle_that_is_not_acute_is_refused(name, alpha):
    with pytest.raises(ValueError, match=r"alpha=.* must be above 0 and below 90 degrees"):
        losses.get(name, alpha=alpha)

"""MILDNet's losses worked by hand, as published and as released."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import losses

# Distances anchor-positive and anchor-negative: (3, 4) -> 5 and 0; 0.6 and 0.8.
FIRST = [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]
SECOND = [[0.1, 0.1], [0.7, 0.1], [0.1, 0.9]]
LOW = 1e-7


def test_corrected_hinge_is_a_hinge_for_each_triplet():
    x = np.array([SECOND, [[0, 0], [0, 0], [3, 4]]], np.float32)
    # 1 + 0.6 - 0.8 = 0.8, and max(0, 1 + 0 - 5) = 0.
    assert float(losses.get("hinge_loss")(None, x)) == pytest.approx(0.4)


def test_released_hinge_is_applied_to_the_mean_of_the_batch():
    far = [[0.0, 0.0], [0.0, 0.0], [0.9, 0.9]]
    x = np.array([SECOND, far], np.float32)
    second = 1 - np.sqrt(2) * 0.9
    released = losses.get("hinge_loss", fidelity="released")
    assert second < 0
    assert float(released(None, x)) == pytest.approx((0.8 + second) / 2, abs=1e-6)
    assert float(losses.get("hinge_loss")(None, x)) == pytest.approx(0.4, abs=1e-6)
    assert released(None, np.array([far], np.float32)) == 0


def test_hinge_twice_is_twice_the_hinge():
    x = np.array([SECOND, [[0, 0], [0, 0], [3, 4]]], np.float32)
    assert float(losses.get("hinge_twice_loss")(None, x)) == pytest.approx(0.8)
    assert float(losses.get("hinge_twice_loss", margin=0.3)(None, x)) == pytest.approx(0.1)


def test_hinge_new_counts_the_distance_from_positive_to_negative():
    # Distances 0.6, 0.8 and 1: 2 (1 + 1.2 - 0.8 - 1) = 0.8; the second triplet is solved.
    x = np.array([SECOND, [[0, 0], [0, 0], [3, 4]]], np.float32)
    assert float(losses.get("hinge_new_loss")(None, x)) == pytest.approx(0.4)
    assert float(losses.get("hinge_new_loss", margin=2.0)(None, x)) == pytest.approx(1.4)
    swapped = np.array([[SECOND[1], SECOND[0], SECOND[2]]], np.float32)
    assert float(losses.get("hinge_new_loss")(None, swapped)) == pytest.approx(0.8)


@pytest.mark.parametrize(("name", "near"), [("hinge_twice_loss", 1), ("hinge_new_loss", 2)])
def test_the_other_released_hinges_are_applied_to_the_mean_too(name, near):
    """Their scale stays: twice the mean, of a batch in which one solved triplet makes up."""
    far = [[0.0, 0.0], [0.0, 0.0], [0.9, 0.9]]
    x = np.array([SECOND] * 4 + [far], np.float32)
    second = 1.6 if name == "hinge_twice_loss" else 0.8
    solved = 2 * (1 - near * np.sqrt(2) * 0.9)
    released = losses.get(name, fidelity="released")
    assert float(released(None, x)) == pytest.approx((4 * second + solved) / 5, abs=1e-5)
    assert float(losses.get(name)(None, x)) == pytest.approx(4 * second / 5, abs=1e-5)
    assert released(None, np.array([far], np.float32)) == 0


@pytest.mark.parametrize(
    "name", ["hinge_loss", "hinge_twice_loss", "hinge_new_loss", "contrastive_loss"]
)
def test_released_clips_embeddings_and_their_gradients(name):
    x = tf.constant([[[-2.0, 0.5], [0.5, -7.0], [3.0, 0.25]]])
    clipped = tf.constant([[[LOW, 0.5], [0.5, LOW], [1 - LOW, 0.25]]])
    loss = losses.get(name, fidelity="released", margin=2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(None, x)
    corrected = losses.get(name, margin=2.0)
    np.testing.assert_allclose(value, corrected(None, clipped), rtol=1e-6)
    assert float(value) != pytest.approx(float(corrected(None, x)), rel=0.1)
    gradient = tape.gradient(value, x).numpy()[0]
    inside = [[False, True], [True, False], [False, True]]
    np.testing.assert_array_equal(gradient != 0, inside)


def test_contrastive_loss_by_hand():
    x = np.array([FIRST, SECOND], np.float32)
    # 25 and (1 - 0)^2; 0.36 and (1 - 0.8)^2: the mean of four.
    assert float(losses.get("contrastive_loss")(None, x)) == pytest.approx(
        (25 + 1 + 0.36 + 0.04) / 4
    )
    assert float(losses.get("contrastive_loss", margin=0.5)(None, x)) == pytest.approx(
        (25 + 0.25 + 0.36 + 0) / 4
    )


def test_swap_holds_the_negative_against_the_closer_of_the_two():
    x = np.array([[[0.0, 0.0], [1.0, 0.0], [1.5, 0.0]]], np.float32)
    assert float(losses.get("triplet_margin")(None, x)) == pytest.approx(1 - 1.5 + 1)
    assert float(losses.get("triplet_margin", swap=True)(None, x)) == pytest.approx(1 - 0.5 + 1)

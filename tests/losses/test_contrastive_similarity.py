"""The contrastive loss of cross-batch memories worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import losses


def value(labels, x, **parameters):
    return float(losses.get("contrastive_similarity", **parameters)(labels, np.array(x)))


def test_by_hand():
    # Cosines: items 0 and 1: 0.6; 0 and 2: 0; 1 and 2: 0.8. Lengths don't count.
    x = [[2.0, 0.0], [0.6, 0.8], [0.0, 5.0]]
    # Anchors 0, 1, 2: a positive at 0.6; that, and a negative at 0.8; that negative.
    assert value([7, 7, 8], x) == pytest.approx((0.4 + (0.4 + 0.8) + 0.8) / 3)
    assert value([7, 7, 8], x, margin=0.9) == pytest.approx((0.4 + 0.4) / 3)


def test_a_negative_at_the_margin_costs_nothing_and_above_it_all_of_its_similarity():
    x = [[1.0, 0.0], [0.5, np.sqrt(0.75)]]
    assert value([0, 1], x, margin=0.5 + 1e-9) == 0
    assert value([0, 1], x, margin=0.5 - 1e-9) == pytest.approx(0.5)


def test_released_leaves_out_positives_that_could_be_the_item_itself():
    loss = {
        fidelity: losses.get("contrastive_similarity", fidelity=fidelity)
        for fidelity in ("corrected", "released")
    }
    # A cosine of about 1 - 5e-6.
    x = tf.constant([[1.0, 0.0], [1.0, 10**-2.5]], tf.float64)
    assert float(loss["corrected"]([3, 3], x)) == pytest.approx(5e-6, rel=1e-3)
    assert float(loss["released"]([3, 3], x)) == 0

"""The supervised contrastive loss worked by hand."""

import math

import numpy as np
import pytest

from trainer import losses


def test_other_positives_are_in_the_denominator():
    # All at right angles: every similarity is 0, and each of the 3 others is as likely.
    x = np.eye(4)
    assert float(losses.get("supcon")([0, 0, 0, 1], x)) == pytest.approx(math.log(3))
    assert float(losses.get("ntxent")([0, 0, 0, 1], x)) == pytest.approx(math.log(2))


def test_the_temperature_divides_similarities():
    x = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    # Two anchors, each with a positive at similarity 1 and a negative at 0.
    expected = math.log1p(math.exp(-1 / 0.25))
    assert float(losses.get("supcon", temperature=0.25)([5, 5, 6], x)) == pytest.approx(expected)

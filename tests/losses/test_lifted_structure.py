"""The lifted structure loss worked by hand."""

import math

import pytest

from trainer import losses


def test_points_on_a_line():
    # One positive pair, 1 apart; the negative is 2 from the one and 3 from the other.
    x = [[0.0], [1.0], [3.0]]
    total = math.log(math.exp(1 - 3) + math.exp(1 - 2)) + 1
    assert total > 0
    loss = losses.get("lifted_structure")
    assert float(loss([7, 7, 8], x)) == pytest.approx(total**2 / 2)


def test_the_mean_is_over_all_positive_pairs():
    # The second pair, far away and tight, costs nothing but counts.
    x = [[0.0], [1.0], [3.0], [100.0], [100.0]]
    total = math.log(math.exp(1 - 3) + math.exp(1 - 2)) + 1
    loss = losses.get("lifted_structure")
    assert float(loss([7, 7, 8, 9, 9], x)) == pytest.approx(total**2 / 2 / 2)

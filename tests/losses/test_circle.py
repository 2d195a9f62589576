"""The circle loss worked by hand."""

import math

import pytest

from trainer import losses


def test_two_classes_on_a_square():
    # Positives at cosine 0, negatives at cosine 0 and -1: anchor 0 is at 0 degrees, its classmate
    # at 90; the others at 180 and 270.
    x = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    # Weights: 1 + 0.5 - 0 for the positive; 0 + 0.5 and, cut at 0, -1 + 0.5 for the negatives.
    near = math.exp(2 * 1.5 * (1 - 0.5 - 0))
    far = math.exp(2 * 0.5 * (0 - 0.5)) + math.exp(2 * 0 * (-1 - 0.5))
    loss = losses.get("circle", margin=0.5, gamma=2.0)
    assert float(loss([0, 0, 1, 1], x)) == pytest.approx(math.log1p(near * far))


def test_an_anchor_without_a_positive_is_not_counted():
    x = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    loss = losses.get("circle", margin=0.5, gamma=2.0)
    near = math.exp(1.5)
    first = math.log1p(near * math.exp(0))
    second = math.log1p(near * math.exp(-0.5))
    assert float(loss([0, 0, 1], x)) == pytest.approx((first + second) / 2)

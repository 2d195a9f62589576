"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf


def follow(shadow: Any, weight: Any, momentum: float) -> None:
    """Move a variable towards another: `shadow += (1 - momentum) * (weight - shadow)`."""
    shadow.assign_sub((1.0 - momentum) * (shadow - weight))


class WeightAverage:
    """Shadow copies that follow the weights: `shadow += (1 - momentum) * (weight - shadow)`.

    To be made under the strategy's scope.

    Args:
        variables: the weights to follow.
        momentum: share of the old average kept at each step, in (0, 1).

    Raises:
        ValueError: `momentum` is out of range.
    """

    def __init__(self, variables: Sequence[Any], momentum: float) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"ema is {momentum:g}; it must be between 0 and 1, e.g. 0.999")
        self.momentum = momentum
        self.weights = [v.value for v in variables]
        self.shadows = [
            tf.Variable(v.value, trainable=False, name=f"average/{v.path}") for v in variables
        ]

    def update(self) -> None:
        """Move the shadows one step; to be called outside the replicas, inside the step."""
        for shadow, weight in zip(self.shadows, self.weights, strict=True):
            follow(shadow, weight, self.momentum)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model holds the averages; after it, its own weights again."""
        own = [np.asarray(weight) for weight in self.weights]
        for weight, shadow in zip(self.weights, self.shadows, strict=True):
            weight.assign(np.asarray(shadow))
        try:
            yield
        finally:
            for weight, value in zip(self.weights, own, strict=True):
                weight.assign(value)

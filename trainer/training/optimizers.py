"""Optimizers by the names that job configs use.

All take the learning rate (a float or a schedule) from the library, and decoupled weight decay:
before each update a weight shrinks by `learning_rate * weight_decay` of itself (arXiv 1711.05101).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import keras
from keras import ops

from trainer.config import register

LearningRate: TypeAlias = "float | keras.optimizers.schedules.LearningRateSchedule"


@register("optimizer", "sgd", defaults={"momentum": 0.0, "nesterov": False})
@register("optimizer", "mo")
def sgd(
    learning_rate: LearningRate,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Stochastic gradient descent with momentum; `mo` is MILDNet's, with Nesterov's form.

    Args:
        learning_rate: supplied from `lr` and `schedule`.
        momentum: share of the last update that is kept, in [0, 1).
        nesterov: look ahead along the momentum.
        weight_decay: decoupled weight decay, as a factor of the learning rate.
    """
    _check(momentum=(momentum, 0.0, 1.0), weight_decay=(weight_decay, 0.0, None))
    return keras.optimizers.SGD(
        learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay or None
    )


@register("optimizer", "rms")
def rms(
    learning_rate: LearningRate,
    *,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """RMSprop: steps divided by a moving root mean square of the gradient.

    Args:
        learning_rate: supplied from `lr` and `schedule`.
        rho: decay of the moving average of squared gradients, in [0, 1).
        momentum: share of the last update that is kept, in [0, 1).
        epsilon: added to the divisor.
        centered: subtract the mean from the second moment.
        weight_decay: decoupled weight decay, as a factor of the learning rate.
    """
    _check(
        rho=(rho, 0.0, 1.0), momentum=(momentum, 0.0, 1.0), weight_decay=(weight_decay, 0.0, None)
    )
    return keras.optimizers.RMSprop(
        learning_rate,
        rho=rho,
        momentum=momentum,
        epsilon=epsilon,
        centered=centered,
        weight_decay=weight_decay or None,
    )


@keras.saving.register_keras_serializable(package="mildnet")
class PublishedAdam(keras.optimizers.Adam):
    """Adam that adds epsilon to the corrected root of the second moment, as PyTorch does.

    Keras divides by sqrt(v) + epsilon and corrects afterwards, so that its epsilon counts for
    epsilon / sqrt(1 - beta_2 ** t) in step t. With `amsgrad` both take the largest v before the
    correction, so that this is all that keeps the two apart.
    """

    epsilon: Any

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight."""
        epsilon = self.epsilon
        step = ops.cast(self.iterations + 1, variable.dtype)
        left = ops.power(ops.cast(self.beta_2, variable.dtype), step)
        self.epsilon = epsilon * ops.sqrt(1 - left)
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon


@register("optimizer", "adamw", defaults={"weight_decay": 0.01})
@register("optimizer", "adam")
def adam(
    learning_rate: LearningRate,
    *,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    amsgrad: bool = False,
    published_epsilon: bool = False,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Adam (arXiv 1412.6980); `adamw` is the same with decoupled weight decay of 0.01.

    Args:
        learning_rate: supplied from `lr` and `schedule`.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        epsilon: added to the divisor.
        amsgrad: keep the largest second moment seen.
        published_epsilon: add epsilon after the second moment is corrected for its start at zero,
            as in the paper's algorithm and in PyTorch; Keras adds it before, where it counts up to
            1 / sqrt(1 - beta_2) as much, 32 times in the first step.
        weight_decay: decoupled weight decay, as a factor of the learning rate.
    """
    _check(
        beta_1=(beta_1, 0.0, 1.0), beta_2=(beta_2, 0.0, 1.0), weight_decay=(weight_decay, 0.0, None)
    )
    kind = PublishedAdam if published_epsilon else keras.optimizers.Adam
    return kind(
        learning_rate,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        amsgrad=amsgrad,
        weight_decay=weight_decay or None,
    )


def _check(**bounds: tuple[float, float, float | None]) -> None:
    for name, (value, low, below) in bounds.items():
        if value < low or (below is not None and value >= below):
            allowed = f"at least {low:g}" if below is None else f"in [{low:g}, {below:g})"
            raise ValueError(f"{name} is {value:g}; it must be {allowed}")

"""Learning-rate schedules: a warm-up, then a curve.

`warmup_steps` rise linearly from 0 to `lr`; the curve starts where the warm-up ends and reaches
its last value with the last step of the job. Steps are optimizer updates.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trainer.config import register
from trainer.config.user_code import user_function


@keras.saving.register_keras_serializable(package="mildnet")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A curve after a linear warm-up, the whole multiplied by `scale`.

    Args:
        curve: the schedule after the warm-up, as a function of the steps since its end.
        warmup_steps: length of the warm-up, in steps.
        scale: factor on everything; parameter groups such as a slowly trained trunk use it.
        hold: the curve sees steps rounded down to a multiple of this, so that the rate changes
            once an epoch instead of every step; 1 for every step.
    """

    def __init__(
        self,
        curve: keras.optimizers.schedules.LearningRateSchedule,
        warmup_steps: int = 0,
        scale: float = 1.0,
        hold: int = 1,
    ) -> None:
        super().__init__()
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps is {warmup_steps}; it must be 0 or more")
        self.curve = curve
        self.warmup_steps = warmup_steps
        self.scale = scale
        self.hold = hold

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update number `step`, counted from 0."""
        # Steps stay integers until they are small: float32 merges integers from 2**24 on.
        step = ops.cast(step, "int64")
        since = ops.maximum(step - self.warmup_steps, 0)
        if self.hold > 1:
            since = since // self.hold * self.hold
        rate = ops.cast(self.curve(since), "float32")
        if self.warmup_steps:
            share = ops.cast(step + 1, "float32") / float(self.warmup_steps)
            rate = rate * ops.minimum(share, 1.0)
        return rate * self.scale

    def scaled(self, factor: float) -> Schedule:
        """Return the same schedule with every rate multiplied by `factor`."""
        return Schedule(self.curve, self.warmup_steps, self.scale * factor, self.hold)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "curve": keras.optimizers.schedules.serialize(self.curve),
            "warmup_steps": self.warmup_steps,
            "scale": self.scale,
            "hold": self.hold,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Rebuild from :meth:`get_config`."""
        curve = keras.optimizers.schedules.deserialize(config["curve"])
        return cls(**{**config, "curve": curve})


@register("schedule", "constant")
def constant(
    lr: float, total_steps: int, steps_per_epoch: int, *, warmup_steps: int = 0
) -> Schedule:
    """The same rate throughout.

    Args:
        lr: supplied from `lr`.
        total_steps: supplied, in optimizer steps.
        steps_per_epoch: supplied, in optimizer steps.
        warmup_steps: linear rise from 0, in steps.
    """
    return Schedule(keras.optimizers.schedules.PiecewiseConstantDecay([0], [lr, lr]), warmup_steps)


@register("schedule", "step")
def step(
    lr: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    boundaries: tuple[float, ...] = (0.5, 0.75),
    factor: float = 0.1,
    values: tuple[float, ...] = (),
    warmup_steps: int = 0,
) -> Schedule:
    """The rate is multiplied by `factor`, or takes the next of `values`, at each boundary.

    Args:
        lr: supplied from `lr`.
        total_steps: supplied, in optimizer steps.
        steps_per_epoch: supplied, in optimizer steps.
        boundaries: rising; values of 1 or less are shares of the steps after the warm-up, larger
            ones are numbers of steps after it.
        factor: applied at each boundary, above 0.
        values: the rates themselves, one more than boundaries, instead of `lr` and `factor`.
        warmup_steps: linear rise from 0, in steps.
    """
    if factor <= 0:
        raise ValueError(f"factor is {factor:g}; it must be above 0")
    after = max(total_steps - warmup_steps, 1)
    edges = [round(b * after) if b <= 1 else round(b) for b in boundaries]
    if any(b <= 0 for b in boundaries) or sorted(edges) != edges:
        raise ValueError(f"boundaries are {boundaries}; they must be above 0 and rising")
    if values and (len(values) != len(edges) + 1 or min(values) < 0):
        raise ValueError(
            f"values are {values}; they must be 0 or more, and one more than the {len(edges)} "
            "boundaries"
        )
    rates = list(values) or [lr * factor**n for n in range(len(edges) + 1)]
    # Keras keeps the old rate at the boundary itself; ours changes there.
    curve = keras.optimizers.schedules.PiecewiseConstantDecay([e - 1 for e in edges], rates)
    return Schedule(curve, warmup_steps)


@register("schedule", "exponential")
def exponential(
    lr: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    rate: float = 0.95,
    every: int | None = None,
    staircase: bool = False,
    warmup_steps: int = 0,
) -> Schedule:
    """`lr * rate ** (steps / every)`.

    Args:
        lr: supplied from `lr`.
        total_steps: supplied, in optimizer steps.
        steps_per_epoch: supplied, in optimizer steps.
        rate: factor applied every `every` steps, above 0.
        every: in steps; none means one epoch.
        staircase: change only at whole multiples of `every`.
        warmup_steps: linear rise from 0, in steps.
    """
    if rate <= 0:
        raise ValueError(f"rate is {rate:g}; it must be above 0")
    if every is not None and every < 1:
        raise ValueError(f"every is {every}; it must be 1 or more")
    curve = keras.optimizers.schedules.ExponentialDecay(
        lr, every or max(steps_per_epoch, 1), rate, staircase=staircase
    )
    return Schedule(curve, warmup_steps)


@register("schedule", "cosine")
def cosine(
    lr: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    final_lr: float = 0.0,
    by_epoch: bool = False,
    warmup_steps: int = 0,
) -> Schedule:
    """Half a cosine from `lr` down to `final_lr` (arXiv 1608.03983, without restarts).

    Args:
        lr: supplied from `lr`.
        total_steps: supplied, in optimizer steps.
        steps_per_epoch: supplied, in optimizer steps.
        final_lr: rate that the last step approaches, between 0 and `lr`.
        by_epoch: change the rate once an epoch instead of every step.
        warmup_steps: linear rise from 0, in steps.
    """
    if not 0 <= final_lr <= lr:
        raise ValueError(f"final_lr is {final_lr:g}; it must be between 0 and lr ({lr:g})")
    curve = keras.optimizers.schedules.CosineDecay(
        lr, max(total_steps - warmup_steps, 1), alpha=final_lr / lr
    )
    return Schedule(curve, warmup_steps, hold=max(steps_per_epoch, 1) if by_epoch else 1)


@keras.saving.register_keras_serializable(package="mildnet")
class UserCurve(keras.optimizers.schedules.LearningRateSchedule):
    """The rate that a function of the user's gives.

    Args:
        function: its dotted name, `package.module.function`.

    Raises:
        ValueError: it fails, or gives no number of 0 or more, for the first step.
        UserError: there is no such function.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        # Compiled, so that `if step < 1000` may stand in it though the step is a tensor.
        self._call = tf.function(user_function(function, "schedule.function"))
        try:
            first = float(self(tf.constant(0, tf.int64)))
        except Exception as error:
            words = " ".join(str(error).split())
            raise ValueError(f"function={function}: {type(error).__name__}: {words}") from error
        if not 0 <= first < math.inf:
            raise ValueError(f"function={function} gives {first:g} for step 0, no learning rate")

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of the update number `step`, counted from 0."""
        return ops.cast(self._call(step), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"function": self.function}


@register("schedule", "custom")
def custom(
    lr: float, total_steps: int, steps_per_epoch: int, *, function: str, warmup_steps: int = 0
) -> Schedule:
    """The rate that a function of one's own gives; `lr` is not used.

    Args:
        lr: supplied from `lr`.
        total_steps: supplied, in optimizer steps.
        steps_per_epoch: supplied, in optimizer steps.
        function: `package.module.name`, from a step (an int64 tensor, counted from 0 after the
            warm-up) to the learning rate; written with `keras.ops` or TensorFlow, `if` and `while`
            on the step are allowed.
        warmup_steps: linear rise from 0, in steps.
    """
    return Schedule(UserCurve(function), warmup_steps)

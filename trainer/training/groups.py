"""Which weights are trained, by which optimizer, and which of them decay."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras

from trainer.config import UserError
from trainer.config.train_options import TrainOptions
from trainer.config.user_code import user_function

DEFAULTS = TrainOptions()


def parameter_groups(
    model: keras.Model,
    loss: Any,
    build_optimizer: Callable[[float], keras.optimizers.Optimizer],
    options: TrainOptions = DEFAULTS,
    trunk: set[str] | None = None,
) -> list[tuple[keras.optimizers.Optimizer, list[Any]]]:
    """Divide the weights to train among optimizers.

    Args:
        model: its trainable weights are divided.
        loss: its trainable weights are too, if it has any.
        build_optimizer: from a factor on the learning rate to an optimizer.
        options: `trainable` and `trainable_function` choose among the model's weights;
            `decay_exclude`, `decay_only` and `decay_function` say which of all weights decay;
            `trunk_lr_scale` and `loss_lr_scale` are factors on the learning rate of the trunk and
            of the loss's own weights, where 0 keeps them still.
        trunk: paths of the trunk's weights.

    Raises:
        UserError: no weight of the model is left to train, or a function that is named is not
            there or fails.
    """
    weights = chosen_weights(model, options)
    if not weights:
        raise UserError(f"no weight is left to train{_why(options)}")
    scales: dict[float, list[Any]] = {1.0: []}
    for weight in weights:
        scale = options.trunk_lr_scale if trunk and weight.path in trunk else 1.0
        scales.setdefault(scale, []).append(weight)
    own = getattr(loss, "trainable_variables", [])
    scales.setdefault(options.loss_lr_scale, []).extend(own)

    excluded = _chooser(options.decay_exclude or "(?!)")
    kept = [_chooser(options.decay_only), _of_user("train.decay_function", options.decay_function)]
    groups = []
    for scale, members in scales.items():
        if not members or scale == 0:
            continue
        optimizer = build_optimizer(scale)
        still = [w for w in members if excluded(w) or not all(k(w) for k in kept)]
        optimizer.exclude_from_weight_decay(var_list=still)
        groups.append((optimizer, members))
    return groups


def chosen_weights(model: keras.Model, options: TrainOptions) -> list[Any]:
    """Return the model's trainable weights that `trainable` and `trainable_function` choose."""
    chosen = [
        _chooser(options.trainable),
        _of_user("train.trainable_function", options.trainable_function),
    ]
    return [weight for weight in model.trainable_variables if all(c(weight) for c in chosen)]


def decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Return whether weight decay, where there is any, is for this weight of the optimizer's."""
    return bool(optimizer._use_weight_decay(variable))


def _chooser(pattern: str | None) -> Callable[[Any], bool]:
    """Return whether the pattern is found in the path of a weight; none: always."""
    if pattern is None:
        return lambda weight: True
    return lambda weight: re.search(pattern, weight.path) is not None


def _of_user(key: str, name: str) -> Callable[[Any], bool]:
    if not name:
        return lambda weight: True
    function = user_function(name, key)

    def choose(weight: Any) -> bool:
        try:
            return bool(function(weight))
        except Exception as error:
            words = " ".join(str(error).split())
            raise UserError(
                f"{key}={name} failed at {weight.path}: {type(error).__name__}: {words}"
            ) from error

    return choose


def _why(options: TrainOptions) -> str:
    asked = [
        f"train.{key}={getattr(options, key)!r}"
        for key in ("trainable", "trainable_function")
        if getattr(options, key)
    ]
    return f": {' and '.join(asked)} leave none" if asked else ""

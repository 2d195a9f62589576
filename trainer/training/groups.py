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
            `decay_exclude`, `decay_vectors`, `decay_only` and `decay_function` say which of all
            weights decay; `trunk_lr_scale`, `head_lr_scale` and `loss_lr_scale` are factors on the
            learning rate of the trunk, of the model's other weights and of the loss's own, where 0
            keeps them still; `trunk_decay_scale` is one on the trunk's weight decay;
            `layer_lr_decay` is one on the learning rate from block to block of the trunk, the last
            block having that of the trunk (Bao et al.: BEiT, 2021, arXiv 2106.08254).
        trunk: paths of the trunk's weights.

    Raises:
        UserError: no weight of the model is left to train, the trunk has no blocks for
            `layer_lr_decay`, or a function that is named is not there or fails.
    """
    trunk = trunk or set()
    weights = chosen_weights(model, options, trunk)
    if not weights:
        raise UserError(f"no weight is left to train{_why(options)}")
    trunk_scale = _trunk_scales(model, options, trunk)
    # Factors on learning rate and weight decay, and the weights they are for.
    scales: dict[tuple[float, float], list[Any]] = {(1.0, 1.0): []}
    for weight in weights:
        scale = (options.head_lr_scale, 1.0)
        if weight.path in trunk:
            scale = (trunk_scale[weight.path], options.trunk_decay_scale)
        scales.setdefault(scale, []).append(weight)
    # A table of which a step moves some rows alone has an optimizer of its own.
    table = getattr(loss, "sampled_table", None)
    own = [weight for weight in getattr(loss, "trainable_variables", []) if weight is not table]
    scales.setdefault((options.loss_lr_scale, 1.0), []).extend(own)
    divided = list(scales.items())
    if table is not None:
        divided.append(((options.loss_lr_scale, 1.0), [table]))

    excluded = _chooser(options.decay_exclude or "(?!)")
    kept = [_chooser(options.decay_only), _of_user("train.decay_function", options.decay_function)]
    if not options.decay_vectors:
        kept.append(lambda weight: len(weight.shape) > 1)
    groups = []
    for (rate, decay), members in divided:
        if not members or rate == 0:
            continue
        optimizer = build_optimizer(rate)
        if optimizer.weight_decay:
            optimizer.weight_decay *= decay
        still = [w for w in members if excluded(w) or not all(k(w) for k in kept)]
        optimizer.exclude_from_weight_decay(var_list=still)
        groups.append((optimizer, members))
    return groups


def _trunk_scales(model: keras.Model, options: TrainOptions, trunk: set[str]) -> dict[str, float]:
    """Return the factor on the learning rate of each weight of the trunk, by its path."""
    paths = [weight.path for weight in model.weights if weight.path in trunk]
    if options.layer_lr_decay == 1 or not options.trunk_lr_scale:
        return dict.fromkeys(paths, options.trunk_lr_scale)
    found = [re.search(options.layer_blocks, path) for path in paths]
    if len({match[0] for match in found if match}) < 2:
        first = f"its first weight is {paths[0]}" if paths else "the model has no trunk"
        raise UserError(
            "train.layer_lr_decay: train.layer_blocks finds no blocks in the names of the trunk's "
            f"weights; {first}"
        )
    # In the order of the net; what comes before the first block is one of its own.
    names, name = [], ""
    for match in found:
        name = match[0] if match else name
        names.append(name)
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return {
        path: options.trunk_lr_scale * options.layer_lr_decay ** (len(number) - 1 - number[name])
        for path, name in zip(paths, names, strict=True)
    }


def chosen_weights(model: keras.Model, options: TrainOptions, trunk: set[str]) -> list[Any]:
    """Return the model's weights to train: those that `trainable` and `trainable_function` choose,
    in the parts whose learning rate is not 0."""
    scales = {True: options.trunk_lr_scale, False: options.head_lr_scale}
    chosen = [
        lambda weight: scales[weight.path in trunk] > 0,
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
        for key in ("trainable", "trainable_function", "trunk_lr_scale", "head_lr_scale")
        if getattr(options, key) != getattr(DEFAULTS, key)
    ]
    return f": {' and '.join(asked)} leave none" if asked else ""

"""Arrays into the variables of a model: all of them and each once, or those that match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from trainer.config import UserError


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Set every weight of `model`; the states of its random generators are none.

    Args:
        model: the model.
        arrays: path of a variable (`stem_conv/kernel`) -> its value, in the layout of Keras.
        source: where the arrays come from, for messages.

    Raises:
        UserError: an array that is missing, too many, or of another shape. No variable is changed
            then.
    """
    variables = {variable.path: variable for variable in model.weights}
    for path, variable in variables.items():
        if path not in arrays:
            raise UserError(f"{source} has no weights for {path} of {model.name}")
        if arrays[path].shape != tuple(variable.shape):
            raise UserError(
                f"{source}: {path} of {model.name} has shape {tuple(variable.shape)},"
                f" the file's is {arrays[path].shape}"
            )
    strangers = [path for path in arrays if path not in variables]
    if strangers:
        raise UserError(f"{source} has weights that {model.name} does not: {', '.join(strangers)}")
    for path, variable in variables.items():
        variable.assign(arrays[path])


@dataclass(frozen=True)
class Matched:
    """What :func:`assign_matching` did, by path; each weight is in one of the first three.

    `taken` were set. `missing` are weights of the model that there was no array for, `reshaped`
    those whose array has another shape, as `path: its shape, not the model's`. `unused` are arrays
    that the model has no weights for.
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """The report in one line, with the first few names of each kind."""
        count = len(self.taken) + len(self.missing) + len(self.reshaped)
        parts = [f"{len(self.taken)} of {count} weights taken"]
        for words, names in (
            ("not there", self.missing),
            ("of another shape", self.reshaped),
            ("not used", self.unused),
        ):
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {words} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def assign_matching(model: keras.Model, arrays: Mapping[str, np.ndarray], source: str) -> Matched:
    """Set the weights of `model` for which there is an array of their path and shape.

    Args:
        model: the model; its other weights stay as they are.
        arrays: path of a variable -> its value, in the layout of Keras.
        source: where the arrays come from, for messages.

    Raises:
        UserError: nothing matches.
    """
    taken, missing, reshaped = [], [], []
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.path not in arrays:
            missing.append(weight.path)
        elif arrays[weight.path].shape != shape:
            reshaped.append(f"{weight.path}: {arrays[weight.path].shape}, not {shape}")
        else:
            weight.assign(arrays[weight.path])
            taken.append(weight.path)
    paths = {weight.path for weight in model.weights}
    unused = [path for path in arrays if path not in paths]
    matched = Matched(*map(tuple, (taken, missing, reshaped, unused)))
    if not taken:
        raise UserError(
            f"{source}: no weight of {model.name} is in it by path and shape: {matched}"
        )
    return matched

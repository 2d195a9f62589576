"""Arrays into the variables of a model, all of them and each once."""

from __future__ import annotations

from collections.abc import Mapping

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

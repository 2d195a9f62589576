"""Copies of a model for serving, whose weights and layers are of the wanted type."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from trainer.config import UserError
from trainer.models.saved_model import SavedModelLayer

#: `model`: the types that it was trained with.
Precision = Literal["float32", "float16", "bfloat16", "model"]

#: Layers that stay in float32 as a whole: what comes before the net and behind it, and sums that
#: leave float16's range.
EXACT = frozenset(
    {
        "Preprocess", "FitPixels", "Rescaling", "Normalization", "GeM", "L2Normalize", "LRN2D",
        "TokenPool", "UnitNormalization", "GlobalAveragePooling2D",
    }
)  # fmt: skip
#: Layers that keep their weights and sums in float32, and hand on 16 bits.
NORMS = frozenset({"BatchNormalization", "LayerNormalization", "GroupNormalization"})


def copy_of(model: keras.Model, precision: Precision = "float32") -> keras.Model:
    """Return a copy whose variables belong to no distribution strategy, in the wanted precision.

    In 16 bits weights are rounded to the type and kept in it; layers compute in it, except for
    preprocessing, pooling of the last map, normalisations and what makes the embedding.

    Args:
        model: a functional Keras model. It is not changed.
        precision: `float32`, `float16`, `bfloat16`, or `model` for the types it was trained with.

    Raises:
        UserError: the model has weights too large for float16, or holds a SavedModel, which
            computes in types of its own.
        ValueError: an unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision {precision!r} is not one of {', '.join(get_args(Precision))}")
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    config = model.get_config()
    if precision not in ("float16", "bfloat16"):
        copy = model.__class__.from_config(config)
        copy.set_weights(model.get_weights())
        if precision == "float32":
            for layer in copy._flatten_layers():
                layer.dtype_policy = "float32"
        return copy
    if any(isinstance(layer, SavedModelLayer) for layer in model._flatten_layers()):
        raise UserError(
            f"precision={precision}: the model holds a SavedModel, which computes in the types that"
            " it was made with; allowed is float32"
        )
    narrow = _narrowed(config, precision)
    for layer in narrow["layers"]:
        if layer["config"]["name"] in model.output_names:
            layer["config"]["dtype"] = "float32"
    before = keras.config.dtype_policy()
    # Layers that others make for themselves go by the policy of the process.
    keras.config.set_dtype_policy(precision)
    try:
        copy = model.__class__.from_config(narrow)
    finally:
        keras.config.set_dtype_policy(before)
    weights = model.get_weights()
    for variable, value in zip(copy.weights, weights, strict=True):
        largest = float(np.max(np.abs(value), initial=0.0))
        if np.isfinite(largest) and largest > float(tf.as_dtype(variable.dtype).max):
            raise UserError(
                f"precision={precision}: {variable.path} has a weight of {largest:.3g}, more than "
                f"the type holds; allowed are bfloat16 and float32"
            )
    copy.set_weights(weights)
    return copy


def _narrowed(config: Any, precision: str) -> Any:
    """Return a config of layers within layers, as Keras writes it, with their types changed."""
    if isinstance(config, list | tuple):
        return type(config)(_narrowed(item, precision) for item in config)
    if not isinstance(config, dict):
        return config
    changed = {key: _narrowed(value, precision) for key, value in config.items()}
    kind, inner = changed.get("class_name"), changed.get("config")
    if isinstance(inner, dict) and "dtype" in inner and kind != "InputLayer":
        policy = f"mixed_{precision}" if kind in NORMS else precision
        changed["config"] = {**inner, "dtype": "float32" if kind in EXACT else policy}
    return changed

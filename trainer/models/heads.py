"""What joins a trunk's outputs into one embedding."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.models.layers import Dropout, GeM, L2Normalize


def pool(features: Any, pooling: Literal["gap", "gem"], name: str) -> Any:
    """Pool feature maps (B, H, W, C) to float32 vectors (B, C).

    In float32 even under mixed precision: the sum over a 112 x 112 map leaves float16's range.
    """
    if pooling == "gem":
        return GeM(name=name)(features)
    return keras.layers.GlobalAveragePooling2D(dtype="float32", name=name)(features)


def join(vectors: list[Any], name: str) -> Any:
    """Concatenate vectors; a single one is passed on."""
    if len(vectors) == 1:
        return vectors[0]
    return keras.layers.Concatenate(name=name)(vectors)


def dense_stack(
    vectors: Any, widths: tuple[int, ...], *, activation: str, dropout: float, name: str
) -> Any:
    """Dense layers `NAME_1`, `NAME_2`, ... with dropout after each.

    Raises:
        ValueError: a width below 1 or a dropout outside of 0..1.
    """
    if widths and min(widths) < 1:
        raise ValueError(f"widths of dense layers must be above 0, not {widths}")
    for number, width in enumerate(widths, start=1):
        vectors = keras.layers.Dense(width, activation=activation, name=f"{name}_{number}")(vectors)
        if dropout:
            vectors = Dropout(dropout, name=f"{name}_{number}_dropout")(vectors)
    return vectors


def finish(vectors: Any, *, normalize: bool) -> Any:
    """End a model: float32 embeddings, of unit length if `normalize`."""
    if normalize:
        return L2Normalize(name="embedding")(vectors)
    return keras.layers.Activation("linear", dtype="float32", name="embedding")(vectors)

"""What joins a trunk's outputs into one embedding."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.models.layers import Dropout, GeM, L2Normalize


def pool(features: Any, pooling: Literal["gap", "gem"], name: str) -> Any:
    """Pool feature maps (B, H, W, C) to float32 vectors (B, C); vectors stay as they are.

    In float32 even under mixed precision: the sum over a 112 x 112 map leaves float16's range.
    """
    if len(features.shape) == 2:
        return keras.layers.Activation("linear", dtype="float32", name=name)(features)
    if pooling == "gem":
        return GeM(name=name)(features)
    return keras.layers.GlobalAveragePooling2D(dtype="float32", name=name)(features)


def join(vectors: list[Any], name: str) -> Any:
    """Concatenate vectors; a single one is passed on."""
    if len(vectors) == 1:
        return vectors[0]
    return keras.layers.Concatenate(name=name)(vectors)


def dense_stack(
    vectors: Any,
    widths: tuple[int, ...],
    *,
    activation: str,
    dropout: float | tuple[float, ...],
    name: str,
) -> Any:
    """Dense layers `NAME_1`, `NAME_2`, ... with dropout after each: one share, or one for each.

    Of a feature map (B, H, W, C) they see the channels, position by position.

    Raises:
        ValueError: a width below 1, a dropout outside of 0..1, or not one for each layer.
    """
    if widths and min(widths) < 1:
        raise ValueError(f"widths of dense layers must be above 0, not {widths}")
    shares = dropout if isinstance(dropout, tuple) else (dropout,) * len(widths)
    if len(shares) != len(widths):
        raise ValueError(f"dropout has {len(shares)} values for {len(widths)} hidden layers")
    for number, (width, share) in enumerate(zip(widths, shares, strict=True), start=1):
        vectors = keras.layers.Dense(width, activation=activation, name=f"{name}_{number}")(vectors)
        if share:
            vectors = Dropout(share, name=f"{name}_{number}_dropout")(vectors)
    return vectors


def finish(vectors: Any, *, normalize: bool) -> Any:
    """End a model: float32 embeddings (B, D), of unit length if `normalize`.

    A feature map (B, H, W, C) is normalised along its height, as MILDNet's released code does to
    maps that it forgets to pool, and laid out as one vector.
    """
    if len(vectors.shape) == 4:
        if normalize:
            vectors = L2Normalize(axis=1, name="normalize")(vectors)
        return keras.layers.Flatten(dtype="float32", name="embedding")(vectors)
    if normalize:
        return L2Normalize(name="embedding")(vectors)
    return keras.layers.Activation("linear", dtype="float32", name="embedding")(vectors)

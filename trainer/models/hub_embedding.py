"""Prototrain's model: a SavedModel, such as a module of TF-Hub, with a linear head."""

from __future__ import annotations

from typing import Literal

import keras

from trainer.config import register
from trainer.models.mildnet import mildnet


@register("model", "hub_embedding")
def hub_embedding(
    image_size: int,
    *,
    hub_handle: str,
    trainable: bool = True,
    input_range: Literal["0..1", "-1..1", "0..255"] = "0..1",
    hub_size: int | None = None,
    signature: str | None = None,
    output: str | None = None,
    pooling: Literal["gap", "gem"] = "gap",
    hidden: tuple[int, ...] = (),
    activation: Literal["relu", "gelu", "silu", "linear"] = "relu",
    dropout: float | tuple[float, ...] = 0.0,
    embedding_dim: int | None = 512,
    normalize: bool = True,
) -> keras.Model:
    """A module of TF-Hub or any SavedModel -> linear reduction -> unit length (Prototrain's model).

    Args:
        image_size: height and width of the input in pixels.
        hub_handle: folder of a SavedModel of TensorFlow 1 or 2, or its address on tfhub.dev or
            kaggle.com (`mildnet describe trunk hub`).
        trainable: whether its weights are trained, and its batch normalisation with them.
        input_range: what pixels it was made for; modules of TF-Hub are for 0..1.
        hub_size: height and width in pixels that it gets pictures in; default: `image_size`.
        signature: which of its signatures to run; default: what it can be called as, else
            `default` or `serving_default`, or its only one.
        output: which of several outputs; default: `default`, or the only one.
        pooling: of a SavedModel that gives a map: `gap` (average) or `gem` (generalised mean).
        hidden: widths of dense layers before the embedding.
        activation: activation of the hidden layers.
        dropout: share 0..1 of values dropped after each hidden layer while training; one for all,
            or one for each.
        embedding_dim: size of the embedding; none: the features are the embedding.
        normalize: whether embeddings get unit length.

    Returns:
        The model: images (B, S, S, 3), float 0..255 or uint8 -> float32 embeddings (B, D).

    Raises:
        UserError: the SavedModel cannot be had, or does not take such pictures.
        ValueError: a value out of range.

    Dodds et al.: Learning embeddings for product visual search with triplet loss and online
    sampling, 2018, arXiv 1810.04652.
    """
    trunk = {
        "handle": hub_handle,
        "input_range": input_range,
        "size": hub_size,
        "signature": signature,
        "output": output,
    }
    words = ", ".join(f"{key}={value!r}" for key, value in trunk.items() if value is not None)
    return mildnet(
        image_size,
        trunk=f"hub({words})",
        frozen=0 if trainable else "all",
        pooling=pooling,
        hidden=hidden,
        activation=activation,
        dropout=dropout,
        embedding_dim=embedding_dim,
        normalize=normalize,
    )

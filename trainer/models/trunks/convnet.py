"""A small convnet: quick enough to train on a CPU, built like the large trunks."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.config import register


@register("trunk", "convnet_small", skips="block*_relu", preprocessing="tf", minimum="1")
def convnet_small(
    images: Any,
    weights: str | None,
    *,
    widths: tuple[int, ...] = (32, 64, 128, 256),
    downsample: Literal["stride", "pool"] = "stride",
    norm: Literal["batch", "group", "none"] = "batch",
) -> keras.Model:
    """Blocks of a 3x3 convolution, normalisation and ReLU, each at half the size of the one before.

    Args:
        widths: channels of each block; their number is the number of blocks.
        downsample: `stride` halves in the convolution (fast), `pool` by max-pooling after it.
        norm: `batch`, `group` (8 groups or fewer; independent of the batch) or `none`.

    Returns:
        A model of layers `blockN_conv`, `blockN_norm`, `blockN_pool`, `blockN_relu`; skips are
        taken at `blockN_relu`.

    Raises:
        ValueError: no width or one below 1, or `weights="imagenet"`, which do not exist for it.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be one or more whole numbers above 0, not {widths}")
    if weights is not None:
        raise ValueError("convnet_small has no ImageNet weights: set weights to none or to a path")
    x = images
    for number, width in enumerate(widths, start=1):
        block = f"block{number}"
        x = keras.layers.Conv2D(
            width,
            3,
            strides=2 if downsample == "stride" else 1,
            padding="same",
            use_bias=norm == "none",
            kernel_initializer="he_normal",
            name=f"{block}_conv",
        )(x)
        if norm == "batch":
            # Keras' default of 0.99 needs some 500 steps for its statistics to settle; the runs
            # this trunk is for are shorter than that.
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"{block}_norm")(x)
        elif norm == "group":
            groups = next(g for g in range(min(8, width), 0, -1) if width % g == 0)
            x = keras.layers.GroupNormalization(groups, name=f"{block}_norm")(x)
        if downsample == "pool":
            # Before the ReLU: the result is the same and the ReLU has a quarter of the work.
            x = keras.layers.MaxPooling2D(2, padding="same", name=f"{block}_pool")(x)
        x = keras.layers.ReLU(name=f"{block}_relu")(x)
    return keras.Model(images, x, name="convnet_small")

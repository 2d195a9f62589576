"""Shallow paths: one convolution that sees a coarse picture, beside a deep trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from trainer.models.layers import LRN2D, L2Normalize


@dataclass(frozen=True)
class Path:
    """The steps of one path, in order: shrink, pad, convolve, normalise, pad, pool.

    Sizes are pixels, or cells of the map. `shrink` is window and stride of a max-pooling of the
    picture, 1 for none; the convolution has 96 kernels of 8 x 8.
    """

    conv_stride: int
    pool: int
    pool_stride: int
    shrink: int = 1
    conv_pad: int = 0
    conv_padding: str = "valid"
    activation: str = "linear"
    pool_pad: int = 0
    pool_padding: str = "same"


@dataclass(frozen=True)
class Shallow:
    """Two paths, and how they are joined.

    Attributes:
        paths: from the finer to the coarser.
        lrn: whether local response normalisation follows the convolutions.
        normalize: what gets unit length: `each` path, or the `joined` ones.
        minimum: smallest picture in pixels.
    """

    paths: tuple[Path, Path]
    minimum: int
    lrn: bool = False
    normalize: str = "each"


_VISNET = (
    Path(conv_stride=16, conv_padding="same", pool=3, pool_stride=4),
    Path(conv_stride=32, conv_padding="same", pool=7, pool_stride=2),
)
_POOLED = (
    Path(shrink=4, conv_stride=4, activation="relu", pool_pad=3, pool=7, pool_stride=4),
    Path(shrink=8, conv_stride=4, activation="relu", pool_pad=1, pool=3, pool_stride=2),
)
_RANKNET = (
    Path(
        shrink=4, conv_pad=4, conv_stride=4, pool_pad=2, pool=7, pool_stride=4, pool_padding="valid"
    ),
    Path(
        shrink=8, conv_pad=4, conv_stride=4, pool_pad=1, pool=3, pool_stride=2, pool_padding="valid"
    ),
)

SHALLOW: dict[str, Shallow] = {
    "visnet": Shallow(_VISNET, minimum=1),
    "visnet_lrn2d": Shallow(_POOLED, minimum=64, lrn=True),
    "visnet_no_lrn": Shallow(_POOLED, minimum=64),
    "ranknet": Shallow(_RANKNET, minimum=32, normalize="joined"),
}


def shallow_paths(images: Any, name: str) -> list[Any]:
    """Return the vectors (B, D) that the paths `name` of :data:`SHALLOW` make of pictures.

    Args:
        images: preprocessed pictures (B, S, S, 3).
        name: a key of :data:`SHALLOW`.

    Returns:
        float32 vectors of unit length: one for each path, or one of both paths joined.

    Raises:
        ValueError: the pictures are too small.
    """
    shallow, size = SHALLOW[name], images.shape[1]
    if size < shallow.minimum:
        raise ValueError(f"shallow={name} needs an image size of {shallow.minimum} or more: {size}")
    vectors = [
        _path(images, path, shallow.lrn, f"shallow_{number}")
        for number, path in enumerate(shallow.paths, start=1)
    ]
    if shallow.normalize == "joined":
        joined = keras.layers.Concatenate(dtype="float32", name="shallow_joined")(vectors)
        return [L2Normalize(name="shallow_normalize")(joined)]
    return [
        L2Normalize(name=f"shallow_{number}_normalize")(vector)
        for number, vector in enumerate(vectors, start=1)
    ]


def _path(images: Any, path: Path, lrn: bool, name: str) -> Any:
    x = images
    if path.shrink > 1:
        x = keras.layers.MaxPooling2D(path.shrink, name=f"{name}_shrink")(x)
    if path.conv_pad:
        x = keras.layers.ZeroPadding2D(path.conv_pad, name=f"{name}_conv_pad")(x)
    x = keras.layers.Conv2D(
        96,
        8,
        strides=path.conv_stride,
        padding=path.conv_padding,
        activation=path.activation,
        name=f"{name}_conv",
    )(x)
    if lrn:
        x = LRN2D(name=f"{name}_lrn")(x)
    if path.pool_pad:
        x = keras.layers.ZeroPadding2D(path.pool_pad, name=f"{name}_pool_pad")(x)
    x = keras.layers.MaxPooling2D(
        path.pool, strides=path.pool_stride, padding=path.pool_padding, name=f"{name}_pool"
    )(x)
    return keras.layers.Flatten(name=f"{name}_flat")(x)

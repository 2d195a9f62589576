"""Colour histograms: what retrieval without any learning reaches, for comparison in reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from trainer.config import UserError
from trainer.data.open_image import open_image

if TYPE_CHECKING:
    from PIL import Image

#: Images are looked at in about this size, in pixels of the longer side: counts need no detail.
SIDE = 160


def color_histogram(
    paths: Sequence[str],
    bins: int = 8,
    boxes: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Return the square roots of each image's joint RGB histogram, as unit vectors.

    Their dot product is the Bhattacharyya coefficient of two histograms: 1 for the same shares of
    colours, 0 for no colour in common.

    Args:
        paths: (N,) image files.
        bins: per channel, 1 to 64; there are bins^3 dimensions.
        boxes: (N, 4) x, y, w, h in pixels, the part of each image to look at; NaN rows mean all.
        threads: default: the processors of the machine.

    Returns:
        (N, bins^3) float32, each row of length 1, values in 0..1.

    Raises:
        UserError: an image that cannot be read.
        ValueError: bins out of range.
    """
    if not 1 <= bins <= 64:
        raise ValueError(f"bins={bins} is not in 1..64")
    table = np.empty((len(paths), bins**3), np.float32)

    def one(number: int) -> None:
        try:
            box = None if boxes is None else boxes[number]
            table[number] = histogram(open_image(paths[number], box, side=SIDE), bins)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {paths[number]}: {error}") from None

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(one, range(len(paths))))
    return table


def histogram(image: Image.Image, bins: int = 8) -> np.ndarray:
    """Return the square roots of one picture's joint RGB histogram, (bins^3,) float64, length 1.

    Args:
        image: RGB, of any size.
        bins: per channel, 1 to 64.
    """
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    pixels = np.asarray(image).reshape(-1, 3).astype(np.int64) * bins // 256
    counts = np.bincount(pixels @ [bins * bins, bins, 1], minlength=bins**3)
    return np.sqrt(counts / len(pixels))

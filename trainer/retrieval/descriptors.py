"""Simple similarity scorers: colour, texture and shape of a picture as vectors, without learning.

Each says something about a picture that the others do not, which is what makes their agreement
worth more than any of them: see :mod:`trainer.retrieval.triplets.from_likeness`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError, nearest
from trainer.data.open_image import open_image
from trainer.data.progress import bar
from trainer.retrieval.baseline import SIDE, histogram
from trainer.retrieval.vectors import normalise

if TYPE_CHECKING:
    from PIL import Image

    from trainer.data.table import ItemTable

#: Sides, in pixels, that texture and shape are looked at in.
TEXTURE_SIDE, SHAPE_SIDE = 128, 64
#: Pictures that a thread takes at a time, and pictures that go through a trunk at a time.
CHUNK, BATCH = 32, 64


@dataclass(frozen=True)
class Descriptions:
    """What the scorers say about some pictures.

    Attributes:
        vectors: scorer -> (N, D) float32, rows of length 1; a row of zeros where the scorer finds
            nothing to describe (the shape of an even surface) or the picture cannot be read.
        unreadable: row -> why its picture cannot be read.
    """

    vectors: dict[str, np.ndarray]
    unreadable: dict[int, str]


def color(image: Image.Image) -> np.ndarray:
    """Return the picture's joint RGB histogram, 8 bins a channel, as :mod:`.baseline` has it.

    Args:
        image: RGB.

    Returns:
        (512,) float64 of length 1.
    """
    return histogram(image)


def texture(image: Image.Image) -> np.ndarray:
    """Return square roots of the shares of local binary patterns, in 4 x 4 parts of the picture.

    Uniform patterns of 8 neighbours at 1 pixel: Ojala et al., Multiresolution Gray-Scale and
    Rotation Invariant Texture Classification with Local Binary Patterns, 2002.

    Args:
        image: RGB.

    Returns:
        (160,) float64.
    """
    from skimage.feature import local_binary_pattern

    grey = np.asarray(image.convert("L").resize((TEXTURE_SIDE, TEXTURE_SIDE)))
    codes = local_binary_pattern(grey, 8, 1, "uniform").astype(np.int64)
    parts = codes.reshape(4, TEXTURE_SIDE // 4, 4, TEXTURE_SIDE // 4).swapaxes(1, 2)
    counts = [np.bincount(part.ravel(), minlength=10) for part in parts.reshape(16, -1)]
    return np.sqrt(np.concatenate(counts) / codes.size)


def shape(image: Image.Image) -> np.ndarray:
    """Return histograms of oriented gradients: 9 directions in 4 x 4 cells, blocks of 2 x 2.

    Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, 2005. The cells are
    coarse, so that a product need not lie on the same pixels twice.

    Args:
        image: RGB.

    Returns:
        (324,) float64; zeros for an even surface.
    """
    from skimage.feature import hog

    grey = np.asarray(image.convert("L").resize((SHAPE_SIDE, SHAPE_SIDE)))
    side = SHAPE_SIDE // 4
    return hog(grey, 9, pixels_per_cell=(side, side), cells_per_block=(2, 2), block_norm="L2-Hys")


SCORERS: dict[str, Callable[[Any], np.ndarray]] = {
    "color": color,
    "texture": texture,
    "shape": shape,
}


def describe(
    paths: Sequence[str],
    scorers: Sequence[str] = tuple(SCORERS),
    *,
    boxes: np.ndarray | None = None,
    threads: int | None = None,
) -> Descriptions:
    """Return what the scorers say about picture files; each file is opened once.

    Args:
        paths: (N,) image files, at least one.
        scorers: names from :data:`SCORERS`.
        boxes: (N, 4) x, y, w, h in pixels, the part of each picture to look at; NaN rows mean all.
        threads: default: the processors of the machine. The result does not depend on it.

    Raises:
        UserError: an unknown scorer, one that comes twice, or scikit-image is missing.
    """
    chosen = [SCORERS[name] for name in checked_scorers(scorers)]
    blank = np.zeros((1, 3), np.uint8)
    widths = [len(scorer(_picture(blank))) for scorer in chosen]
    tables = [np.zeros((len(paths), width), np.float32) for width in widths]
    unreadable: dict[int, str] = {}

    def work(rows: range) -> int:
        for row in rows:
            try:
                # Twice the side of what texture looks at would show no more.
                image = open_image(
                    paths[row], None if boxes is None else boxes[row], side=max(SIDE, TEXTURE_SIDE)
                )
                for table, scorer in zip(tables, chosen, strict=True):
                    table[row] = scorer(image)
            except (OSError, ValueError) as error:
                unreadable[row] = str(error)
        return len(rows)

    starts = range(0, len(paths), CHUNK)
    chunks = [range(start, min(start + CHUNK, len(paths))) for start in starts]
    with (
        bar("describing pictures", len(paths)) as advance,
        ThreadPoolExecutor(threads or os.cpu_count()) as pool,
    ):
        for done in pool.map(work, chunks):
            advance(done)
    for table in tables:
        table[list(unreadable)] = 0
        normalise(table)
    return Descriptions(
        dict(zip(scorers, tables, strict=True)),
        {row: unreadable[row] for row in sorted(unreadable)},
    )


def checked_scorers(scorers: Sequence[str]) -> Sequence[str]:
    """Return `scorers`, known, each once, and able to run.

    Raises:
        UserError: if not.
    """
    for number, name in enumerate(scorers):
        if name not in SCORERS:
            raise UserError(f"unknown scorer {name!r}{nearest(name, SCORERS)}")
        if name in scorers[:number]:
            raise UserError(f"the scorer {name!r} is named twice: agreement needs different ones")
    if set(scorers) - {"color"}:
        try:
            import skimage.feature  # noqa: F401 - threads that import it at once would collide
        except ImportError:
            raise UserError(
                "the scorers texture and shape need scikit-image: "
                'pip install "mildnet[descriptors]", or name only color'
            ) from None
    return scorers


def trunk_features(
    table: ItemTable, trunk: str, *, weights: str = "imagenet", image_size: int = 224
) -> np.ndarray:
    """Return the pooled last features of a pretrained trunk, boxes cropped, as unit vectors.

    Args:
        table: where the pictures are, at least one.
        trunk: a registered trunk, such as `mobilenet` (`mildnet describe trunk` lists them).
        weights: `imagenet`, the path of a file, or `none` for random weights.
        image_size: height and width that pictures are resized to, pixels.

    Returns:
        (N, D) float32.

    Raises:
        UserError: no such trunk, its weights cannot be had, or a size that it does not take.
    """
    from trainer.data.pipeline import eval_batches
    from trainer.models import build
    from trainer.retrieval.embed import embed

    try:
        model = build(
            "mildnet",
            image_size=image_size,
            trunk=trunk,
            weights=weights,
            preprocessing="native",
            skips=("none",),
            embedding_dim=None,
        )
    except ValueError as error:
        raise UserError(f"trunk {trunk}: {error}") from None
    batches = eval_batches(table, image_size=image_size, batch_size=BATCH)
    with bar("features of the trunk", len(table)) as advance:

        def features(images: Any) -> Any:
            found = model(images, training=False)
            advance(len(images))
            return found

        return embed(features, batches, len(table), paths=table.path.tolist())


def _picture(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels[np.newaxis])

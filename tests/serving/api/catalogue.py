"""A small catalogue of pictures, and a model that needs no training: histograms of colours."""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.config import get
from trainer.data.open_image import open_image
from trainer.serving.catalogue import CatalogueIndex, changing, write_catalogue
from trainer.serving.live import LiveCatalogue

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 50, 210)}


def embed(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return the histograms of the colours of pictures, 4 x 4 x 4 bins, of unit length."""
    rows = []
    for picture in pictures:
        bins = (picture.reshape(-1, 3) // 64).astype(int) @ (16, 4, 1)
        row = np.bincount(bins, minlength=64).astype(np.float32)
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def picture(
    colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), kind: str = "JPEG", **how: Any
) -> bytes:
    """Return a file with a picture of one colour, a lighter left half and some noise."""
    pixels = np.random.default_rng(0).normal(0, 8, (size[1], size[0], 3)) + colour
    pixels[:, : size[0] // 2] += 30
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, kind, **how)
    return stream.getvalue()


def indexed(folder: Path) -> Path:
    """Write a picture of each colour in two categories, and an index of them."""
    rows, folder = [], folder / "pictures"
    for category in ("shirts", "shoes"):
        for label, colour in COLOURS.items():
            path = folder / category / f"{label}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(colour, kind="PNG"))
            rows.append([str(path.relative_to(folder)), label, category])
    return index_of(folder, ["path", "label", "category"], rows)


def index_of(folder: Path, columns: list[str], rows: list[list[str]]) -> Path:
    """Write the list of the pictures in a folder and an index of them; return where it is."""
    with open(folder / "items.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    items = get("dataset", "items").build(str(folder))
    embeddings = embed([np.asarray(open_image(path)) for path in items.path])
    index = folder.with_name(f"{folder.name}-index")
    with changing(index):
        write_catalogue(CatalogueIndex.exact(items, embeddings), index)
    return index


@contextlib.contextmanager
def filled() -> Iterator[LiveCatalogue]:
    """Give a catalogue with a product of each colour in two categories, which may change."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(LiveCatalogue(indexed(Path(folder)))) as live,
    ):
        yield live

"""A catalogue in memory that answers as `LiveCatalogue` does, and a model without training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from trainer.config import UserError

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 50, 210)}


@dataclass(frozen=True)
class Item:
    id: str
    label: str
    category: str = ""
    domain: str = ""
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Neighbour:
    item: Item
    score: float
    rank: int


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


class Memory:
    """See `trainer.serving.live.LiveCatalogue`."""

    def __init__(self) -> None:
        self.version = 0
        self.dim = 64
        self._items: dict[str, tuple[Item, bytes, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({item.category for item, _, _ in self._items.values()} - {""}))

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(sorted({item.domain for item, _, _ in self._items.values()} - {""}))

    def search(
        self,
        embeddings: np.ndarray,
        k: int,
        *,
        category: str | None = None,
        domain: str | None = None,
        label: str | None = None,
        without: Sequence[str] = (),
    ) -> list[list[Neighbour]]:
        found = []
        for query in embeddings:
            scored = [
                (float(query @ row), item)
                for item, _, row in self._items.values()
                if item.id not in without
                and category in (None, item.category)
                and domain in (None, item.domain)
                and label in (None, item.label)
            ]
            scored.sort(key=lambda pair: -pair[0])
            found.append(
                [Neighbour(item, score, n) for n, (score, item) in enumerate(scored[:k], start=1)]
            )
        return found

    def get(self, name: str) -> Item:
        return self._items[name][0]

    def vector(self, name: str) -> np.ndarray:
        return self._items[name][2]

    def picture(self, name: str) -> tuple[Any, Any]:
        item, content, _ = self._items[name]
        return content, item.box

    def picture_mark(self, name: str) -> object:
        return self._items[name]

    def list(
        self, offset: int, limit: int, category: str | None = None, domain: str | None = None
    ) -> list[Item]:
        items = [
            item
            for item, _, _ in self._items.values()
            if category in (None, item.category) and domain in (None, item.domain)
        ]
        return items[offset : offset + limit]

    def add(
        self,
        name: str,
        picture: bytes,
        embedding: np.ndarray,
        *,
        label: str,
        category: str = "",
        domain: str = "",
        box: tuple[float, float, float, float] | None = None,
        replace: bool = False,
    ) -> None:
        if name in self._items and not replace:
            raise UserError(f"there is an item {name} already")
        self._items[name] = (Item(name, label, category, domain, box), picture, embedding)
        self.version += 1

    def remove(self, name: str) -> None:
        del self._items[name]
        self.version += 1


def filled() -> Memory:
    """Return a catalogue with a product of each colour in two categories."""
    catalogue = Memory()
    for label, colour in COLOURS.items():
        for category in ("shirts", "shoes"):
            content = picture(colour, kind="PNG")
            with Image.open(io.BytesIO(content)) as image:
                row = embed([np.asarray(image)])[0]
            catalogue.add(f"{category}/{label}", content, row, label=label, category=category)
    return catalogue

"""Catalogues on disk with random vectors, and what a slow search says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.config import get
from trainer.data.table import ItemTable
from trainer.serving.catalogue import MODEL, CatalogueIndex, item_ids, write_catalogue
from trainer.serving.changes import Item

DIM = 8
FIELDS = {"category": ["shirts", "shoes", ""], "domain": ["shop", "street"], "label": list("abcde")}
SMALL = {"ivf_pq": {"bits": 4, "nlist": 4, "nprobe": 4, "m": 8}}


def vectors(rng, count):
    return rng.standard_normal((count, DIM)).astype(np.float32)


def draw_fields(rng):
    return {name: str(rng.choice(values)) for name, values in FIELDS.items()}


def write(
    folder: Path, rows: list[dict], embeddings: np.ndarray, kind: str = "flat", **parameters
) -> None:
    """Write an index of items, each a mapping for `ItemTable.from_rows`."""
    items = ItemTable.from_rows(rows)
    index = get("index", kind).build(**{**SMALL.get(kind, {}), **parameters})
    index.build(embeddings, item_ids(items))
    index.notes[MODEL] = "model-1"
    write_catalogue(CatalogueIndex(index, items), folder)


def made(folder: Path, count: int = 60, kind: str = "flat", seed: int = 0, **parameters):
    """Write an index of `count` items, and return what it holds: id -> item and embedding."""
    rng = np.random.default_rng(seed)
    fields = [draw_fields(rng) for _ in range(count)]
    embeddings = vectors(rng, count)
    rows = [{"path": f"/data/shop/{n % 3}/{n}.jpg", **one} for n, one in enumerate(fields)]
    write(folder, rows, embeddings, kind, **parameters)
    names = [f"{n % 3}/{n}.jpg" for n in range(count)]
    return {
        name: (Item(name, **one), vector)
        for name, one, vector in zip(names, fields, embeddings, strict=True)
    }


def similarities(query, vectors, similarity):
    query, vectors = query.astype(np.float64), vectors.astype(np.float64)
    if similarity == "euclidean":
        return -np.square(vectors - query).sum(axis=1)
    if similarity == "cosine":
        query = query / np.linalg.norm(query)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ query


def nearest(held, query, k, similarity="cosine", without=(), **wanted):
    """What an exact search in float64 finds: (item, score) each, nearest first."""
    held = [
        (item, vector)
        for item, vector in held.values()
        if item.id not in without
        and all(value is None or getattr(item, name) == value for name, value in wanted.items())
    ]
    if not held:
        return []
    scores = similarities(query, np.stack([vector for _, vector in held]), similarity)
    return [(held[n][0], scores[n]) for n in np.argsort(-scores, kind="stable")[:k]]

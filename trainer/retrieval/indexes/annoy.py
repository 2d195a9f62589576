"""Annoy: a forest of random splits whose file is searched straight from disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.config import UserError, register
from trainer.retrieval.indexes.base import Index

METRICS: dict[str, Any] = {"cosine": "angular", "dot": "dot", "euclidean": "euclidean"}


def _annoy(dim: int, similarity: str) -> Any:
    try:
        from annoy import AnnoyIndex
    except ImportError:
        raise UserError(
            "this index needs Annoy: pip install 'mildnet[annoy]' (it compiles: a C++ compiler is "
            "needed)"
        ) from None
    return AnnoyIndex(dim, METRICS[similarity])


@register("index", "annoy")
class Annoy(Index):
    """Approximate search in a forest of random splits; the file is mapped, not loaded (Annoy).

    https://github.com/spotify/annoy

    A forest can't be changed: adding and removing builds it anew from the vectors in its file.

    Args:
        similarity: `cosine`, `dot` or `euclidean`.
        trees: trees in the forest, at least 1; more is better and larger.
        search_k: nodes looked at for a query; none takes trees x neighbours asked for; more is
            slower and better.
        seed: of the splits.
    """

    kind = "annoy"
    tunable = ("search_k",)
    filename = "index.annoy"
    #: Threads of a search of several queries; None: one for each processor of the machine.
    threads: int | None = None

    def __init__(
        self,
        *,
        similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
        trees: int = 50,
        search_k: int | None = None,
        seed: int = 0,
    ) -> None:
        if trees < 1 or (search_k is not None and search_k < 1):
            raise ValueError(f"trees={trees}, search_k={search_k}: both must be at least 1")
        super().__init__(similarity, trees=trees, search_k=search_k, seed=seed)

    def _build(self, embeddings: np.ndarray) -> None:
        index = _annoy(embeddings.shape[1], self.similarity)
        index.set_seed(self.parameters["seed"])
        for row, vector in enumerate(embeddings):
            index.add_item(row, vector)
        # One job: with several, the trees depend on which thread comes first.
        index.build(self.parameters["trees"], n_jobs=1)
        self._index = index

    def _update(self, gone: np.ndarray, new: np.ndarray) -> None:
        # A forest can't be changed once it is built; it keeps the vectors for another one.
        stay = np.delete(np.arange(len(self)), gone)
        held = np.empty((len(stay), self.dim), np.float32)
        for row, item in enumerate(stay.tolist()):
            held[row] = self._index.get_item_vector(item)
        self._build(np.concatenate([held, new]))

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        look = self.parameters["search_k"] or -1
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)

        def one(row: int) -> None:
            found, distances = self._index.get_nns_by_vector(queries[row], k, look, True)
            positions[row, : len(found)] = found
            scores[row, : len(found)] = self._scores(np.array(distances))

        with ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:
            list(pool.map(one, range(len(queries)), chunksize=64))
        return positions, scores

    def _scores(self, distances: np.ndarray) -> np.ndarray:
        if self.similarity == "cosine":  # the angular distance is sqrt(2 (1 - cosine))
            return 1 - distances**2 / 2
        return -(distances**2) if self.similarity == "euclidean" else distances

    def _write(self, path: Path) -> None:
        self._index.save(str(path))

    def _read(self, path: Path, dim: int) -> tuple[int, int]:
        index = _annoy(dim, self.similarity)
        index.load(str(path))
        self._index = index
        return index.get_n_items(), dim

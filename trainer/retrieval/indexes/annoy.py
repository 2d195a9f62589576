"""Annoy: a forest of random splits whose file is searched straight from disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.config import UserError, register
from trainer.retrieval.indexes.base import Index

#: With a filter, so many times the neighbours that would do if it left out items evenly.
SPARE = 1.5
#: Items that are compared one by one rather than looked for in the forest.
FEW = 2000
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

    A forest can't be changed: adding and removing builds it anew from the vectors in its file. Nor
    does it know of filters: more neighbours are asked for than are wanted, and where those that
    may be found are few, the query is compared with each of them.

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
        self._build(np.concatenate([self._vectors(stay), new]))

    def _search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        look, wanted = self.parameters["search_k"] or -1, k
        if among is not None:
            rows = np.flatnonzero(among)
            wanted = int(SPARE * k * len(self) / len(rows))
            if len(rows) <= FEW or wanted >= len(self) // 2:
                return self._exact(queries, k, rows)
            look = look if look < 0 else look * wanted // k
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)

        def one(row: int) -> None:
            listed, distances = self._index.get_nns_by_vector(queries[row], wanted, look, True)
            found, near = np.array(listed, np.int64), self._scores(np.array(distances))
            if among is not None:
                kept = among[found]
                found, near = found[kept][:k], near[kept][:k]
            positions[row, : len(found)] = found
            scores[row, : len(found)] = near

        with ThreadPoolExecutor(self.threads or os.cpu_count()) as pool:
            list(pool.map(one, range(len(queries)), chunksize=64))
        if among is not None:
            # None of those that may be found lies near such a query.
            lacking = (positions < 0).any(axis=1)
            if lacking.any():
                positions[lacking], scores[lacking] = self._exact(queries[lacking], k, rows)
        return positions, scores

    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        held = np.empty((len(positions), self.dim), np.float32)
        for row, item in enumerate(positions.tolist()):
            held[row] = self._index.get_item_vector(item)
        return held

    def _scores(self, distances: np.ndarray) -> np.ndarray:
        if self.similarity == "cosine":  # the angular distance is sqrt(2 (1 - cosine))
            return 1 - distances**2 / 2
        return -(distances**2) if self.similarity == "euclidean" else distances

    def _write(self, path: Path) -> None:
        self._index.save(str(path))

    def _read(self, path: Path, dim: int, mapped: bool) -> tuple[int, int]:
        index = _annoy(dim, self.similarity)
        index.load(str(path))
        self._index = index
        return index.get_n_items(), dim

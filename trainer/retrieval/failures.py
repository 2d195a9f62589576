"""The queries that a search answers worst, to look at: their pictures say more than a mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.retrieval.metrics import evaluate
from trainer.retrieval.vectors import normalise

#: Queries whose similarities are held at a time.
BLOCK = 256


@dataclass(frozen=True)
class Failure:
    """A query whose nearest neighbour is wrong.

    Attributes:
        query: its row in the embeddings.
        wrong: rows of its nearest wrong neighbours, nearest first; all are nearer than `right`.
        wrong_scores: their cosine similarities to the query, -1..1.
        right: row of its nearest right item.
        right_score: cosine similarity of that item, -1..1.
        rank: place of that item among all neighbours, from 2.
    """

    query: int
    wrong: tuple[int, ...]
    wrong_scores: tuple[float, ...]
    right: int
    right_score: float
    rank: int


@dataclass(frozen=True)
class Failures:
    """What :func:`hardest_failures` found.

    Attributes:
        hardest: worst first.
        failed: queries whose nearest neighbour is wrong.
        queries: queries that have something to find.
    """

    hardest: tuple[Failure, ...]
    failed: int
    queries: int


def hardest_failures(
    embeddings: np.ndarray,
    labels: np.ndarray,
    count: int,
    *,
    is_query: np.ndarray | None = None,
    is_gallery: np.ndarray | None = None,
    neighbours: int = 5,
) -> Failures:
    """Return the queries whose nearest right item comes last.

    Of equal ranks the one with the most similar wrong neighbour comes first, then the lower row.
    Queries and ranks are those of :func:`trainer.retrieval.metrics.evaluate` with `cosine`.

    Args:
        embeddings: (N, D) float, finite.
        labels: (N,) integers or strings.
        count: failures wanted, 0 or more; there may be fewer.
        is_query: (N,) bool, see `evaluate`.
        is_gallery: (N,) bool, see `evaluate`.
        neighbours: wrong neighbours of each, at least 1.

    Raises:
        UserError: as `evaluate`.
    """
    measured = evaluate(
        embeddings, labels, is_query=is_query, is_gallery=is_gallery, ks=(1,), bootstrap=0
    )
    ranks = np.rint(1 / measured.per_query["mrr"]).astype(np.int64)
    failed = np.flatnonzero(ranks > 1)
    if not count or not len(failed):
        return Failures((), len(failed), measured.queries)
    if is_gallery is None:
        is_gallery = np.ones(len(labels), bool) if is_query is None else ~is_query
    search = _Search(embeddings, np.asarray(labels), np.flatnonzero(is_gallery))
    # Ranks decide all but the ties at the cut; similarities are made for those that may be shown.
    cut = np.sort(ranks[failed])[-min(count, len(failed))]
    chosen = failed[ranks[failed] >= cut]
    confidence = search.best_wrong(measured.rows[chosen])
    order = np.lexsort((chosen, -confidence, -ranks[chosen]))[:count]
    hardest = (
        search.failure(int(measured.rows[query]), int(ranks[query]), neighbours)
        for query in chosen[order]
    )
    return Failures(tuple(hardest), len(failed), measured.queries)


class _Search:
    """Cosine similarities of some rows to the gallery."""

    def __init__(self, embeddings: np.ndarray, labels: np.ndarray, items: np.ndarray) -> None:
        self._embeddings = embeddings
        self._labels = labels
        self._items = items
        self._gallery = _normalised(embeddings[items])

    def best_wrong(self, queries: np.ndarray) -> np.ndarray:
        """Return the similarity of each query's nearest wrong neighbour."""
        best = np.empty(len(queries), np.float32)
        for low in range(0, len(queries), BLOCK):
            part = queries[low : low + BLOCK]
            similarities = _normalised(self._embeddings[part]) @ self._gallery.T
            right = self._labels[part, None] == self._labels[None, self._items]
            best[low : low + len(part)] = np.where(right, -np.inf, similarities).max(axis=1)
        return best

    def failure(self, query: int, rank: int, neighbours: int) -> Failure:
        """Return the neighbours of one query, whose nearest right item has this rank."""
        items = self._items
        similarities = (_normalised(self._embeddings[[query]]) @ self._gallery.T)[0]
        same = self._labels[items] == self._labels[query]
        best = int(np.argmax(np.where(same & (items != query), similarities, -np.inf)))
        order = np.argsort(np.where(same, np.inf, -similarities), kind="stable")
        order = order[: min(neighbours, rank - 1)]
        return Failure(
            query=query,
            wrong=tuple(items[order].tolist()),
            wrong_scores=tuple(similarities[order].tolist()),
            right=int(items[best]),
            right_score=float(similarities[best]),
            rank=rank,
        )


def _normalised(rows: np.ndarray) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    normalise(vectors)
    return vectors

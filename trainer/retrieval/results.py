"""What a search returns, checked once, so that metrics and pictures never see raw index output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.retrieval.vectors import check_ids


@dataclass(frozen=True)
class RetrievalResults:
    """The neighbours of some queries, nearest first.

    Queries may have fewer than K neighbours (a small index, an approximate search): what lies
    beyond `counts` in a row is padding and means nothing.

    Attributes:
        queries: (Q,) ids of the queries, int64 or str; one may occur more than once.
        neighbours: (Q, K) ids, int64 or str, no id twice in a row.
        scores: (Q, K) float32, finite, descending in each row: higher is closer.
        counts: (Q,) int64, how many neighbours of each row are real. Default: all K.

    Raises:
        UserError: lengths that disagree, a repeated neighbour, scores out of order or not finite.
    """

    queries: np.ndarray
    neighbours: np.ndarray
    scores: np.ndarray
    counts: np.ndarray | None = None

    def __post_init__(self) -> None:
        queries = check_ids(self.queries, "query ids")
        neighbours = check_ids(self.neighbours, "neighbour ids")
        scores = np.asarray(self.scores, np.float32)
        if neighbours.ndim != 2 or queries.shape != neighbours.shape[:1]:
            raise UserError(
                f"results have {queries.shape} queries and {neighbours.shape} neighbours: "
                "(Q,) and (Q, K) are needed"
            )
        if scores.shape != neighbours.shape:
            raise UserError(f"results have {neighbours.shape} neighbours but {scores.shape} scores")
        width = neighbours.shape[1]
        counts = np.full(len(queries), width) if self.counts is None else np.asarray(self.counts)
        if counts.shape != queries.shape or ((counts < 0) | (counts > width)).any():
            raise UserError(f"result counts are not {len(queries)} numbers from 0 to {width}")
        real = np.arange(width) < counts[:, None]
        if not np.isfinite(scores[real]).all():
            raise UserError("result scores hold NaN or infinity")
        if ((scores[:, 1:] > scores[:, :-1]) & real[:, 1:]).any():
            raise UserError("result scores are not in descending order")
        _check_unique(neighbours, counts)
        for name, value in (
            ("queries", queries),
            ("neighbours", neighbours),
            ("scores", scores),
            ("counts", counts.astype(np.int64)),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.queries)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores of query `number`, without padding."""
        assert self.counts is not None  # noqa: S101 - set by __post_init__
        count = int(self.counts[number])
        return self.neighbours[number, :count], self.scores[number, :count]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one `{query, rank, id, score}` per neighbour, for tables; ranks start at 1."""
        return [
            {"query": query, "rank": rank, "id": neighbour, "score": score}
            for number, query in enumerate(self.queries.tolist())
            for rank, (neighbour, score) in enumerate(
                zip(*(part.tolist() for part in self.row(number)), strict=True), start=1
            )
        ]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain values for JSON; :meth:`from_dict` gives back equal results."""
        rows = [self.row(number) for number in range(len(self))]
        return {
            "queries": self.queries.tolist(),
            "neighbours": [ids.tolist() for ids, _ in rows],
            "scores": [scores.tolist() for _, scores in rows],
        }

    @classmethod
    def from_dict(cls, data: dict[str, list[Any]]) -> RetrievalResults:
        """Return the results that :meth:`to_dict` wrote.

        Raises:
            UserError: a key is missing, or what is there makes no valid results.
        """
        missing = {"queries", "neighbours", "scores"} - set(data)
        if missing:
            raise UserError(f"results lack {', '.join(sorted(missing))}")
        ids, scores = data["neighbours"], data["scores"]
        counts = [len(row) for row in ids]
        if counts != [len(row) for row in scores]:
            raise UserError("results have rows with unequal numbers of neighbours and scores")
        width = max(counts, default=0)
        flat = check_ids([value for row in ids for value in row], "neighbour ids")
        table = np.zeros((len(ids), width), flat.dtype)
        values = np.zeros((len(ids), width), np.float32)
        real = np.arange(width) < np.array(counts, np.int64)[:, None]
        table[real] = flat
        values[real] = [value for row in scores for value in row]
        return cls(check_ids(data["queries"], "query ids"), table, values, np.array(counts))


def take(
    queries: np.ndarray | Sequence[int] | Sequence[str],
    ids: np.ndarray,
    positions: np.ndarray,
    scores: np.ndarray,
) -> RetrievalResults:
    """Return results from an index's raw answer.

    Args:
        queries: (Q,) ids of the queries.
        ids: (N,) id of each position of the index.
        positions: (Q, K) integers, best first; -1 where the index found nothing.
        scores: (Q, K), higher is closer; ignored where nothing was found.
    """
    found = positions >= 0
    counts = found.sum(axis=1)
    width = int(counts.max(initial=0))
    if (counts == positions.shape[1]).all():
        places = positions
    else:
        order = np.argsort(~found, axis=1, kind="stable")[:, :width]
        places = np.take_along_axis(positions, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
    return RetrievalResults(np.asarray(queries), ids[places], scores, counts)


def _check_unique(neighbours: np.ndarray, counts: np.ndarray) -> None:
    width = neighbours.shape[1]
    full = counts == width
    ordered = np.sort(neighbours[full], axis=1)
    repeated = bool((ordered[:, 1:] == ordered[:, :-1]).any())
    for number in np.flatnonzero(~full):
        real = neighbours[number, : counts[number]]
        repeated = repeated or len(np.unique(real)) < len(real)
    if repeated:
        raise UserError("results list one neighbour twice for the same query")

"""What lies behind the means: curves, similarities, confusions, and every query by difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.retrieval.metrics import Evaluation, chosen_rows, evaluate
from trainer.retrieval.ranking import SimilarityBlock
from trainer.retrieval.vectors import check_embeddings

#: Neighbours that curves go to.
DEPTH = 50
#: Bins of cosine similarity from -1 to 1, each 0.001 wide.
BINS = 2000


@dataclass(frozen=True)
class Curves:
    """Means over the queries against K = 1, 2, ...; each has shape (K,) and lies in 0..1.

    With R the number of relevant items of a query and `r_1 < r_2 < ...` their ranks:

    Attributes:
        recall: 1 if `r_1 <= K`, else 0: as `recall_at_K` of `metrics.evaluate`.
        found: (number of `r_i <= K`) / R, the share of the relevant items that is found.
        precision: (number of `r_i <= K`) / K: `precision_at_K` of `evaluate`.
        ceiling: min(R, K) / K, the highest precision that there can be.
    """

    recall: np.ndarray
    found: np.ndarray
    precision: np.ndarray
    ceiling: np.ndarray


@dataclass(frozen=True)
class Similarities:
    """Cosine similarities of all pairs of a query and a gallery item, counted in bins.

    A bin holds its lower edge and not its upper one (the last holds both); a similarity within
    rounding of an edge, some 1e-7, may be on either side of it.

    Attributes:
        edges: (bins + 1,) from -1 to 1.
        same: pairs of the same label, (bins,) int64.
        other: pairs of different labels, (bins,) int64.
    """

    edges: np.ndarray
    same: np.ndarray
    other: np.ndarray

    def auc(self) -> tuple[float, float]:
        """Return the area under the ROC curve, 0..1, and by how much bins can make it wrong.

        It is the probability that a same-item pair is more similar than a different-item pair,
        both drawn at random; pairs in one bin count as tied, by half.
        """
        same, other = self.same / self.same.sum(), self.other / self.other.sum()
        below = np.cumsum(other) - other
        within = float((same * other).sum())
        return float((same * below).sum()) + within / 2, within / 2

    def equal_error(self) -> tuple[float, float]:
        """Return the threshold at which as large a share of same-item pairs lies below it as of
        different-item pairs at or above it, and that share, 0..1; linear within a bin."""
        missed = np.r_[0, np.cumsum(self.same)] / self.same.sum()
        passed = 1 - np.r_[0, np.cumsum(self.other)] / self.other.sum()
        gap = missed - passed  # from -1 up to 1
        high = int(np.argmax(gap >= 0))
        low = high - 1
        part = gap[low] / (gap[low] - gap[high])
        threshold = self.edges[low] + part * (self.edges[high] - self.edges[low])
        return float(threshold), float(missed[low] + part * (missed[high] - missed[low]))

    def medians(self) -> tuple[float, float]:
        """Return the median similarity of same-item and of different-item pairs, to half a bin."""
        middles = (self.edges[:-1] + self.edges[1:]) / 2
        same, other = (
            float(middles[int(np.searchsorted(np.cumsum(part), part.sum() / 2))])
            for part in (self.same, self.other)
        )
        return same, other

    def densities(self, bars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return at most about `bars` wider bins of the range that occurs: their edges, and the
        density of same-item and of different-item pairs, each with an area of 1."""
        there = np.flatnonzero(self.same + self.other)
        step = max(1, -(-(there[-1] + 1 - there[0]) // bars))
        first = there[0] // step * step
        starts = np.arange(first, there[-1] + 1, step)
        edges = self.edges[np.r_[starts, min(starts[-1] + step, len(self.same))]]
        same, other = (
            np.add.reduceat(part, starts) / part.sum() / np.diff(edges)
            for part in (self.same, self.other)
        )
        return edges, same, other


@dataclass(frozen=True)
class Confusion:
    """Queries by what they are and what their first neighbour is.

    Attributes:
        names: of the classes, sorted.
        true: class of the queries, as a place in `names`, (P,).
        found: class of their first neighbour, (P,).
        count: how many queries it is so for, at least 1, (P,).
        skipped: queries that are left out, as the gallery has nothing of their class.
    """

    names: tuple[str, ...]
    true: np.ndarray
    found: np.ndarray
    count: np.ndarray
    skipped: int

    @property
    def queries(self) -> int:
        """Queries that are counted."""
        return int(self.count.sum())

    @property
    def accuracy(self) -> float:
        """Share of queries whose first neighbour is of their class, 0..1."""
        return float(self.count[self.true == self.found].sum() / self.queries)

    def matrix(self) -> np.ndarray:
        """Return the (C, C) int64 counts: rows are classes of queries, columns of neighbours."""
        matrix = np.zeros((len(self.names),) * 2, np.int64)
        matrix[self.true, self.found] = self.count
        return matrix

    def mistakes(self, limit: int) -> list[tuple[str, str, int, float]]:
        """Return the most frequent mistakes: class, class that was found, how many queries, and
        their share of the queries of the class, 0..1."""
        per_class = np.bincount(self.true, self.count, len(self.names))
        wrong = np.flatnonzero(self.true != self.found)
        order = wrong[np.argsort(-self.count[wrong], kind="stable")][:limit]
        return [
            (self.names[true], self.names[found], int(count), float(count / per_class[true]))
            for true, found, count in zip(
                self.true[order], self.found[order], self.count[order], strict=True
            )
        ]


@dataclass(frozen=True)
class Retrieved:
    """Queries that have something to find, from the easiest to the hardest.

    The margin of a query is the cosine similarity of its nearest right item minus that of its
    nearest wrong one: below 0, the first neighbour is wrong. The query with the highest margin is
    the easiest; of equal margins the lower row comes first.

    Attributes:
        queries: their rows in the embeddings, (U,).
        margins: -2..2, (U,) float32.
        ranks: place of the nearest right item among all neighbours, from 1, (U,).
        right: row of the nearest right item, (U,).
        right_scores: its similarity, (U,) float32.
        neighbours: rows of the first neighbours, nearest first, -1 where there are no more, (U, K).
        scores: their similarities, (U, K) float32.
    """

    queries: np.ndarray
    margins: np.ndarray
    ranks: np.ndarray
    right: np.ndarray
    right_scores: np.ndarray
    neighbours: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class DeepEvaluation:
    """What :func:`deep_evaluate` found.

    Attributes:
        evaluation: the metrics, with their intervals and breakdowns.
        curves: recall and precision against K.
        similarities: of same-item and of different-item pairs.
        labels: classification by the first neighbour's label; its accuracy is Recall@1.
        categories: the same by category; None where there are no categories, or nothing to find.
        retrieved: every query with its neighbours, from easiest to hardest.
    """

    evaluation: Evaluation
    curves: Curves
    similarities: Similarities
    labels: Confusion
    categories: Confusion | None
    retrieved: Retrieved = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics, and under `deep` the rest but for the queries, ready for JSON."""
        pairs = self.similarities
        there = np.flatnonzero(pairs.same + pairs.other)
        occur = slice(int(there[0]), int(there[-1]) + 1)
        area, error = pairs.auc()
        threshold, rate = pairs.equal_error()
        classified = {"label": self.labels, "category": self.categories}
        return self.evaluation.to_dict() | {
            "deep": {
                "curves": {name: values.tolist() for name, values in vars(self.curves).items()},
                "similarities": {
                    "edges": pairs.edges[occur.start : occur.stop + 1].round(6).tolist(),
                    "same": pairs.same[occur].tolist(),
                    "other": pairs.other[occur].tolist(),
                    "auc": area,
                    "auc_error": error,
                    "equal_error_threshold": threshold,
                    "equal_error_rate": rate,
                },
                "first_neighbour": {
                    name: {
                        "accuracy": confusion.accuracy,
                        "queries": confusion.queries,
                        "skipped": confusion.skipped,
                    }
                    for name, confusion in classified.items()
                    if confusion is not None
                },
                "confusion": None
                if self.categories is None
                else [
                    {"category": self.categories.names[true], "found": self.categories.names[found]}
                    | {"queries": int(count)}
                    for true, found, count in zip(
                        self.categories.true,
                        self.categories.found,
                        self.categories.count,
                        strict=True,
                    )
                ],
            }
        }


def deep_evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray | Sequence[int] | Sequence[str],
    *,
    is_query: np.ndarray | None = None,
    is_gallery: np.ndarray | None = None,
    categories: np.ndarray | Sequence[str] | None = None,
    neighbours: int = 10,
    label_names: Sequence[str] | None = None,
    **options: Any,
) -> DeepEvaluation:
    """Measure embeddings as :func:`~trainer.retrieval.metrics.evaluate` does, and look deeper.

    Everything comes from one pass over the similarities of all queries to the gallery, block by
    block; memory beside a block is that of the first neighbours. Similarity is cosine.

    Args:
        embeddings: (N, D) float, finite.
        labels: (N,) integers or strings.
        is_query: (N,) bool, see `evaluate`.
        is_gallery: (N,) bool, see `evaluate`.
        categories: (N,) strings, empty where there is none.
        neighbours: first neighbours kept of each query, at least 1.
        label_names: what integer labels 0, 1, ... are called; default: their numbers.
        options: of `evaluate`.

    Raises:
        UserError: as `evaluate`, or a gallery with items of one label only.
    """
    embeddings = check_embeddings(embeddings)
    queries, gallery = chosen_rows(is_query, is_gallery, len(embeddings))
    collected = _Collector(len(queries), len(gallery), max(neighbours, DEPTH))
    evaluation = evaluate(
        embeddings,
        labels,
        is_query=is_query,
        is_gallery=is_gallery,
        categories=categories,
        look=collected,
        **options,
    )
    values, codes = np.unique(np.asarray(labels), return_inverse=True)
    if len(np.unique(codes[gallery])) == 1:
        raise UserError(
            f"all {len(gallery)} images of the gallery have one label: there is nothing to tell "
            "apart"
        )
    # The place that stands for "no more neighbours" is -1: it picks the entry added at the end.
    items = np.r_[gallery, -1][collected.items]
    used = np.flatnonzero(collected.right >= 0)
    margins = collected.right_scores[used] - collected.wrong_scores[used]
    order = np.argsort(-margins, kind="stable")
    easiest = used[order]
    names = [str(value) if label_names is None else label_names[value] for value in values]
    first = items[:, 0]
    return DeepEvaluation(
        evaluation=evaluation,
        curves=_curves(codes, queries[used], items[used, :DEPTH], collected.counts[used], gallery),
        similarities=Similarities(
            np.linspace(-1, 1, BINS + 1), collected.same, collected.all - collected.same
        ),
        labels=_confusion(codes, names, queries, first, gallery),
        categories=_by_category(categories, queries, first, gallery),
        retrieved=Retrieved(
            queries=queries[easiest],
            margins=margins[order],
            ranks=np.rint(1 / evaluation.per_query["mrr"][order]).astype(np.int64),
            right=gallery[collected.right[easiest]],
            right_scores=collected.right_scores[easiest],
            neighbours=items[easiest, :neighbours],
            scores=collected.scores[easiest, :neighbours],
        ),
    )


class _Collector:
    """Takes from each block of similarities what is to be kept of it."""

    def __init__(self, queries: int, gallery: int, nearest: int) -> None:
        nearest = min(nearest, gallery)
        self.items = np.full((queries, nearest), -1, np.int32)
        self.scores = np.zeros((queries, nearest), np.float32)
        self.counts = np.zeros(queries, np.int64)
        self.right = np.full(queries, -1, np.int64)
        self.right_scores = np.zeros(queries, np.float32)
        self.wrong_scores = np.zeros(queries, np.float32)
        self.same = np.zeros(BINS, np.int64)
        self.all = np.zeros(BINS, np.int64)

    def __call__(self, block: SimilarityBlock) -> None:
        """Take what is to be kept; the similarities of relevant items are overwritten."""
        self.counts[block.queries] = block.counts
        query = np.repeat(np.arange(len(block.queries)), block.counts)
        self.same += _binned(block.similarities[query, block.relevant])
        parts = np.array_split(np.arange(len(block.queries)), 16)
        for total in block.pool.map(lambda rows: self._rows(block, rows), parts):
            self.all += total

    def _rows(self, block: SimilarityBlock, rows: np.ndarray) -> np.ndarray:
        """Take a few rows, and return how many of their pairs are in each bin."""
        total = np.zeros(BINS, np.int64)
        for number in rows.tolist():
            row, query = block.similarities[number], int(block.queries[number])
            total += _binned(row)
            others = len(row)
            if block.own[number] >= 0:  # at -inf, in the first bin, and last of all
                total[0] -= 1
                others -= 1
            nearest = _nearest(row, min(self.items.shape[1], others))
            self.items[query, : len(nearest)] = nearest
            self.scores[query, : len(nearest)] = row[nearest]
            start, count = block.starts[number], block.counts[number]
            if count:
                relevant = block.relevant[start : start + count]
                best = relevant[np.argmax(row[relevant])]
                self.right[query], self.right_scores[query] = best, row[best]
                row[relevant] = -np.inf
                self.wrong_scores[query] = row.max()
        return total


def _binned(similarities: np.ndarray) -> np.ndarray:
    """Return how many similarities are in each bin; those beyond -1 or 1 are in the end ones."""
    places = similarities + np.float32(1)
    places *= np.float32(BINS / 2)
    np.clip(places, 0, BINS - 1, out=places)
    return np.bincount(places.astype(np.int64), minlength=BINS)


def _nearest(row: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the highest values, highest first, of equal ones the first first."""
    if not count:
        return np.empty(0, np.int64)
    least = np.partition(row, len(row) - count)[len(row) - count]
    there = np.flatnonzero(row >= least)
    return there[np.argsort(-row[there], kind="stable")[:count]]


def _curves(
    codes: np.ndarray,
    queries: np.ndarray,
    items: np.ndarray,
    relevant: np.ndarray,
    gallery: np.ndarray,
) -> Curves:
    # A query that is in the gallery itself has one neighbour less than others.
    depth = min(items.shape[1], len(gallery) - int(np.isin(queries, gallery).any()))
    items = items[:, :depth]
    right = (codes[items] == codes[queries][:, None]) & (items >= 0)
    ks = np.arange(1, depth + 1)
    hits = np.cumsum(right, axis=1)
    return Curves(
        recall=(hits > 0).mean(axis=0),
        found=(hits / relevant[:, None]).mean(axis=0),
        precision=hits.mean(axis=0) / ks,
        ceiling=np.minimum(relevant[:, None], ks).mean(axis=0) / ks,
    )


def _by_category(
    categories: np.ndarray | Sequence[str] | None,
    queries: np.ndarray,
    first: np.ndarray,
    gallery: np.ndarray,
) -> Confusion | None:
    if categories is None:
        return None
    names, codes = np.unique(np.asarray(categories).astype(str), return_inverse=True)
    known = names[codes[queries]] != ""
    confusion = _confusion(codes, names.tolist(), queries[known], first[known], gallery)
    return confusion if confusion.queries else None


def _confusion(
    codes: np.ndarray,
    names: Sequence[str],
    queries: np.ndarray,
    first: np.ndarray,
    gallery: np.ndarray,
) -> Confusion:
    """Count queries by class and first neighbour's class, where the class can be found at all."""
    per_class = np.bincount(codes[gallery], minlength=len(names))
    own = np.isin(queries, gallery)
    used = per_class[codes[queries]] - own > 0
    pairs = codes[queries[used]] * len(names) + codes[first[used]]
    keys, count = np.unique(pairs, return_counts=True)
    true, found = keys // len(names), keys % len(names)
    # Classes that are neither asked for nor found would be empty rows and columns.
    there, places = np.unique(np.r_[true, found], return_inverse=True)
    return Confusion(
        tuple(names[code] for code in there),
        places[: len(true)],
        places[len(true) :],
        count,
        int((~used).sum()),
    )

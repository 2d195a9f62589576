"""Retrieval metrics, exact over the full ranking; `docs/metrics.md` has a worked example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.retrieval.ranking import RankBlock, Ranking, SimilarityBlock
from trainer.retrieval.vectors import Similarity, check_embeddings, check_ids

#: The first match counts for `shifted_reciprocal_rank` up to this rank.
SHIFTED_LIMIT = 1000
#: Matches count for `truncated_map` up to this rank.
TRUNCATED_LIMIT = 1000


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        metrics: name -> mean over queries, 0..1.
        intervals: name -> (low, high), the bootstrap interval of the mean; empty if turned off.
        by_category: category -> `queries` and the metrics of the queries in it.
        by_domain: domain -> the same by the query's domain.
        queries: queries that were used.
        skipped: queries left out because the gallery has nothing relevant to them.
        gallery: items that were searched.
        similarity: `cosine`, `dot` or `euclidean`.
        confidence: coverage of the intervals, 0..1.
        rows: the row of each used query in the embeddings, (queries,).
        per_query: name -> the metric of each used query, (queries,) float64.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    by_category: dict[str, dict[str, float]]
    by_domain: dict[str, dict[str, float]]
    queries: int
    skipped: int
    gallery: int
    similarity: str
    confidence: float
    rows: np.ndarray = field(repr=False)
    per_query: dict[str, np.ndarray] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the per-query arrays as plain values for JSON."""
        return {
            "queries": self.queries,
            "skipped": self.skipped,
            "gallery": self.gallery,
            "similarity": self.similarity,
            "confidence": self.confidence,
            "metrics": dict(self.metrics),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "by_category": {name: dict(group) for name, group in self.by_category.items()},
            "by_domain": {name: dict(group) for name, group in self.by_domain.items()},
        }


def evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray | Sequence[int] | Sequence[str],
    *,
    is_query: np.ndarray | None = None,
    is_gallery: np.ndarray | None = None,
    ks: Sequence[int] = (1, 5, 10, 100),
    similarity: Similarity = "cosine",
    categories: np.ndarray | Sequence[str] | None = None,
    domains: np.ndarray | Sequence[str] | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    block_bytes: int = 128 * 2**20,
    threads: int | None = None,
    look: Callable[[SimilarityBlock], None] | None = None,
) -> Evaluation:
    """Rank the gallery for every query and return the metrics of the whole ranking.

    Neighbours are ordered by descending similarity (float32), equal ones by ascending row;
    identical embeddings are equally similar to every query. A neighbour is relevant if it has the
    query's label. With the ranks `r_1 < ... < r_R` of a query's R relevant items, and K from `ks`:

    - `recall_at_K`: 1 if `r_1 <= K`, else 0 (the convention of metric learning);
    - `precision_at_K`: (number of `r_i <= K`) / K;
    - `map_at_K`: (sum of `i / r_i` over `r_i <= K`) / min(R, K);
    - `r_precision`: (number of `r_i <= R`) / R;
    - `map_at_r`: (sum of `i / r_i` over `r_i <= R`) / R;
    - `map`: (sum of `i / r_i`) / R;
    - `mrr`: `1 / r_1`;
    - `shifted_reciprocal_rank`: `1 / (r_1 + 1)`, 0 where `r_1 > 1000`;
    - `truncated_map`: (sum of `i / r_i` over `r_i <= 1000`) / R.

    Each is averaged over the queries that have a relevant item.

    Args:
        embeddings: (N, D) float, finite.
        labels: (N,) integers or strings.
        is_query: (N,) bool, the rows that search. Default: all rows, or those outside `is_gallery`.
        is_gallery: (N,) bool, the rows that are searched. Default: all rows if `is_query` is not
            given either, else those outside `is_query`. A row in both does not find itself.
        ks: cut-offs, each at least 1, in items.
        similarity: `cosine` (normalises the rows), `dot` or `euclidean`.
        categories: (N,) strings; the metrics are broken down by the query's category.
        domains: (N,) strings; the metrics are broken down by the query's domain.
        bootstrap: resamples of the queries for the intervals; 0 turns them off.
        confidence: coverage of the intervals, between 0 and 1.
        seed: of the resampling.
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads for counting; default: the processors this process may use.
        look: is shown the similarities of every query, block by block, on the way.

    Returns:
        The metrics, each in 0..1, with their intervals and breakdowns.

    Raises:
        UserError: shapes that do not fit, values that are not finite, labels of another type,
            no query or no gallery, or no query with a relevant item.
    """
    if similarity not in ("cosine", "dot", "euclidean"):
        raise UserError(f"similarity {similarity!r} is not one of cosine, dot, euclidean")
    embeddings = check_embeddings(embeddings)
    count = len(embeddings)
    codes = _check_labels(labels, count)
    ks = _check_ks(ks)
    queries, gallery = chosen_rows(is_query, is_gallery, count)
    groups = {
        name: _check_names(values, name, count)
        for name, values in (("categories", categories), ("domains", domains))
    }
    if bootstrap < 0 or not 0 < confidence < 1:
        raise UserError(
            f"bootstrap={bootstrap} and confidence={confidence}: allowed are 0 or more resamples "
            "and a confidence between 0 and 1"
        )

    ranking = Ranking(
        embeddings,
        codes,
        queries,
        gallery,
        similarity=similarity,
        block_bytes=block_bytes,
        threads=threads,
    )
    if not len(ranking.used):
        raise UserError(
            f"none of the {len(queries)} queries has another image of its label in the gallery of "
            f"{len(gallery)}: retrieval needs labels with two or more images"
        )
    parts = [_per_query(block, ks) for block in ranking.blocks(look)]
    per_query = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = queries[ranking.used]
    return Evaluation(
        metrics={name: float(values.mean()) for name, values in per_query.items()},
        intervals=_intervals(per_query, bootstrap, confidence, seed),
        by_category=_by_group(per_query, groups["categories"], rows),
        by_domain=_by_group(per_query, groups["domains"], rows),
        queries=len(rows),
        skipped=len(ranking.skipped),
        gallery=len(gallery),
        similarity=similarity,
        confidence=confidence,
        rows=rows,
        per_query=per_query,
    )


def _per_query(block: RankBlock, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    ranks, starts, relevant = block.ranks, block.starts, block.counts
    hits = np.arange(len(ranks)) - np.repeat(starts, relevant) + 1
    precision = hits / ranks
    first = ranks[starts]

    query = np.repeat(np.arange(len(starts)), relevant)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(query, weights=values, minlength=len(starts))

    values = {f"recall_at_{k}": (first <= k).astype(np.float64) for k in ks}
    for k in ks:
        values[f"precision_at_{k}"] = total(ranks <= k) / k
    within = ranks <= np.repeat(relevant, relevant)
    values["r_precision"] = total(within) / relevant
    values["map_at_r"] = total(np.where(within, precision, 0.0)) / relevant
    values["map"] = total(precision) / relevant

    def sum_within(limit: int) -> np.ndarray:
        return total(np.where(ranks <= limit, precision, 0.0))

    for k in ks:
        values[f"map_at_{k}"] = sum_within(k) / np.minimum(relevant, k)
    values["mrr"] = 1.0 / first
    values["shifted_reciprocal_rank"] = np.where(first <= SHIFTED_LIMIT, 1.0 / (first + 1), 0.0)
    values["truncated_map"] = sum_within(TRUNCATED_LIMIT) / relevant
    return values


def _intervals(
    per_query: dict[str, np.ndarray], resamples: int, confidence: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap: queries are drawn with replacement, all metrics on the same draw."""
    if not resamples:
        return {}
    values = np.stack(list(per_query.values()), axis=1)
    count = len(values)
    random = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    for number in range(resamples):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        means[number] = times.astype(np.float64) @ values / count
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {
        name: (float(low[column]), float(high[column])) for column, name in enumerate(per_query)
    }


def _by_group(
    per_query: dict[str, np.ndarray], groups: np.ndarray | None, rows: np.ndarray
) -> dict[str, dict[str, float]]:
    if groups is None:
        return {}
    names, member = np.unique(groups[rows], return_inverse=True)
    sizes = np.bincount(member)
    sums = {name: np.bincount(member, weights=values) for name, values in per_query.items()}
    return {
        str(group): {
            "queries": int(sizes[number]),
            **{name: float(total[number] / sizes[number]) for name, total in sums.items()},
        }
        for number, group in enumerate(names)
    }


def _check_labels(labels: np.ndarray | Sequence[int] | Sequence[str], count: int) -> np.ndarray:
    array = check_ids(labels, "labels")
    if array.shape != (count,):
        raise UserError(f"labels have shape {array.shape}: one per embedding is needed, ({count},)")
    return np.unique(array, return_inverse=True)[1]


def _check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    if not len(ks) or any(isinstance(k, bool) or k != int(k) or k < 1 for k in ks):
        raise UserError(f"ks={tuple(ks)}: cut-offs are whole numbers from 1")
    return tuple(sorted({int(k) for k in ks}))


def chosen_rows(
    is_query: np.ndarray | None, is_gallery: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that search and those that are searched, both ascending.

    Args:
        is_query: (N,) bool or None, see :func:`evaluate`.
        is_gallery: (N,) bool or None, see :func:`evaluate`.
        count: N.

    Raises:
        UserError: masks that do not fit, or leave no query or nothing to find.
    """
    masks: list[np.ndarray | None] = []
    for name, mask in (("is_query", is_query), ("is_gallery", is_gallery)):
        if mask is None:
            masks.append(None)
            continue
        array = np.asarray(mask)
        if array.shape != (count,) or array.dtype != bool:
            raise UserError(
                f"{name} is {array.dtype} of shape {array.shape}: true or false for each of the "
                f"{count} embeddings is needed"
            )
        masks.append(array)
    query, gallery = masks
    if query is None and gallery is None:
        rows = np.arange(count)
        return rows, rows
    if query is None:
        query = ~np.asarray(gallery)
    if gallery is None:
        gallery = ~query
    for name, chosen in (("query", query), ("gallery item", gallery)):
        if not chosen.any():
            raise UserError(f"no row is a {name}: is_query or is_gallery leaves none")
    return np.flatnonzero(query), np.flatnonzero(gallery)


def _check_names(
    values: np.ndarray | Sequence[str] | None, name: str, count: int
) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (count,):
        raise UserError(f"{name} have shape {array.shape}: one per embedding is needed, ({count},)")
    return array.astype(str)

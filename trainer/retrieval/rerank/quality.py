"""How good the first items of a ranking are: the product recognition challenge's measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.config import UserError
from trainer.retrieval.rerank.neighbours import own_rows
from trainer.retrieval.vectors import CHUNK, check_ids


@dataclass(frozen=True)
class Quality:
    """What :func:`quality` found, shares from 0 to 1.

    Attributes:
        truncated_map: mean average precision within the items that are ranked.
        recall_at_1: share of queries whose first item is right.
        recall_at_10: share of queries with a right item among the first ten.
        queries: queries that were used.
        skipped: queries left out because nothing in the gallery is relevant to them.
    """

    truncated_map: float
    recall_at_1: float
    recall_at_10: float
    queries: int
    skipped: int


def quality(
    rows: np.ndarray,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    own: np.ndarray | None = None,
) -> Quality:
    """Return how well the first K items of each query are chosen and ordered.

    With the ranks `r_1 < r_2 < ...` of the relevant items among the K, and R relevant items in the
    whole gallery, the average precision of a query is `(sum of i / r_i) / R`: with a K of 1000, the
    `truncated_map` of :mod:`trainer.retrieval.metrics`, which sees whole rankings.

    Args:
        rows: (Q, K) rows of the gallery, best first.
        query_labels: (Q,) integers or strings.
        gallery_labels: (G,) of the same kind.
        own: (Q,) the query's own row in the gallery, which is not relevant to it; -1 if it has
            none. Default: no query has.

    Raises:
        UserError: labels of another kind, or no query with a relevant item.
    """
    labels = [check_ids(query_labels, "query labels"), check_ids(gallery_labels, "gallery labels")]
    if labels[0].dtype.kind != labels[1].dtype.kind:
        raise UserError("labels of queries and gallery are of two kinds: integers and strings")
    codes = np.unique(np.concatenate(labels), return_inverse=True)[1]
    asked, items = codes[: len(rows)], codes[len(rows) :]
    relevant = np.bincount(items, minlength=len(codes))[asked]
    relevant -= own_rows(own, len(rows)) >= 0
    precision = np.zeros(len(rows))
    first = np.full(len(rows), rows.shape[1] + 1)
    places = np.arange(1, rows.shape[1] + 1)
    for low in range(0, len(rows), CHUNK):
        part = slice(low, low + CHUNK)
        hits = items[rows[part]] == asked[part, None]
        precision[part] = (np.cumsum(hits, axis=1) / places * hits).sum(axis=1)
        first[part] = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, first[part])
    used = relevant > 0
    if not used.any():
        raise UserError("no query has an item of its label in the gallery")
    return Quality(
        truncated_map=float((precision[used] / relevant[used]).mean()),
        recall_at_1=float((first[used] <= 1).mean()),
        recall_at_10=float((first[used] <= min(10, rows.shape[1])).mean()),
        queries=int(used.sum()),
        skipped=int((~used).sum()),
    )

"""Embeddings blended with those of their nearest neighbours: augmentation and query expansion."""

from __future__ import annotations

import numpy as np

from trainer.retrieval.rerank.neighbours import BLOCK_BYTES, Neighbours, nearest, own_rows
from trainer.retrieval.vectors import normalise


def augment_gallery(
    gallery: np.ndarray,
    k: int = 5,
    *,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> np.ndarray:
    """Return each item blended with its `k` nearest others (database-side augmentation).

    With the item as neighbour number 0, `sum_i w_i x_i` over i = 0..k, brought to unit length; the
    weights fall from 1 to 0.01, `w = logspace(0, -2, k + 1)`.

    Arandjelovic and Zisserman, 2012, https://doi.org/10.1109/CVPR.2012.6248018

    Args:
        gallery: (G, D) float32, unit length.
        k: neighbours, at least 0; where there are fewer, as many as there are.
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads that select; default: the processors this process may use.

    Returns:
        (G, D) float32, unit length.
    """
    own = np.arange(len(gallery))
    return augment_queries(gallery, gallery, k, own=own, block_bytes=block_bytes, threads=threads)


def augment_queries(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int = 5,
    *,
    own: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> np.ndarray:
    """Return each query blended with its `k` nearest items, as :func:`augment_gallery` does.

    Args:
        queries: (Q, D) float32, unit length.
        gallery: (G, D) float32, unit length; as it was before its own augmentation.
        k: neighbours, at least 0; where there are fewer, as many as there are.
        own: (Q,) the query's row in the gallery, not a neighbour of itself; -1 if it is not there.
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads that select; default: the processors this process may use.

    Returns:
        (Q, D) float32, unit length.
    """
    found = _found(queries, gallery, k, own, block_bytes, threads)
    if found is None:
        return queries.copy()
    weights = np.logspace(0, -2, found.rows.shape[1] + 1)
    return _blend(queries, gallery, found.rows, np.broadcast_to(weights[1:], found.rows.shape))


def expand_queries(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int = 5,
    alpha: float = 3.0,
    *,
    own: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> np.ndarray:
    """Return each query blended with its `k` nearest items by likeness (alpha query expansion).

    `q + sum_i s_i^alpha x_i`, brought to unit length; `s_i` is the cosine of query and item, 0
    where it is negative. With `alpha` 0 it is the plain mean; the larger `alpha`, the less do items
    count that are less like the query.

    Radenovic et al., 2018, https://arxiv.org/abs/1711.02512 (with 50 items, for landmarks).

    Args:
        queries: (Q, D) float32, unit length.
        gallery: (G, D) float32, unit length.
        k: neighbours, at least 0; where there are fewer, as many as there are.
        alpha: exponent, at least 0.
        own: (Q,) the query's row in the gallery, not a neighbour of itself; -1 if it is not there.
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads that select; default: the processors this process may use.

    Returns:
        (Q, D) float32, unit length.
    """
    found = _found(queries, gallery, k, own, block_bytes, threads)
    if found is None:
        return queries.copy()
    weights = np.maximum(found.scores, 0).astype(np.float64) ** alpha
    return _blend(queries, gallery, found.rows, weights)


def _found(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    own: np.ndarray | None,
    block_bytes: int,
    threads: int | None,
) -> Neighbours | None:
    own = own_rows(own, len(queries))
    # One item alone has no neighbours, and is what it was.
    if k == 0 or len(gallery) == (own >= 0).any():
        return None
    return nearest(queries, gallery, k, own=own, block_bytes=block_bytes, threads=threads)


def _blend(
    queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return `q + sum_i w_i x_i`, unit length; rows and weights are (Q, k)."""
    blended = np.empty_like(queries)
    # As many queries in one go as gather a few megabytes of neighbours.
    chunk = max(1, 2**20 // max(1, rows.shape[1] * gallery.shape[1]))
    for low in range(0, len(queries), chunk):
        part = slice(low, low + chunk)
        neighbours = gallery[rows[part]].astype(np.float64)
        blended[part] = queries[part] + np.einsum("qk,qkd->qd", weights[part], neighbours)
    normalise(blended)
    return blended

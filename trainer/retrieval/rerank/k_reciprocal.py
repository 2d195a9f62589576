"""Re-ranking with k-reciprocal neighbours: two pictures are alike if they have the same friends.

Zhong et al., 2017, https://arxiv.org/abs/1701.08398

Every table of all pairs is sparse: a picture is related to some dozens of others, whatever the size
of the gallery. Similarities of all pairs are looked at twice, in blocks, and never kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.retrieval.ranking import processors
from trainer.retrieval.rerank.neighbours import (
    BLOCK_BYTES,
    Neighbours,
    first_rows,
    found_items,
    leave_out,
    own_rows,
    similarity_blocks,
    spread,
    write_first,
)

#: Pictures whose sparse rows are made in one go.
ROWS = 512


def k_reciprocal(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    own: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> Neighbours:
    """Return the `k` best items of each query by k-reciprocal re-ranking.

    Pictures are queries and gallery together (a query that is an item counts once, as that item),
    `d(i, j) = |x_i - x_j|^2 / max_j |x_i - x_j|^2`, and a picture is its own nearest neighbour:

    - `R(i, n)`: those of the n + 1 nearest of i that have i among their n + 1 nearest;
    - `R*(i)`: `R(i, k1)`, and every `R(j, k1 / 2)` for j in it of which more than two thirds are in
      `R(i, k1)`;
    - `V_ij`: `exp(-d(i, j))` for j in `R*(i)`, else 0, each row divided by its sum, and then
      replaced by the mean of the rows of its `k2` nearest, itself among them;
    - Jaccard distance: `1 - sum_j min(V_qj, V_gj) / sum_j max(V_qj, V_gj)`.

    The score is `-((1 - weight) * Jaccard distance + weight * d)`. This follows the authors' code;
    their equations leave out the division by the largest distance and that of the rows of V, and
    have "at least" two thirds.

    Args:
        queries: (Q, D) float32, unit length.
        gallery: (G, D) float32, unit length.
        k: items for each query, at least 1; where the gallery has fewer, as many as there are.
        k1: neighbours that relations are made of, at least 1; about as many as a product has
            pictures.
        k2: rows that are averaged, at least 1, which is none but a picture's own.
        weight: share of the plain distance in the result, 0 to 1; with 1 the order stays.
        own: (Q,) the query's row in the gallery, which is not among its neighbours; -1 if it has
            none. Default: no query has.
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads that select; default: the processors this process may use.

    Raises:
        UserError: SciPy is missing, `k` is below 1, or nothing is left to find.
        ValueError: k1, k2 or weight is out of range.
    """
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(
            f"k1={k1}, k2={k2}, weight={weight}: at least 1, at least 1, and 0 to 1 are needed"
        )
    own = own_rows(own, len(queries))
    k = found_items(k, own, len(gallery))
    apart = np.flatnonzero(own < 0)
    pictures = np.concatenate([gallery, queries[apart]])
    place = own.copy()
    place[apart] = len(gallery) + np.arange(len(apart))
    with ThreadPoolExecutor(threads or processors()) as pool:
        nearest, largest = _neighbours(pictures, max(k1 + 1, k2), block_bytes, pool)
        vectors = _encode(pictures, nearest, largest, k1, k2, pool)
        # Which items have a share of a picture: the columns of V, one after another.
        holders = vectors[: len(gallery)].tocsc()
        found = Neighbours(
            np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        )
        for low, block in similarity_blocks(queries, gallery, block_bytes):
            part = place[low : low + len(block)]

            def one(number: int, block: np.ndarray = block, part: np.ndarray = part) -> None:
                row, scores = part[number], block[number]
                jaccard = _jaccard(vectors, holders, row)
                np.subtract(2, 2 * scores, out=scores)
                scores *= -weight / largest[row]
                scores -= (1 - weight) * jaccard

            spread(one, len(block), pool)
            leave_out(block, own[low : low + len(block)])
            write_first(found, low, block, pool)
    return found


def _neighbours(
    pictures: np.ndarray, count: int, block_bytes: int, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of each picture, (N, count), itself first; and the largest distance, (N,).

    Fewer than `count` where there are not as many pictures.
    """
    size = len(pictures)
    nearest = np.empty((size, min(count, size)), np.int32)
    largest = np.empty(size, np.float32)
    for low, block in similarity_blocks(pictures, pictures, block_bytes):

        def one(number: int, low: int = low, block: np.ndarray = block) -> None:
            row, scores = low + number, block[number]
            largest[row] = 2 - 2 * scores.min()
            scores[row] = np.inf
            nearest[row] = first_rows(scores, nearest.shape[1])

        spread(one, len(block), pool)
    # Where all pictures are the same, so are all distances, and any divisor does.
    largest[largest <= 0] = 1
    return nearest, largest


def _encode(
    pictures: np.ndarray,
    nearest: np.ndarray,
    largest: np.ndarray,
    k1: int,
    k2: int,
    pool: ThreadPoolExecutor,
) -> Any:
    """Return V of :func:`k_reciprocal`, (N, N) float32 in compressed sparse rows."""
    sparse = _sparse()
    whole = _reciprocal(nearest[:, : k1 + 1])
    half = _reciprocal(nearest[:, : round(k1 / 2) + 1])
    sizes = np.diff(half.indptr)

    def rows_of(part: slice) -> Any:
        mine = whole[part]
        # (i, j): how many of R(j, k1 / 2) are in R(i, k1), for j in R(i, k1). Being friends is
        # mutual, so that the table is its own transpose.
        shared = (mine @ half).multiply(mine).tocsr()
        shared.data = (3 * shared.data > 2 * sizes[shared.indices]).astype(np.int32)
        shared.eliminate_zeros()
        related = (mine + shared @ half).tocsr()
        related.sort_indices()
        counts = np.diff(related.indptr)
        first = np.repeat(np.arange(part.start, part.stop), counts)
        distances = _distances(pictures, first, related.indices) / largest[first]
        values = np.exp(-distances)
        # Each row holds the picture itself, so that no sum is over nothing.
        values /= np.repeat(np.add.reduceat(values, related.indptr[:-1]), counts)
        return sparse.csr_matrix(
            (values.astype(np.float32), related.indices, related.indptr), shape=related.shape
        )

    vectors = sparse.vstack(list(pool.map(rows_of, _parts(len(pictures)))), format="csr")
    if k2 == 1:
        return vectors

    def mean_of(part: slice) -> Any:
        chosen = nearest[part, :k2]
        share = np.full(chosen.size, 1 / chosen.shape[1], np.float32)
        starts = np.arange(0, chosen.size + 1, chosen.shape[1])
        averaging = sparse.csr_matrix(
            (share, chosen.ravel(), starts), shape=(len(chosen), len(pictures))
        )
        averaged = averaging @ vectors
        averaged.sort_indices()
        return averaged

    return sparse.vstack(list(pool.map(mean_of, _parts(len(pictures)))), format="csr")


def _reciprocal(nearest: np.ndarray) -> Any:
    """Return (N, N) int32, compressed sparse rows: 1 where two pictures are near each other."""
    size, width = nearest.shape
    starts = np.arange(0, nearest.size + 1, width)
    near = _sparse().csr_matrix(
        (np.ones(nearest.size, np.int32), nearest.ravel(), starts), shape=(size, size)
    )
    return near.multiply(near.T).tocsr()


def _jaccard(vectors: Any, holders: Any, row: int) -> np.ndarray:
    """Return the Jaccard distance of one picture to the whole gallery, (G,) float64.

    The rows of V sum to 1, so that the larger ones of two rows sum to 2 less the smaller ones.
    """
    mine = slice(vectors.indptr[row], vectors.indptr[row + 1])
    pictures, values = vectors.indices[mine], vectors.data[mine]
    starts = holders.indptr[pictures]
    counts = holders.indptr[pictures + 1] - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(starts, counts) + within
    shared = np.minimum(np.repeat(values, counts), holders.data[places])
    smaller = np.bincount(holders.indices[places], weights=shared, minlength=holders.shape[0])
    return 1 - smaller / (2 - smaller)


def _distances(pictures: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the squared distances of pairs of pictures, (P,) float32."""
    likeness = np.empty(len(first), np.float32)
    chunk = max(1, 2**20 // pictures.shape[1])
    for low in range(0, len(first), chunk):
        pairs = slice(low, low + chunk)
        likeness[pairs] = np.einsum("pd,pd->p", pictures[first[pairs]], pictures[second[pairs]])
    return 2 - 2 * likeness


def _parts(count: int) -> Iterator[slice]:
    return (slice(low, min(low + ROWS, count)) for low in range(0, count, ROWS))


def _sparse() -> Any:
    try:
        from scipy import sparse
    except ImportError:
        raise UserError(
            'k-reciprocal re-ranking needs SciPy: pip install "mildnet[rerank]"'
        ) from None
    return sparse

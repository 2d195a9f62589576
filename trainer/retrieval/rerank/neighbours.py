"""The nearest items of each query, in blocks of queries; of the gallery only those are sorted.

The order is that of :mod:`trainer.retrieval.ranking`: descending similarity in float32, then
ascending row, and identical items are equally similar to every query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trainer.config import UserError
from trainer.retrieval.ranking import copies_of, processors

#: Memory for a block of similarities, in bytes; :data:`TILE` queries are held at the least.
BLOCK_BYTES = 64 * 2**20
#: Queries whose products are always taken together. BLAS rounds by the shape of a product, so that
#: with one shape for all, a similarity does not depend on how many queries a block holds.
TILE = 64
#: Pieces that the rows of a block are dealt to threads in: small enough for all to end together.
PARTS = 16


@dataclass(frozen=True)
class Neighbours:
    """The first items of some rankings.

    Attributes:
        rows: (Q, K) int64 rows of the gallery, best first, none twice in a row.
        scores: (Q, K) float32, descending; higher is closer.
    """

    rows: np.ndarray
    scores: np.ndarray


def nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    own: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> Neighbours:
    """Return the `k` items of the gallery with the largest dot products, for each query.

    Args:
        queries: (Q, D) float32.
        gallery: (G, D) float32.
        k: items for each, at least 1; where the gallery has fewer, as many as there are.
        own: (Q,) the query's own row in the gallery, which is not among its neighbours; -1 if it
            has none. Default: no query has.
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads that select; default: the processors this process may use.

    Raises:
        UserError: `k` is below 1, or nothing is left to find.
    """
    own = own_rows(own, len(queries))
    k = found_items(k, own, len(gallery))
    found = Neighbours(
        np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    )
    with ThreadPoolExecutor(threads or processors()) as pool:
        for low, block in similarity_blocks(queries, gallery, block_bytes):
            leave_out(block, own[low : low + len(block)])
            write_first(found, low, block, pool)
    return found


def own_rows(own: np.ndarray | None, count: int) -> np.ndarray:
    """Return `own` as (count,) int64, -1 for all by default."""
    return np.full(count, -1, np.int64) if own is None else np.asarray(own, np.int64)


def found_items(k: int, own: np.ndarray, gallery: int) -> int:
    """Return how many items each query can be given, when `k` are asked for.

    Raises:
        UserError: `k` is below 1, or there is none.
    """
    most = gallery - bool((own >= 0).any())
    if k < 1 or most < 1:
        raise UserError(f"k={k} of {most} items that can be found: at least 1 of 1 is needed")
    return min(k, most)


def similarity_blocks(
    queries: np.ndarray, gallery: np.ndarray, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the dot products of all queries with the gallery, a block of queries at a time.

    Args:
        queries: (Q, D) float32.
        gallery: (G, D) float32.
        block_bytes: memory for a block.

    Yields:
        The number of the block's first query, and (B, G) float32. It may be written to; the next
        block is written to the same memory.
    """
    tiles = max(1, block_bytes // (4 * len(gallery) * TILE))
    size = min(tiles, -(-len(queries) // TILE)) * TILE
    copies, originals = copies_of(gallery)
    product = np.empty((size, len(gallery)), np.float32)
    for low in range(0, len(queries), size):
        part = queries[low : low + size]
        for first in range(0, len(part), TILE):
            tile = part[first : first + TILE]
            if len(tile) < TILE:
                tile = np.concatenate([tile, np.zeros((TILE - len(tile), tile.shape[1]), "f4")])
            np.matmul(tile, gallery.T, out=product[first : first + TILE])
        block = product[: len(part)]
        if len(copies):
            # BLAS rounds by the column, too: copies of one item are made equal.
            block[:, copies] = block[:, originals]
        yield low, block


def leave_out(block: np.ndarray, own: np.ndarray) -> None:
    """Give each query's own row in the gallery, (B,) or -1, the score -inf."""
    here = np.flatnonzero(own >= 0)
    block[here, own[here]] = -np.inf


def write_first(found: Neighbours, low: int, block: np.ndarray, pool: ThreadPoolExecutor) -> None:
    """Select the best of (B, G) float32 scores, and write them to `found` from row `low` on."""
    k = found.rows.shape[1]

    def one(number: int) -> None:
        rows = first_rows(block[number], k)
        found.rows[low + number] = rows
        found.scores[low + number] = block[number, rows]

    spread(one, len(block), pool)


def spread(one: Callable[[int], None], count: int, pool: ThreadPoolExecutor) -> None:
    """Call `one` with 0..count-1 in the threads of a pool."""

    def some(numbers: np.ndarray) -> None:
        for number in numbers.tolist():
            one(number)

    # A call takes about as long as it takes to hand it to a thread: many go together.
    list(pool.map(some, np.array_split(np.arange(count), PARTS)))


def first_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the `k` largest scores, the first of equal ones first.

    Args:
        scores: (G,) numbers, no NaN.
        k: 1 to G.
    """
    if k < len(scores):
        # The k-th largest value is found without sorting; which of those equal to it are meant is
        # then a matter of their places.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= least)
        if len(rows) > k:
            level = np.flatnonzero(scores[rows] == least)
            rows = np.delete(rows, level[k - len(rows) :])
    else:
        rows = np.arange(len(scores))
    return rows[np.argsort(-scores[rows], kind="stable")]

"""Exact ranks of the relevant items of every query, in blocks, without sorting the gallery.

Every metric of :mod:`trainer.retrieval.metrics` needs only the ranks of a query's relevant items.
The rank of one item is a count, `1 + items that come before it`, and counting a row of similarities
is a handful of vector instructions, whereas sorting or selecting it is a hundred times the work.
Where every image searches all others, half of the product does: see :mod:`trainer.retrieval.tiles`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trainer.retrieval.tiles import TILE, tile_ranks
from trainer.retrieval.vectors import CHUNK, Similarity, normalise


@dataclass(frozen=True)
class RankBlock:
    """The ranks of the relevant items of some queries.

    Attributes:
        queries: positions in the array of queries, (Q,).
        starts: where each query's ranks begin in `ranks`, (Q,).
        counts: how many relevant items each query has (at least 1), (Q,).
        ranks: 1-based ranks, ascending within each query, (sum of counts,).
    """

    queries: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True)
class SimilarityBlock:
    """The similarities of some queries to the whole gallery, and which of them are of a match.

    Attributes:
        queries: positions in the array of queries, (Q,).
        similarities: (Q, G) float32, -inf where the item is the query itself. The next block is
            written to the same memory.
        own: position of each query in the gallery, -1 where it is not there, (Q,).
        starts: where each query's relevant items begin in `relevant`, (Q,).
        counts: how many relevant items each query has, (Q,).
        relevant: positions of the relevant items in the gallery, (sum of counts,).
        pool: threads to work with.
    """

    queries: np.ndarray
    similarities: np.ndarray
    own: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    relevant: np.ndarray
    pool: ThreadPoolExecutor


class Ranking:
    """Queries, a gallery, and what is relevant to what.

    The order of a query's neighbours is: descending similarity in float32, then ascending row;
    identical embeddings are equally similar to every query. A row that is both query and gallery
    item is not a neighbour of itself.

    Args:
        embeddings: (N, D) float32, finite.
        codes: (N,) integers; rows with the same code are relevant to each other.
        queries: (Q,) rows that search.
        gallery: (G,) rows that are found, ascending.
        similarity: `cosine` (rows are normalised here; a zero row has similarity 0 to all), `dot`,
            or `euclidean` (closest first).
        block_bytes: memory for a block of similarities, in bytes.
        threads: threads for counting; default: the processors this process may use.
        sort_from: relevant items per query from which a row is sorted instead of counted;
            default: by estimated cost.
        tiled: use each similarity for both of its images; needs every row to be query and gallery
            item, `cosine` or `dot`, and classes of at most 2,040 images. Default: where it is
            possible and by estimated cost.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        codes: np.ndarray,
        queries: np.ndarray,
        gallery: np.ndarray,
        *,
        similarity: Similarity = "cosine",
        block_bytes: int = 128 * 2**20,
        threads: int | None = None,
        sort_from: int | None = None,
        tiled: bool | None = None,
    ) -> None:
        self._embeddings = embeddings
        self._items = gallery
        self._similarity = similarity
        self._threads = threads or processors()
        self._size = len(gallery)
        self._sort_from = _sort_from(self._size) if sort_from is None else sort_from
        self._block = max(1, min(block_bytes // (4 * self._size), len(queries)))

        position = np.full(len(embeddings), -1, np.int64)
        position[gallery] = np.arange(len(gallery))
        own = position[queries]
        gallery_codes, query_codes = codes[gallery], codes[queries]
        classes = int(codes.max()) + 1
        per_class = np.bincount(gallery_codes, minlength=classes)
        relevant = per_class[query_codes] - (own >= 0)

        #: Positions, in `queries`, of those with something to find; and of those without.
        self.used = np.flatnonzero(relevant > 0)
        self.skipped = np.flatnonzero(relevant <= 0)
        self._rows = queries
        self._own = own
        self._codes = query_codes
        self._members = np.argsort(gallery_codes, kind="stable")
        self._per_class = per_class
        self._first = np.concatenate([[0], np.cumsum(per_class)[:-1]])
        self._offset = _centre(embeddings, gallery) if similarity == "euclidean" else None
        self._item_codes = gallery_codes
        self._counts = relevant
        if tiled is None:
            tiled = (
                np.array_equal(queries, gallery)
                and similarity != "euclidean"
                and int(per_class.max()) <= TILE
                and _tiles_pay(embeddings.shape[1], relevant[self.used])
            )
        self._tiled = tiled

    def blocks(self, look: Callable[[SimilarityBlock], None] | None = None) -> Iterator[RankBlock]:
        """Yield the ranks of all used queries, block by block, in query order.

        Args:
            look: is shown the similarities of each block of queries, those without a relevant item
                among them, before its ranks are yielded. It may change them.
        """
        if look is not None:
            yield from self._by_rows(np.arange(len(self._rows)), look)
        elif self._tiled:
            yield from self._by_tiles()
        else:
            yield from self._by_rows(self.used)

    def _by_tiles(self) -> Iterator[RankBlock]:
        sizes = self._per_class[self._item_codes]
        order = np.lexsort((self._item_codes, -sizes))
        vectors = self._prepare_gallery(self._items[order])
        ranks, tied = tile_ranks(vectors, sizes[order], self._threads)
        # Copies of one vector may come out with different similarities, see `_by_rows`: those are
        # settled there, too, where a relevant item has a copy.
        copies, originals = copies_of(vectors)
        del vectors
        doubled = np.zeros(len(self._per_class), bool)
        doubled[self._item_codes[order[np.r_[copies, originals]]]] = True
        unsettled = np.zeros(len(sizes), bool)
        unsettled[order] = tied
        unsettled |= doubled[self._item_codes]

        query = np.repeat(order, sizes[order] - 1)
        ranks = ranks[np.lexsort((ranks, query))]
        again = self.used[unsettled[self.used]]
        if len(again):
            flat = np.repeat(unsettled, self._counts)
            ranks[flat] = np.concatenate([block.ranks for block in self._by_rows(again)])
        all_counts = self._counts[self.used]
        ends = np.cumsum(all_counts)
        for low in range(0, len(self.used), CHUNK):
            part = slice(low, low + CHUNK)
            counts = all_counts[part]
            first = ends[low] - counts[0]
            starts = ends[part] - counts
            yield RankBlock(self.used[part], starts - first, counts, ranks[first : ends[part][-1]])

    def _by_rows(
        self, which: np.ndarray, look: Callable[[SimilarityBlock], None] | None = None
    ) -> Iterator[RankBlock]:
        """Yield the ranks of some of the queries, blocks without any left out."""
        gallery = self._prepare_gallery(self._items)
        # BLAS rounds by where in its tiles a column lies, so copies of one vector can come out
        # with different similarities: their columns are made equal after each product.
        copies, originals = copies_of(gallery)
        left = np.empty((min(self._block, len(which)), gallery.shape[1]), np.float32)
        product = np.empty((len(left), self._size), np.float32)
        with ThreadPoolExecutor(self._threads) as pool:
            for low in range(0, len(which), self._block):
                part = which[low : low + self._block]
                queries, similarities = left[: len(part)], product[: len(part)]
                self._fill(queries, self._rows[part], query=True)
                np.matmul(queries, gallery.T, out=similarities)
                if len(copies):
                    similarities[:, copies] = similarities[:, originals]
                block = self._rank(similarities, part, pool, look)
                if len(block.queries):
                    yield block

    def _prepare_gallery(self, gallery: np.ndarray) -> np.ndarray:
        width = self._embeddings.shape[1] + (self._similarity == "euclidean")
        prepared = np.empty((len(gallery), width), np.float32)
        for low in range(0, len(gallery), CHUNK):
            rows = gallery[low : low + CHUNK]
            self._fill(prepared[low : low + len(rows)], rows, query=False)
        return prepared

    def _fill(self, out: np.ndarray, rows: np.ndarray, *, query: bool) -> None:
        """Write the rows so that one matrix product gives their similarity to the gallery."""
        dim = self._embeddings.shape[1]
        target = out[:, :dim]
        np.take(self._embeddings, rows, axis=0, out=target, mode="clip")
        if self._similarity == "cosine":
            normalise(target)
        elif self._similarity == "euclidean":
            # -|q - g|^2 orders like 2 q.g - |g|^2: one more column carries the second term.
            target -= self._offset
            if query:
                target *= 2
                out[:, dim] = -1
            else:
                out[:, dim] = np.einsum("ij,ij->i", target, target, dtype=np.float64)

    def _rank(
        self,
        similarities: np.ndarray,
        part: np.ndarray,
        pool: ThreadPoolExecutor,
        look: Callable[[SimilarityBlock], None] | None,
    ) -> RankBlock:
        codes, own, counts = self._codes[part], self._own[part], self._counts[part]
        members = self._per_class[codes]
        query = np.repeat(np.arange(len(part)), members)
        within = np.arange(len(query)) - np.repeat(np.cumsum(members) - members, members)
        columns = self._members[np.repeat(self._first[codes], members) + within]
        others = columns != own[query]
        query, columns = query[others], columns[others]
        starts = np.cumsum(counts) - counts

        both = np.flatnonzero(own >= 0)
        similarities[both, own[both]] = -np.inf
        thresholds = similarities[query, columns]
        ranks = np.empty(len(query), np.int64)

        def work(rows: np.ndarray) -> None:
            scratch = np.empty(self._size, bool)
            for row in rows:
                mine = slice(starts[row], starts[row] + counts[row])
                if counts[row] < self._sort_from:
                    _count(similarities[row], columns[mine], thresholds[mine], ranks[mine], scratch)
                else:
                    _sort(similarities[row], columns[mine], thresholds[mine], ranks[mine])

        list(pool.map(work, np.array_split(np.arange(len(part)), self._threads)))
        if look is not None:
            look(SimilarityBlock(part, similarities, own, starts, counts, columns, pool))
        order = np.lexsort((ranks, query))
        found = counts > 0
        return RankBlock(part[found], starts[found], counts[found], ranks[order])


def _count(
    row: np.ndarray,
    columns: np.ndarray,
    thresholds: np.ndarray,
    ranks: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Ranks by counting: an equal similarity comes first where its column does."""
    for number, (column, threshold) in enumerate(
        zip(columns.tolist(), thresholds.tolist(), strict=True)
    ):
        np.greater_equal(row[:column], threshold, out=scratch[:column])
        np.greater(row[column:], threshold, out=scratch[column:])
        ranks[number] = 1 + np.count_nonzero(scratch)


def _sort(row: np.ndarray, columns: np.ndarray, thresholds: np.ndarray, ranks: np.ndarray) -> None:
    """Ranks by sorting the row once, for queries with many relevant items."""
    ascending = np.sort(row)
    by_value = np.argsort(thresholds)  # neighbouring look-ups then share cache lines
    values = thresholds[by_value]
    after = np.searchsorted(ascending, values, side="right")
    ranks[by_value] = 1 + len(row) - after
    tied = by_value[after - np.searchsorted(ascending, values, side="left") > 1]
    if len(tied) > 16:
        place = np.empty(len(row), np.int64)
        place[np.argsort(-row, kind="stable")] = np.arange(1, len(row) + 1)
        ranks[:] = place[columns]
    else:
        for number in tied:
            ranks[number] += np.count_nonzero(row[: columns[number]] == thresholds[number])


def _sort_from(size: int) -> int:
    """Relevant items per query from which sorting is the cheaper way (microseconds, AVX2)."""
    count_one = 3.0 + 0.17e-3 * size
    sort_all = 15.0 + 8e-3 * size
    return max(1, int(sort_all / count_one))


def _tiles_pay(dim: int, counts: np.ndarray) -> bool:
    """Whether half a matrix product saves more than counting in two passes costs.

    Per pair of images, the one takes about 13 ps a dimension, the other 260 ps a relevant item.
    """
    relevant = float(counts.mean()) if len(counts) else 0.0
    return relevant <= min(32.0, dim / 20)


def copies_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that repeat an earlier row exactly, and the first of each."""
    mix = np.random.default_rng(0).integers(1, 2**63, size=vectors.shape[1], dtype=np.uint64) | 1
    keys = np.empty(len(vectors), np.uint64)
    for low in range(0, len(vectors), 1024):
        # Adding zero makes -0.0 the same bits as 0.0.
        bits = (vectors[low : low + 1024] + np.float32(0)).view(np.uint32).astype(np.uint64)
        keys[low : low + 1024] = np.einsum("ij,j->i", bits, mix)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[group] != np.arange(len(vectors)))
    same = [bool((vectors[row] == vectors[first[group[row]]]).all()) for row in later]
    later = later[np.array(same, bool)]
    return later, first[group[later]]


def _centre(embeddings: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the gallery's mean: distances from there lose fewer digits than from the origin."""
    total = np.zeros(embeddings.shape[1], np.float64)
    for low in range(0, len(gallery), CHUNK):
        total += embeddings[gallery[low : low + CHUNK]].sum(axis=0, dtype=np.float64)
    return (total / len(gallery)).astype(np.float32)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

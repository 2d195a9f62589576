"""Ranks of relevant items when every image searches all others: each similarity serves twice.

The similarity of a and b is an item of a's ranking and one of b's, so half of the matrix product is
enough. It is computed in square tiles that are small enough to stay in the processor's cache while
they are counted, along the rows for one side and along the columns for the other.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

#: Rows of a tile that are counted in one go: as many as a byte can count.
STRIP = 255
#: Side of a tile: as many flags as 255 words of eight bytes.
TILE = STRIP * 8


def tile_ranks(vectors: np.ndarray, sizes: np.ndarray, threads: int) -> tuple[np.ndarray, ...]:
    """Return the ranks of each row's relevant items, and which rows have ties to be settled.

    Args:
        vectors: (N, D) float32, dot products of which are the similarities. Rows of one class lie
            together, larger classes before smaller ones.
        sizes: (N,) how many rows the class of each row has, at most :data:`TILE`.
        threads: that count.

    Returns:
        ranks: (sum of sizes - 1,) int64, those of row 0, then row 1, ...: 1 plus the number of
            items that are more similar than the relevant one.
        tied: (N,) bool, rows for which some other item is just as similar as a relevant one, so
            that the ranks depend on how equal items are ordered.
    """
    bounds = _bounds(sizes)
    buffer = np.empty((TILE, TILE), np.float32)
    tiles = [_Tile(low, high, sizes) for low, high in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:
        for tile in tiles:
            similarities = buffer[: len(tile), : len(tile)]
            np.matmul(vectors[tile.rows], vectors[tile.rows].T, out=similarities)
            np.fill_diagonal(similarities, -np.inf)
            tile.set_thresholds(similarities)
            list(pool.map(tile.count_rows, *_strips(similarities)))
        for number, first in enumerate(tiles):
            for second in tiles[number + 1 :]:
                similarities = buffer[: len(first), : len(second)]
                np.matmul(vectors[first.rows], vectors[second.rows].T, out=similarities)
                slices, strips = _strips(similarities)
                rows = pool.map(first.count_rows, slices, strips)
                for counts in pool.map(second.count_columns, strips):
                    second.counts += counts
                list(rows)
    results = [tile.results() for tile in tiles]
    return tuple(np.concatenate(part) for part in zip(*results, strict=True))


def _bounds(sizes: np.ndarray) -> list[int]:
    """Return tile ends that keep each class in one tile."""
    bounds = [0]
    row = 0
    while row < len(sizes):
        size = int(sizes[row])
        if row + size - bounds[-1] > TILE:
            bounds.append(row)
        row += size
    return [*bounds, len(sizes)]


def _strips(similarities: np.ndarray) -> tuple[list[slice], list[np.ndarray]]:
    """Return slices of rows, and those rows, to be counted by one thread each."""
    slices = [slice(low, low + STRIP) for low in range(0, len(similarities), STRIP)]
    return slices, [similarities[part] for part in slices]


class _Tile:
    """Consecutive rows as queries: similarities to beat, and how many items have beaten them."""

    def __init__(self, low: int, high: int, sizes: np.ndarray) -> None:
        self.rows = slice(low, high)
        self._relevant = sizes[low:high] - 1
        width = int(self._relevant.max(initial=0))
        starts = low + np.arange(high - low)
        # The first row of each row's class, within the tile: classes lie together.
        change = np.flatnonzero(np.r_[True, _new_class(sizes[low:high])])
        self._first = np.repeat(change, np.diff(np.r_[change, len(starts)]))
        #: How many rows have more than p relevant items; they come first.
        self._deep = [int((self._relevant > p).sum()) for p in range(width)]
        # [0]: what an item has to exceed to come before; [1]: to come before or be equal.
        self._limits = np.full((2, width, high - low), np.inf, np.float32)
        self.counts = np.zeros((2, width, high - low), np.int64)

    def __len__(self) -> int:
        return len(self._relevant)

    def set_thresholds(self, similarities: np.ndarray) -> None:
        """Take the similarities of the relevant items from the tile's product with itself."""
        for p, deep in enumerate(self._deep):
            row = np.arange(deep)
            item = self._first[:deep] + p
            item += item >= row  # not the row itself
            self._limits[0, p, :deep] = similarities[row, item]
        np.nextafter(self._limits[0], np.float32(-np.inf), out=self._limits[1])

    def count_rows(self, strip: slice, similarities: np.ndarray) -> None:
        """Count the items, in columns, that beat the limits of the queries, in rows.

        Args:
            strip: which of the tile's queries the rows are.
            similarities: (queries in `strip`, items).
        """
        scratch = np.zeros((len(similarities), TILE), bool)
        for p, deep in enumerate(self._deep):
            rows = min(len(similarities), deep - strip.start)
            if rows <= 0:
                break
            part = slice(strip.start, strip.start + rows)
            flags = scratch[:rows]
            for limits, counts in zip(self._limits[:, p], self.counts[:, p], strict=True):
                np.greater(
                    similarities[:rows],
                    limits[part, np.newaxis],
                    out=flags[:, : similarities.shape[1]],
                )
                # Eight flags are one word: adding up to 255 words adds up eight bytes each.
                words = np.add.reduce(flags.view(np.uint64), axis=1, keepdims=True)
                counts[part] += words.view(np.uint8).sum(axis=1, dtype=np.int64)

    def count_columns(self, similarities: np.ndarray) -> np.ndarray:
        """Return how many items, in rows, beat the limits of the queries, in columns.

        Args:
            similarities: (at most 255 items, queries of the tile).
        """
        found = np.zeros(self.counts.shape, np.uint8)
        scratch = np.empty(similarities.shape, bool)
        for p, deep in enumerate(self._deep):
            flags = scratch[:, :deep]
            for limits, counts in zip(self._limits[:, p], found[:, p], strict=True):
                np.greater(similarities[:, :deep], limits[:deep], out=flags)
                np.add.reduce(flags.view(np.uint8), axis=0, dtype=np.uint8, out=counts[:deep])
        return found

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ranks, row after row, and the rows in which something ties."""
        real = np.arange(len(self._deep))[:, np.newaxis] < self._relevant
        before, not_after = self.counts
        # The relevant item itself is the one that is equal where nothing ties.
        tied = ((not_after - before != 1) & real).any(axis=0)
        return (before + 1).T[real.T], tied


def _new_class(sizes: np.ndarray) -> np.ndarray:
    """Return for each row but the first whether a class begins there."""
    begins = np.zeros(len(sizes), bool)
    row = 0
    while row < len(sizes):
        begins[row] = True
        row += int(sizes[row])
    return begins[1:]

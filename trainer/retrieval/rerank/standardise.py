"""Embeddings measured from their mean, in units of their deviation."""

from __future__ import annotations

import numpy as np

from trainer.retrieval.rerank.neighbours import own_rows
from trainer.retrieval.vectors import CHUNK, normalise


def standardise(
    queries: np.ndarray, gallery: np.ndarray, *, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `(x - mean) / deviation` of each dimension, rows brought to unit length.

    Mean and standard deviation are those of queries and gallery together, so the result depends on
    which queries are asked at the same time. A dimension that is the same everywhere becomes 0.

    Args:
        queries: (Q, D) float32, finite.
        gallery: (G, D) float32, finite.
        own: (Q,) the query's row in the gallery, -1 if it is not there; one that is there counts
            once. Default: none is.

    Returns:
        New tables of the same shapes, float32, each row of length 1 (or 0).
    """
    apart = np.flatnonzero(own_rows(own, len(queries)) < 0)
    count = len(gallery) + len(apart)
    tables = [
        (table, rows[low : low + CHUNK])
        for table, rows in ((gallery, np.arange(len(gallery))), (queries, apart))
        for low in range(0, len(rows), CHUNK)
    ]
    mean = np.zeros(gallery.shape[1])
    for table, rows in tables:
        mean += table[rows].sum(axis=0, dtype=np.float64)
    mean /= count
    variance = np.zeros_like(mean)
    for table, rows in tables:
        # From the mean, in a second pass: a difference of large sums would lose its digits.
        variance += ((table[rows] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(variance / count)
    # What rounding leaves of a constant dimension is no deviation.
    constant = deviation <= 1e-7 * np.abs(mean)
    factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return _scaled(queries, mean, factor), _scaled(gallery, mean, factor)


def _scaled(table: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    scaled = np.empty(table.shape, np.float32)
    for low in range(0, len(table), CHUNK):
        scaled[low : low + CHUNK] = (table[low : low + CHUNK] - mean) * factor
    normalise(scaled)
    return scaled

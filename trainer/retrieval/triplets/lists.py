"""Exact neighbour lists that are the same bit for bit with any number of threads.

A dot product in float32 depends on the order in which its terms are added, and so on threads and
processors; where two items are nearly as similar, their order would, too. Unit vectors are
therefore scaled and rounded to whole numbers so small that every sum stays below 2^24: float32 adds
those without error, in any order. The rounding moves a cosine by about 1e-4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from trainer.retrieval.vectors import CHUNK, check_embeddings, normalise

#: Bytes of similarities that are held at once.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Lists:
    """The nearest items of some queries by several scorers.

    Attributes:
        queries: (B,) rows that search.
        items: (S, B, K) rows found by each scorer, nearest first; -1 where there are no more.
        least: (S, B) float32, similarity of the last item of each list, in the units of
            :func:`whole_numbers`; -inf where the list holds the whole gallery, inf where the scorer
            has nothing to say about the query (a vector of zeros), whose list is empty.
    """

    queries: np.ndarray
    items: np.ndarray
    least: np.ndarray


def whole_numbers(vectors: np.ndarray) -> np.ndarray:
    """Return vectors in the same directions whose dot products float32 computes exactly.

    Args:
        vectors: (N, D) float, finite; of any length.

    Returns:
        (N, D) float32, whole numbers; rows are at most 4095 long, so that no partial sum of a dot
        product exceeds 4095^2 < 2^24 (Cauchy-Schwarz). Zero rows stay zero.

    Raises:
        ValueError: more than a million dimensions, for which nothing would be left after rounding.
    """
    scale = math.floor(4095 - math.sqrt(vectors.shape[1]) / 2)  # rounding adds up to half each
    if scale < 3500:
        raise ValueError(f"{vectors.shape[1]} dimensions are more than whole numbers allow")
    rounded = check_embeddings(vectors).copy()
    normalise(rounded)
    for low in range(0, len(rounded), CHUNK):
        part = rounded[low : low + CHUNK]
        np.rint(part * np.float32(scale), out=part)
    return rounded


def nearest_lists(
    scorers: Mapping[str, np.ndarray],
    queries: np.ndarray,
    gallery: np.ndarray,
    depth: int,
    *,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Lists]:
    """Yield the nearest items of all queries, block by block, in the order of the queries.

    Equally similar items come in the order of `gallery`. A row does not find itself.

    Args:
        scorers: scorer -> (N, D) float32 from :func:`whole_numbers`.
        queries: (Q,) rows that search.
        gallery: (G,) rows that are found, each once.
        depth: K, length of a list.
        threads: for the selection; default: the processors of the machine.
        block_bytes: memory for similarities, in bytes.
    """
    if not len(queries):
        return
    if not len(gallery):
        items = np.full((len(scorers), len(queries), depth), -1, np.int64)
        yield Lists(queries, items, np.full(items.shape[:2], -np.inf, np.float32))
        return
    size = max(1, min(block_bytes // (4 * len(gallery)), len(queries)))
    tables = [vectors[gallery] for vectors in scorers.values()]
    place = {int(row): number for number, row in enumerate(gallery)}
    similar = np.empty((size, len(gallery)), np.float32)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for low in range(0, len(queries), size):
            block = queries[low : low + size]
            items = np.full((len(tables), len(block), depth), -1, np.int64)
            least = np.full((len(tables), len(block)), np.inf, np.float32)
            for number, (vectors, table) in enumerate(zip(scorers.values(), tables, strict=True)):
                part = similar[: len(block)]
                np.matmul(vectors[block], table.T, out=part)
                for line, row in zip(part, block.tolist(), strict=True):
                    if row in place:
                        line[place[row]] = -np.inf
                told = vectors[block].any(axis=1)

                def select(
                    line: int,
                    part: np.ndarray = part,
                    told: np.ndarray = told,
                    found: np.ndarray = items[number],
                    ends: np.ndarray = least[number],
                ) -> None:
                    if told[line]:
                        chosen = _first(part[line], depth)
                        found[line, : len(chosen)] = gallery[chosen]
                        whole = len(chosen) < depth
                        ends[line] = -np.inf if whole else part[line, chosen[-1]]

                list(pool.map(select, range(len(block))))
            yield Lists(block, items, least)


def _first(similar: np.ndarray, depth: int) -> np.ndarray:
    """Return the places of the largest values, largest first, then in order; none of -inf."""
    if depth < len(similar):
        limit = np.partition(similar, len(similar) - depth)[len(similar) - depth]
        places = np.flatnonzero(similar >= limit)
    else:
        places = np.arange(len(similar))
    places = places[np.argsort(-similar[places], kind="stable")][:depth]
    return places[similar[places] > -np.inf]

"""What a post-processing costs: seconds, and memory beside the embeddings."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import UserError
from trainer.retrieval.rerank.neighbours import TILE
from trainer.retrieval.rerank.options import PostProcessing, rank


@dataclass(frozen=True)
class Cost:
    """A ranking and what it took.

    Attributes:
        rows: (Q, K) rows of the gallery, best first.
        seconds: for all queries.
        cpu_seconds: of all threads together: what others on the machine hardly change.
        peak_bytes: by how much the process grew at the most; None where the system does not tell.
    """

    rows: np.ndarray
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None


def measure(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    post: PostProcessing,
    own: np.ndarray | None = None,
) -> Cost:
    """Rank once, in a process of its own: in this one, growth would be hidden in memory that was
    used and given back before.

    Args:
        queries: (Q, D) float32.
        gallery: (G, D) float32.
        k: items for each query.
        post: what is done to them.
        own: (Q,) the query's row in the gallery, -1 if it has none.

    Raises:
        UserError: the process was ended, as systems do where memory is short.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure_here, queries, gallery, k, post, own).result()
    except BrokenProcessPool:
        raise UserError("its process was ended; the memory may have been too small") from None


def measure_here(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    post: PostProcessing,
    own: np.ndarray | None = None,
) -> Cost:
    """Do what :func:`measure` does in this process."""
    # Libraries load at their first use, which is not the ranking's.
    some = slice(0, TILE)
    rank(queries[some], gallery[some], 1, post)
    gc.collect()
    with contextlib.suppress(OSError):
        # The peak starts again from what is held now (Linux).
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    start, cpu_start = time.perf_counter(), time.process_time()
    found = rank(queries, gallery, k, post, own=own)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = _status("VmHWM")
    grown = None if before is None or peak is None else max(0, peak - before)
    return Cost(found.rows, seconds, cpu_seconds, grown)


def _status(name: str) -> int | None:
    """Return a value of this process in bytes, None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(values[0]) if values else None

"""What an index costs and how well it finds: build time, memory, speed, recall against exact."""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError, get
from trainer.retrieval.indexes import Index, load_index
from trainer.retrieval.indexes.faiss import cell_count
from trainer.retrieval.results import RetrievalResults
from trainer.retrieval.vectors import check_embeddings, normalise

#: The parameter of an index that trades recall for speed, with the values that are measured.
SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "hnsw": ("ef_search", (16, 32, 64, 128, 256, 512)),
    "ivf_pq": ("nprobe", (1, 4, 16, 64, 256)),
    "annoy": ("search_k", (100, 300, 1000, 3000, 10_000, 30_000)),
    "milvus": ("ef_search", (16, 32, 64, 128, 256, 512)),
}
#: What an index folder holds beside the index itself.
BESIDE = ("ids.npy", "ids.json", "meta.json")
#: Single queries that are not timed, that are timed at the least and at the most, and the seconds
#: after which they may end.
WARM_UP, LEAST, MOST, SECONDS = 20, 200, 1000, 10.0
#: Cosines that are closer than this count as equal: float32 does not tell them apart.
EQUAL = 1e-6
#: Queries whose similarities to the whole gallery are held at a time.
BLOCK = 64


@dataclass(frozen=True)
class SearchTask:
    """What is searched, and how near the right answers are.

    Attributes:
        gallery: (N, D) float32, unit length.
        queries: (Q, D) float32, unit length.
        own: (Q,) the query's own row in the gallery, which is no answer to it; -1 if it has none.
        k: neighbours wanted for each query.
        nearness: (Q,) float64, cosine of the exact k-th nearest neighbour.
    """

    gallery: np.ndarray
    queries: np.ndarray
    own: np.ndarray
    k: int
    nearness: np.ndarray

    @classmethod
    def of(
        cls, embeddings: np.ndarray, queries: np.ndarray, gallery: np.ndarray, k: int
    ) -> SearchTask:
        """Return the search of some rows of a table for their nearest others, by cosine.

        Args:
            embeddings: (N, D) float, finite.
            queries: rows that search.
            gallery: rows that are found.
            k: neighbours wanted, at least 1.

        Raises:
            UserError: values that are not finite, or fewer than `k` items to find.
        """
        embeddings = check_embeddings(embeddings)
        position = np.full(len(embeddings), -1, np.int64)
        position[gallery] = np.arange(len(gallery))
        own = position[queries]
        most = len(gallery) - int((own >= 0).any())
        if not 1 <= k <= most:
            raise UserError(f"k={k}: a query can find 1 to {most} items of this gallery")
        items, asking = embeddings[gallery], embeddings[queries]
        normalise(items)
        normalise(asking)
        return cls(items, asking, own, k, _nearness(items, asking, own, k))

    @property
    def asked(self) -> int:
        """Neighbours that an index is asked for: one more where a query finds itself."""
        return self.k + int((self.own >= 0).any())

    def recall(self, found: RetrievalResults) -> float:
        """Return the share of the exact `k` nearest that was found, 0..1, the mean over queries.

        An item that is as near as the k-th nearest is as right as that one.

        Args:
            found: neighbours of all queries, their ids being rows of the gallery.
        """
        right = 0
        for query, (own, nearness) in enumerate(zip(self.own, self.nearness, strict=True)):
            ids, _ = found.row(query)
            ids = ids[ids != own][: self.k]
            cosines = self.gallery[ids].astype(np.float64) @ self.queries[query]
            right += int(np.count_nonzero(cosines >= nearness - EQUAL))
        return right / (len(self.queries) * self.k)


@dataclass(frozen=True)
class SearchSpeed:
    """An index at one setting.

    Attributes:
        index: its kind.
        gpu: whether it was searched on a GPU.
        setting: the parameter that was varied, with its value; empty if there is none.
        build_seconds: filling it, training included.
        file_bytes: size of its files, without ids.
        resident_bytes: what a fresh process grew by that loaded it and searched all queries; None
            on a GPU, or where the system does not tell.
        queries_per_second: all queries in one call, the median of several calls.
        p50: seconds of a call with one query that half of the calls did not exceed.
        p95: the same for 95% of the calls.
        p99: the same for 99% of the calls.
        calls: calls with one query that were timed.
        recall: share of the exact nearest neighbours that was found, 0..1.
    """

    index: str
    gpu: bool
    setting: dict[str, int]
    build_seconds: float
    file_bytes: int
    resident_bytes: int | None
    queries_per_second: float
    p50: float
    p95: float
    p99: float
    calls: int
    recall: float


def measure_index(
    kind: str,
    task: SearchTask,
    *,
    parameters: Mapping[str, Any] | None = None,
    gpu: bool = False,
    threads: int = 1,
    repeats: int = 5,
) -> list[SearchSpeed]:
    """Build an index once and measure it at each of its settings, each loaded anew from its file.

    On a server it gets a collection of its own, named after the one that was given, which goes
    however this ends.

    Args:
        kind: registered name of the index.
        task: what is searched.
        parameters: of the index; if the one that is varied is among them, it is not.
        gpu: search on a GPU.
        threads: threads that FAISS and Annoy may use.
        repeats: timed calls with all queries, after one that is not timed.

    Raises:
        UserError: a parameter that does not fit, too few vectors to train on, a library that is
            missing, or a GPU that cannot hold this index.
    """
    component = get("index", kind)
    given = dict(parameters or {})
    if given.get("similarity", "cosine") != "cosine":
        raise UserError(f"{kind}.similarity={given['similarity']}: indexes are compared by cosine")
    if "gpu" in given:
        raise UserError(f"{kind}.gpu={given['gpu']}: both are measured where FAISS has a GPU")
    if "gpu" in component.parameters:
        given["gpu"] = "on" if gpu else "off"
    if given.get("uri") and given.get("collection"):
        # Under the name itself there may be an index that others search.
        given["collection"] = f"{given['collection'][:150]}_{secrets.token_hex(6)}_speed"
    with _threads(threads), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "index"
        try:
            index = component.build(**given)
            start = time.perf_counter()
            index.build(task.gallery)
            build_seconds = time.perf_counter() - start
        except RuntimeError as error:  # how FAISS says that a GPU cannot hold it
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"index {kind!r} cannot be built: {reason}") from None
        with _discarded(index if given.get("uri") else None):
            index.save(folder)
            file_bytes = sum(
                path.stat().st_size for path in folder.iterdir() if path.name not in BESIDE
            )
            del index
            resident = None if gpu else _resident_bytes(folder, task, kind)
            rows = []
            for setting in _settings(kind, task, given):
                tuned = {**setting, "gpu": "on"} if gpu else setting
                loaded = load_index(folder, **tuned)
                if hasattr(loaded, "threads"):
                    loaded.threads = threads
                speed, found = _throughput(loaded, task, repeats)
                latencies = _latencies(loaded, task)
                p50, p95, p99 = np.quantile(latencies, [0.5, 0.95, 0.99]).tolist()
                rows.append(
                    SearchSpeed(
                        index=kind,
                        gpu=gpu,
                        setting=setting,
                        build_seconds=build_seconds,
                        file_bytes=file_bytes,
                        resident_bytes=resident,
                        queries_per_second=speed,
                        p50=p50,
                        p95=p95,
                        p99=p99,
                        calls=len(latencies),
                        recall=task.recall(found),
                    )
                )
    return rows


@contextlib.contextmanager
def _discarded(index: Any) -> Iterator[None]:
    """Remove an index from the server that it is on, if it is on one; an error within comes first.

    One without a server is not held here, so that its memory can be given back.
    """
    try:
        yield
    except BaseException:
        if index is not None:
            with contextlib.suppress(UserError):
                index.discard()
        raise
    if index is not None:
        index.discard()


def _settings(kind: str, task: SearchTask, given: Mapping[str, Any]) -> list[dict[str, int]]:
    """Return the settings of an index that differ on this task."""
    if kind not in SWEEPS:
        return [{}]
    name, values = SWEEPS[kind]
    if name in given:
        return [{name: int(given[name])}]
    parameters = {**get("index", kind).defaults({}), **given}
    if parameters.get("index_type", "hnsw") != "hnsw":
        return [{}]
    items = len(task.gallery)
    least, most = 1, items
    if name == "ef_search":
        least = task.asked  # which it raises smaller values to
    elif kind == "ivf_pq":
        most = cell_count(items, parameters["nlist"], parameters["training_size"])
    elif kind == "annoy":
        # A tree holds each item once, so that more nodes than this are not there to look at.
        most = items * parameters["trees"]
    chosen = [value for value in values if least <= value <= max(most, values[0])]
    return [{name: value} for value in chosen or [least]]


def _throughput(index: Index, task: SearchTask, repeats: int) -> tuple[float, RetrievalResults]:
    """Return queries a second when all come in one call, and what was found."""
    found = index.search(task.queries, task.asked)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        index.search(task.queries, task.asked)
        times.append(time.perf_counter() - start)
    return len(task.queries) / float(np.median(times)), found


def _latencies(index: Index, task: SearchTask) -> Sequence[float]:
    """Return the seconds of calls with one query each."""
    times: list[float] = []
    for call in range(WARM_UP + MOST):
        query = task.queries[call % len(task.queries)][None]
        start = time.perf_counter()
        index.search(query, task.asked)
        if call >= WARM_UP:
            times.append(time.perf_counter() - start)
        if len(times) >= LEAST and sum(times) >= SECONDS:
            break
    return times


def _nearness(gallery: np.ndarray, queries: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """Return the cosine of each query's exact k-th nearest item, itself left out.

    Candidates come from all cosines in float32, more of them than are needed; float64 decides.
    """
    nearness = np.empty(len(queries))
    width = min(len(gallery), k + 32)
    for low in range(0, len(queries), BLOCK):
        part = queries[low : low + BLOCK]
        cosines = part @ gallery.T
        here = np.flatnonzero(own[low : low + BLOCK] >= 0)
        cosines[here, own[low + here]] = -np.inf
        nearest = np.argpartition(-cosines, width - 1, axis=1)[:, :width]
        for row, candidates in enumerate(nearest):
            candidates = candidates[candidates != own[low + row]]
            exact = gallery[candidates].astype(np.float64) @ part[row]
            nearness[low + row] = np.sort(exact)[-k]
    return nearness


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let FAISS use so many threads."""
    try:
        import faiss
    except ImportError:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _resident_bytes(folder: Path, task: SearchTask, kind: str) -> int | None:
    """Return what a process of its own grows by to hold and search an index.

    In this process it would be hidden in memory that was used and given back before.
    """
    if _rss() is None:
        return None
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_grown, str(folder), task.queries, task.asked, kind).result()
    except BrokenProcessPool:
        return None


def _grown(folder: str, queries: np.ndarray, k: int, kind: str) -> int | None:
    """Load and search an index, and return how much the process has grown by it."""
    for library in ("faiss", "annoy"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    # What the libraries take for themselves at their first use is not the index's.
    warm: dict[str, dict[str, Any]] = {"flat": {"gpu": "off"}}
    if kind == "milvus":
        warm[kind] = {"index_type": "flat"}
    for name, parameters in warm.items():
        with contextlib.suppress(UserError):
            get("index", name).build(**parameters).build(queries).search(queries, 1)
    gc.collect()
    before = _rss()
    index = load_index(folder)
    index.search(queries, k)
    after = _rss()
    return None if before is None or after is None else max(0, after - before)


def _rss() -> int | None:
    """Return the resident memory of this process in bytes, None where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

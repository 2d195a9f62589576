"""Recall against slow exact search, settings that differ, and measurements that can be real."""

from __future__ import annotations

import importlib
import sys

import faiss
import numpy as np
import pytest

from trainer.config import UserError, get
from trainer.retrieval import speed
from trainer.retrieval.indexes import Index
from trainer.retrieval.indexes.milvus_server import client_package
from trainer.retrieval.results import RetrievalResults
from trainer.retrieval.speed import SearchTask, measure_index


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    for name, value in (("WARM_UP", 1), ("LEAST", 20), ("MOST", 20)):
        monkeypatch.setattr(speed, name, value)


@pytest.fixture
def no_process(monkeypatch):
    """Measurements without a process of their own for the memory."""
    monkeypatch.setattr(speed, "_resident_bytes", lambda folder, task, kind: None)


def table(count=300, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def task_of(count=300, queries=40, k=5, dim=8):
    return SearchTask.of(table(count, dim), np.arange(queries), np.arange(count), k)


def slow_neighbours(embeddings, query, gallery):
    """Places in the gallery from nearest to farthest, and their cosines, the query left out."""
    rows = embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = {place: rows[row] @ rows[query] for place, row in enumerate(gallery) if row != query}
    return sorted(cosines, key=lambda place: -cosines[place]), cosines


@pytest.mark.parametrize("apart", [False, True])
def test_nearness_is_that_of_the_exact_kth_neighbour(apart):
    embeddings = table()
    queries = np.arange(90)
    gallery = np.arange(100, 300) if apart else np.arange(300)
    task = SearchTask.of(embeddings, queries, gallery, 7)
    assert (task.own.tolist(), task.asked) == (([-1] * 90, 7) if apart else (list(range(90)), 8))
    for query in queries:
        order, cosines = slow_neighbours(embeddings, query, gallery)
        assert task.nearness[query] == pytest.approx(cosines[order[6]], abs=1e-6)


def test_recall_counts_what_is_as_near_as_the_kth_and_never_the_query_itself():
    embeddings = table(60)
    embeddings[10] = embeddings[11]  # two items that nothing tells apart
    task = SearchTask.of(embeddings, np.array([0, 10]), np.arange(60), 4)
    orders = [slow_neighbours(embeddings, query, range(60))[0] for query in (0, 10)]
    found = RetrievalResults(
        queries=np.array([0, 1]),
        # The first finds itself and two of its four, the second all of its four.
        neighbours=np.array([[0, orders[0][1], orders[0][3], 60, 60], [10, *orders[1][:4]]]),
        scores=np.tile(np.arange(5, 0, -1, dtype=np.float32), (2, 1)),
        counts=np.array([3, 5]),
    )
    assert task.recall(found) == (2 + 4) / 8
    # Of the two equal items one is the fourth nearest to row 20: either is right.
    embeddings[10] = embeddings[11] = slow_fourth(embeddings, 20)
    task = SearchTask.of(embeddings, np.array([20]), np.arange(60), 4)
    order, _ = slow_neighbours(embeddings, 20, range(60))
    for last in (10, 11):
        neighbours = np.array([[*(row for row in order[:3] if row not in (10, 11)), last]])
        scores = np.arange(neighbours.shape[1], 0, -1, dtype=np.float32)[None]
        assert task.recall(RetrievalResults(np.array([0]), neighbours, scores)) == 1.0


def slow_fourth(embeddings, query):
    """A vector between the third and the fifth nearest, so that copies of it are the fourth."""
    others = np.array([row for row in range(60) if row not in (query, 10, 11)])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    order = others[np.argsort(-(unit[others] @ unit[query]))]
    return unit[order[2]] + unit[order[3]]


def test_impossible_tasks_are_refused():
    with pytest.raises(UserError, match="k=30: a query can find 1 to 29 items of this gallery"):
        SearchTask.of(table(30), np.arange(5), np.arange(30), 30)
    assert SearchTask.of(table(30), np.arange(5), np.arange(5, 30), 25).asked == 25
    with pytest.raises(UserError, match=r"flat\.similarity=dot: indexes are compared by cosine"):
        measure_index("flat", task_of(), parameters={"similarity": "dot"})
    with pytest.raises(UserError, match=r"flat\.gpu=on: both are measured where FAISS has a GPU"):
        measure_index("flat", task_of(), parameters={"gpu": "on"})
    with pytest.raises(UserError, match="sees no GPU"):
        measure_index("flat", task_of(), gpu=True)


def test_what_is_measured_can_be_true():
    task = task_of(count=20_000, queries=200, k=10, dim=64)
    before = faiss.omp_get_max_threads()
    (row,) = measure_index("flat", task, threads=1, repeats=2)
    assert faiss.omp_get_max_threads() == before
    assert (row.index, row.gpu, row.setting, row.recall) == ("flat", False, {}, 1.0)
    vectors = task.gallery.nbytes
    assert vectors <= row.file_bytes < 1.01 * vectors
    assert 0.8 * vectors < row.resident_bytes < 3 * vectors
    assert 0 < row.p50 <= row.p95 <= row.p99
    assert row.calls == 20
    assert 0 < row.build_seconds < 10
    assert row.queries_per_second > 1


@pytest.mark.usefixtures("no_process")
def test_each_setting_starts_from_the_file_and_finds_more_for_its_time(monkeypatch):
    loaded = []
    load = speed.load_index
    monkeypatch.setattr(
        speed, "load_index", lambda folder, **tuned: loaded.append(tuned) or load(folder, **tuned)
    )
    task = task_of(count=2000, queries=100, dim=32)
    small = {"bits": 4, "nlist": 16, "m": 16}
    rows = measure_index("ivf_pq", task, parameters=small, repeats=1)
    assert [row.setting for row in rows] == loaded == [{"nprobe": n} for n in (1, 4, 16)]
    recalls = [row.recall for row in rows]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1] < 1
    (row,) = measure_index("hnsw", task, parameters={"ef_search": 24, "m": 4}, repeats=1)
    assert row.setting == {"ef_search": 24}
    assert row.file_bytes < measure_index("hnsw", task, repeats=1)[0].file_bytes


def test_settings_that_would_be_the_same_are_left_out():
    def values(kind, task, **given):
        return [value for each in speed._settings(kind, task, given) for value in each.values()]

    small, large = task_of(count=400), task_of(count=4000, k=100)
    assert values("hnsw", small) == [16, 32, 64, 128, 256]
    # It never looks at fewer candidates than it returns, here 101.
    assert values("hnsw", large) == [128, 256, 512]
    assert values("hnsw", task_of(count=4000, k=600)) == [601]
    assert values("ivf_pq", small) == [1, 4]  # 400 items make 10 cells
    assert values("ivf_pq", small, nlist=2) == [1]
    assert values("annoy", small, trees=2) == [100, 300]  # two trees hold 800 nodes
    assert speed._settings("flat", small, {}) == [{}]
    assert values("milvus", large) == [128, 256, 512]
    assert speed._settings("milvus", small, {"index_type": "flat"}) == [{}]


def test_annoy_uses_as_many_threads_as_it_may(monkeypatch):
    pytest.importorskip("annoy", reason="extra annoy is not installed")
    seen = set()
    search = Index.search

    def watched(self, *arguments):
        seen.add(self.threads)
        return search(self, *arguments)

    monkeypatch.setattr(Index, "search", watched)
    monkeypatch.setattr(speed, "_resident_bytes", lambda folder, task, kind: None)
    rows = measure_index("annoy", task_of(), parameters={"trees": 3}, threads=3, repeats=1)
    assert seen == {3}
    assert rows[-1].recall > 0.9


@pytest.mark.usefixtures("no_process")
def test_without_its_library_an_index_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "annoy", None)
    with pytest.raises(UserError, match=r"pip install 'mildnet\[annoy\]'"):
        measure_index("annoy", task_of())


@pytest.mark.usefixtures("no_process")
def test_on_a_gpu_the_index_is_moved_there_and_only_there(monkeypatch):
    moved = []
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(
        faiss, "index_cpu_to_gpu", lambda where, gpu, index: moved.append(index) or index,
        raising=False,
    )  # fmt: skip
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index, raising=False)
    (row,) = measure_index("flat", task_of(), repeats=1)
    assert not row.gpu
    assert moved == []
    (row,) = measure_index("flat", task_of(), gpu=True, repeats=1)
    assert row.gpu
    assert len(moved) == 2  # once when built, once when loaded
    assert row.resident_bytes is None

    def full(where, gpu, index):
        raise RuntimeError("Error in somewhere\nout of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", full)
    with pytest.raises(UserError, match="index 'flat' cannot be built: out of memory"):
        measure_index("flat", task_of(), gpu=True)


@pytest.mark.usefixtures("no_process")
def test_milvus_is_measured_with_all_of_its_files(tmp_path, monkeypatch):
    pytest.importorskip("milvus_lite", reason="extra milvus is not installed")
    client_package()  # before anything else imports pymilvus
    server = importlib.import_module("milvus_lite.adapter.grpc.server")
    running, database, port = server.start_server_in_thread(str(tmp_path / "db"))
    task = task_of(queries=10)
    (local,) = measure_index("milvus", task, parameters={"index_type": "flat"}, repeats=1)
    address = {"index_type": "flat", "uri": f"http://127.0.0.1:{port}", "collection": "speed"}
    live = get("index", "milvus").build(**address).build(task.gallery)
    live.save(tmp_path / "live")
    (remote,) = measure_index("milvus", task, parameters=address, repeats=1)
    assert local.recall == remote.recall == 1
    assert remote.file_bytes < 1000 < 300 * 8 * 4 < local.file_bytes
    monkeypatch.setattr(speed, "_latencies", None)
    with pytest.raises(TypeError):
        measure_index("milvus", task, parameters=address, repeats=1)
    # What was measured has gone from the server, and an index of the same name is as it was.
    assert database.list_collections() == [live._name]
    assert database._aliases("default") == {"speed": live._name}
    assert live.search(task.queries, 1).neighbours.shape == (10, 1)
    live.close()
    running.stop(0)
    database.close()

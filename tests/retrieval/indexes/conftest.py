"""What all tests of indexes run with."""

import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """So little work is done faster by one thread than shared out."""
    faiss = pytest.importorskip("faiss")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture
def played_gpu(monkeypatch):
    """A FAISS that sees a GPU: what is there can be searched without a filter, and nothing else."""
    faiss = pytest.importorskip("faiss")

    class OnGpu:
        def __init__(self, index):
            self.index = index

        def search(self, queries, k, params=None):
            assert params is None
            return self.index.search(queries, k)

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda _, __, index: OnGpu(index), raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda there: there.index, raising=False)
    return OnGpu

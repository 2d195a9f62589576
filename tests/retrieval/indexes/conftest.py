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

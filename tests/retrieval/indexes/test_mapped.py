"""Indexes that stay in their files."""

import subprocess
import sys

import numpy as np
import pytest

from tests.retrieval.indexes.test_indexes import KINDS, clusters, make
from trainer.retrieval.indexes import load_index

#: Prints by how many MiB the memory of its own that a process has grows by loading and searching.
MEMORY = """
import re, sys
import numpy as np
import faiss
from trainer.retrieval.indexes import load_index
faiss.omp_set_num_threads(1)
load_index(sys.argv[1])
def own():
    return int(re.search(r"Anonymous: +(\\d+)", open("/proc/self/smaps_rollup").read())[1]) / 1024
before = own()
index = load_index(sys.argv[2], mapped=sys.argv[3] == "mapped")
index.search(np.ones((1, index.dim), np.float32), 5)
print(own() - before)
"""


@pytest.mark.parametrize("ids", ["int64", "str"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_index_answers_and_changes_as_any_other(kind, ids, tmp_path):
    items, labels = clusters()
    names = np.arange(len(items)) if ids == "int64" else np.array([f"{n}" for n in range(600)])
    make(kind).build(items[:500], names[:500]).remove(names[:20]).save(tmp_path / "index")
    index, mapped = (load_index(tmp_path / "index", mapped=how) for how in (False, True))
    content = (tmp_path / "index" / index.filename).read_bytes()
    among = labels[20:500] % 2 == 0
    for one in (index, mapped):
        one.first = one.search(items[:30], 7).to_dict(), one.search(items, 7, among=among).to_dict()
    assert index.first == mapped.first
    # Saved from its file, to another place and to its own.
    for folder in ("other", "index"):
        mapped.save(tmp_path / folder)
        assert load_index(tmp_path / folder).search(items[:30], 7).to_dict() == index.first[0]
    for one in (index, mapped):
        one.update(names[20:60], items[500:], names[500:])
    assert mapped.ids.tolist() == index.ids.tolist()
    assert mapped.search(items[:30], 7).to_dict() == index.search(items[:30], 7).to_dict()
    assert load_index(tmp_path / "index").search(items[:30], 7).to_dict() == index.first[0]
    if kind in ("flat", "ivf_pq", "hnsw"):
        assert (tmp_path / "other" / index.filename).read_bytes() == content
    mapped.save(tmp_path / "index")
    assert len(load_index(tmp_path / "index", mapped=True)) == 540


def test_a_mapped_index_takes_no_memory_of_its_own(tmp_path):
    """Its pages belong to the file, so any number of processes have them once."""
    items = np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float32)
    make("flat").build(items).save(tmp_path / "large")
    make("flat").build(items[:10]).save(tmp_path / "small")
    grown = {}
    for how in ("mapped", "loaded"):
        command = [sys.executable, "-c", MEMORY, tmp_path / "small", tmp_path / "large", how]
        grown[how] = float(subprocess.run(command, check=True, capture_output=True).stdout)
    size = items.nbytes / 2**20
    assert grown["loaded"] > 0.9 * size
    assert grown["mapped"] < 0.2 * size

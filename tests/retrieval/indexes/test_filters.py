"""Searches among some of the items only, beside an exact search of just those."""

import numpy as np
import pytest

from tests.retrieval.indexes.test_indexes import KINDS, SIMILARITIES, exact, make


@pytest.fixture(scope="module")
def items():
    return np.random.default_rng(0).standard_normal((4000, 16)).astype(np.float32)


def recall(index, items, queries, k, among, similarity, names):
    """The share found of the `k` nearest of the allowed items, once scores and ids are right."""
    found = index.search(queries, k, among=among)
    truth = exact(items, queries, similarity)
    truth[:, ~among] = -np.inf
    nearest = np.argsort(-truth, axis=1, kind="stable")[:, : min(k, among.sum())]
    hits = 0
    for row, best in enumerate(nearest):
        ids, scores = found.row(row)
        places = [names.index(name) for name in ids.tolist()]
        assert among[places].all()
        assert len(ids) == min(k, among.sum())
        if index.kind != "ivf_pq":  # its scores are of the compressed items
            np.testing.assert_allclose(scores, truth[row, places], rtol=1e-4, atol=1e-4)
        hits += len(set(places) & set(best.tolist()))
    return hits / nearest.size


@pytest.mark.parametrize("share", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_nearest_of_those_that_are_allowed(kind, share, items):
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((20, 16)).astype(np.float32)
    names = [f"köln/{n}.jpg" for n in range(len(items))]
    for similarity in SIMILARITIES:
        index = make(kind, similarity=similarity).build(items, names)
        among = rng.random(len(items)) < share
        got = recall(index, items, queries, 10, among, similarity, names)
        least = {"flat": 1, "hnsw": 0.95, "annoy": 0.9, "ivf_pq": 0.3}.get(kind, 0.9)
        assert got >= least, similarity

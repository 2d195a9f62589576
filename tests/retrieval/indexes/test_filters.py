"""Searches among some of the items only, beside an exact search of just those."""

import numpy as np
import pytest

from tests.retrieval.indexes.test_indexes import KINDS, SIMILARITIES, clusters, exact, make
from trainer.config import UserError
from trainer.retrieval.indexes import load_index

#: So much of what an exact search of the vectors that an index holds finds.
LEAST = {"flat": 1, "ivf_pq": 0.8}


def recall(index, items, queries, k, among):
    """The share found of the `k` nearest of the allowed items, once scores and ids are right."""
    found = index.search(queries, k, among=among)
    if index.kind == "ivf_pq":
        items = index.vectors(index.ids)
    truth = exact(items, queries, index.similarity)
    if index.kind == "ivf_pq" and index.similarity == "cosine":  # codes are not of unit length
        truth = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ items.T
    truth[:, ~among] = -np.inf
    nearest = np.argsort(-truth, axis=1, kind="stable")[:, : min(k, among.sum())]
    hits = 0
    for row, best in enumerate(nearest):
        ids, scores = found.row(row)
        assert among[ids].all()
        assert len(ids) == min(k, among.sum())
        np.testing.assert_allclose(scores, truth[row, ids], rtol=1e-4, atol=1e-4)
        # By the score: equal codes are equally near.
        hits += int((scores >= truth[row, best[-1]] - 1e-5).sum())
    return hits / nearest.size


@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_nearest_of_those_that_are_allowed(kind):
    rng = np.random.default_rng(1)
    items = rng.standard_normal((4000, 16)).astype(np.float32)
    queries = rng.standard_normal((20, 16)).astype(np.float32)
    for similarity in SIMILARITIES if kind == "flat" else ["cosine"]:
        quick = {"hnsw": {"ef_construction": 60}, "annoy": {"trees": 20}}.get(kind, {})
        index = make(kind, similarity=similarity, **quick).build(items)
        for share in (0.5, 0.05, 0.005):
            among = rng.random(len(items)) < share
            assert recall(index, items, queries, 10, among) >= LEAST.get(kind, 0.9), share


@pytest.mark.parametrize("kind", KINDS)
def test_those_that_are_allowed_may_lie_far_away(kind):
    """A walk towards the query, or the cells around it, meet none of them."""
    items, labels = clusters(groups=40, each=100)
    index = make(kind, **{"hnsw": {"ef_construction": 40, "ef_search": 16}}.get(kind, {}))
    index.build(items)
    for similar in (1, 4, 20):
        far = labels >= 40 - similar
        assert recall(index, items, items[:10] + np.float32(0.01), 20, far) >= LEAST.get(kind, 0.9)


@pytest.mark.parametrize("gone", ["the other domain", "the nearest"])
def test_a_graph_is_walked_out_of_the_region_of_a_query(gone):
    """Pictures of the street and of the shop lie apart, but near enough for a walk among those of
    the street to brush against some of the shop."""
    rng = np.random.default_rng(0)
    items, queries = street_and_shop(rng, 6000)
    street = np.arange(len(items)) % 2 == 0
    index = make("hnsw", m=16, ef_construction=60).build(items)
    among = ~street
    if gone == "the nearest":
        scores = exact(items, queries, "cosine")
        among = np.ones(len(items), bool)
        among[np.argsort(-scores, axis=1)[:, :120]] = False
    for query in queries[:, None]:
        assert recall(index, items, query, 20, among) >= 0.8
    assert recall(index, items, queries, 20, among) >= 0.97


def street_and_shop(rng, count, dim=64):
    """Pictures of products, those at even numbers of one domain, and queries of this one."""
    products = rng.standard_normal((count // 10, dim))
    apart = 0.4 * rng.standard_normal(dim)
    which = rng.integers(0, len(products), count)
    items = products[which] + 0.5 * rng.standard_normal((count, dim))
    items[::2] += apart
    items[1::2] -= apart
    return items.astype(np.float32), (items[:60:2] + 0.01).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_few_or_none_are_allowed(kind):
    items, _ = clusters()
    index = make(kind).build(items, [f"{n}" for n in range(len(items))])
    among = np.zeros(len(items), bool)
    found = index.search(items[:3], 5, among=among)
    assert found.to_dict() == {"queries": [0, 1, 2], "neighbours": [[]] * 3, "scores": [[]] * 3}
    among[[7, 99]] = True
    found = index.search(items[:3], 5, among=among)
    assert [sorted(found.row(n)[0].tolist()) for n in range(3)] == [["7", "99"]] * 3
    everything = index.search(items[:3], 5, among=np.ones(len(items), bool))
    assert everything.to_dict() == index.search(items[:3], 5).to_dict()
    for wrong in (among[1:], among.astype(int), np.flatnonzero(among)):
        with pytest.raises(UserError, match="one bool is needed for each of the 600 items"):
            index.search(items[:3], 5, among=wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_items_that_are_gone_and_filters_go_together(kind, tmp_path):
    """Positions have moved: those of the filter are of the items that are left."""
    items, _ = clusters()
    ids = np.arange(len(items))
    index = make(kind).build(items, ids).remove(ids[5:600:7])
    index.add(items[5:600:7], ids[5:600:7] + 1000)
    index.save(tmp_path / "index")
    for one in (index, load_index(tmp_path / "index", mapped=True)):
        among = one.ids % 2 == 0
        truth = exact(items, items[:40], "cosine")[:, one.ids % 1000]
        truth[:, ~among] = -np.inf
        nearest = one.ids[np.argsort(-truth, axis=1)[:, :8]]
        found = one.search(items[:40], 8, among=among)
        hits = [len(set(a) & set(b)) for a, b in zip(found.neighbours, nearest, strict=True)]
        assert np.mean(hits) / 8 >= {"ivf_pq": 0.3}.get(kind, 0.95)
        assert (found.neighbours % 2 == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_given_back(kind, tmp_path):
    items, _ = clusters()
    names = np.array([f"köln/{n}" for n in range(len(items))])
    for similarity in ("cosine", "euclidean"):
        index = make(kind, similarity=similarity).build(items, names).remove(names[3:30])
        index.add(items[3:10], names[3:10])
        index.save(tmp_path / "index")
        wanted = np.array([599, 5, 0, 31, 5])
        truth = items[wanted]
        if similarity == "cosine":
            truth = truth / np.linalg.norm(truth, axis=1, keepdims=True)
        for one in (index, load_index(tmp_path / "index", mapped=True)):
            got = one.vectors(names[wanted])
            assert (got.shape, got.dtype) == ((5, 16), np.float32)
            if kind == "ivf_pq":
                near = (exact(got, truth, "cosine")).diagonal()
                assert near.min() > 0.9
            else:
                np.testing.assert_allclose(got, truth, atol=1e-5)
            assert one.vectors([]).shape == (0, 16)
            with pytest.raises(UserError, match="id nothing is not in the index"):
                one.vectors([names[0], "nothing"])


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_an_index_on_a_gpu_is_filtered_on_the_cpu(kind, played_gpu):
    items, _ = clusters()
    one, other = (make(kind, gpu=gpu).build(items) for gpu in ("on", "off"))
    among = np.arange(600) % 3 == 0
    for changed in (False, True):
        if changed:
            one, other = (index.remove([0, 1]).add(items[:2], [0, 1]) for index in (one, other))
        found = [index.search(items[:9], 4, among=among).to_dict() for index in (one, other)]
        assert found[0] == found[1]
        np.testing.assert_array_equal(one.vectors([5, 0]), other.vectors([5, 0]))
    assert isinstance(one._index, played_gpu)

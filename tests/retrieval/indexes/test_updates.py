"""Items come and go: after any changes an index answers as one built of what it holds."""

import json

import numpy as np
import pytest

from tests.retrieval.indexes.test_indexes import KINDS, SIMILARITIES, clusters, exact, make
from trainer.config import UserError
from trainer.retrieval.indexes import load_index
from trainer.retrieval.vectors import prepared

DIM = 8


def named(numbers, ids):
    return [f"köln/{n}.jpg" for n in numbers] if ids == "str" else [int(n) + 2**60 for n in numbers]


def rebuilt(index, kind, held, similarity):
    """An index of the same items that never saw another."""
    names, vectors = list(held), np.stack(list(held.values()))
    if kind != "ivf_pq":
        return make(kind, similarity=similarity).build(vectors, names)
    # Cells and codes are those of the first build, so only they are taken over, empty.
    import faiss

    fresh = make(kind, similarity=similarity)
    fresh.ids, fresh.dim = np.array(names), DIM
    fresh._index = faiss.clone_index(index._index)
    fresh._index.reset()
    fresh._tune(fresh._index)
    fresh._index.add(prepared(vectors, similarity))
    return fresh


def check(index, kind, held, similarity, queries):
    names = list(held)
    assert index.ids.tolist() == names
    assert len(index) == len(held)
    k = 6
    found = index.search(queries, k)
    fresh = rebuilt(index, kind, held, similarity).search(queries, k)
    truth = exact(np.stack(list(held.values())), queries, similarity)
    nearest = np.argsort(-truth, axis=1)[:, : min(k, len(held))]
    best = np.take_along_axis(truth, nearest, axis=1)
    if kind == "flat":
        np.testing.assert_allclose(found.scores, best, rtol=1e-4, atol=1e-4)
    if kind not in ("hnsw", "milvus"):  # to the digit
        assert found.to_dict() == fresh.to_dict()
        return
    hits = [
        len({names[place] for place in row} & set(ids.tolist()))
        for row, ids in zip(nearest, found.neighbours, strict=True)
    ]
    assert sum(hits) >= 0.95 * nearest.size
    for row in range(len(queries)):
        ids, scores = found.row(row)
        mine = [truth[row, names.index(name)] for name in ids.tolist()]
        np.testing.assert_allclose(scores, mine, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ids", ["int64", "str"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_changes_give_what_a_new_index_gives(kind, ids, tmp_path):
    """Random additions, removals, replacements and reloads beside a plain dict."""
    for seed, similarity in enumerate(SIMILARITIES):
        rng = np.random.default_rng(seed)

        def draw(count, rng=rng):
            return rng.standard_normal((count, DIM)).astype(np.float32)

        first = named(range(120), ids)
        vectors = draw(120)
        index = make(kind, similarity=similarity).build(vectors, first)
        held = dict(zip(first, vectors, strict=True))
        used = 120
        for step in range(24):
            count = int(rng.integers(1, 25))
            action = rng.choice(["add", "remove", "replace", "load"])
            if action == "add":
                names, vectors = named(range(used, used + count), ids), draw(count)
                used += count
                index.add(vectors, names)
                held |= dict(zip(names, vectors, strict=True))
            elif action == "remove":
                names = rng.permutation(np.array(list(held)))[: min(count, len(held) - 1)]
                index.remove(names)
                for name in names.tolist():
                    del held[name]
            elif action == "replace":  # some of those that are there, and a new one
                names = rng.permutation(np.array(list(held)))[:count].tolist()
                names += named([used], ids)
                used += 1
                vectors = draw(len(names))
                index.add(vectors, names, replace=True)
                for name in names:
                    held.pop(name, None)
                held |= dict(zip(names, vectors, strict=True))
            else:
                index.save(tmp_path / "index")
                index = load_index(tmp_path / "index")
            if step % 4 == 3:
                check(index, kind, held, similarity, draw(15))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_new_is_found_and_what_is_gone_is_not(kind, tmp_path):
    items, labels = clusters()
    names = np.arange(len(items))
    index = make(kind).build(items[labels < 30], names[labels < 30])
    index.remove(names[labels < 4])
    index.add(items[labels >= 30], names[labels >= 30])
    index.save(tmp_path / "index")
    for one in (index, load_index(tmp_path / "index")):
        found = one.search(items, 60 if kind == "ivf_pq" else 5)  # equal codes may come first
        assert not np.isin(found.neighbours, names[labels < 4]).any()
        for row in np.flatnonzero(labels >= 4):
            assert row in found.row(row)[0]
    if kind != "ivf_pq":
        np.testing.assert_array_equal(found.neighbours[labels >= 4, 0], names[labels >= 4])


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_graph_finds_its_way_past_many_items_that_are_gone(share):
    """All that are gone lie around the query: a walk that stops among them would find nothing."""
    rng = np.random.default_rng(0)
    near = 0.01 * rng.standard_normal((int(1000 * share), DIM)) + 5
    far = rng.standard_normal((1000 - len(near), DIM))
    items = np.concatenate([near, far]).astype(np.float32)
    index = make("hnsw", similarity="euclidean", ef_search=16).build(items)
    index.remove(np.arange(len(near)))
    query = np.full((1, DIM), 5, np.float32)
    found = index.search(query, 10)
    truth = np.argsort(-exact(items[len(near) :], query, "euclidean")[0])[:10] + len(near)
    assert set(found.row(0)[0].tolist()) == set(truth.tolist())
    assert len(index.search(query, 1000).row(0)[0]) == 1000 - len(near)


def test_a_graph_is_built_anew_when_a_quarter_of_it_is_gone():
    items, _ = clusters(groups=20, each=10)
    index = make("hnsw").build(items)
    index.remove(range(50))
    assert index._index.ntotal == 200
    index.remove([50])
    assert index._index.ntotal == 149
    index.remove(range(60, 95)).add(items[60:95], range(60, 95), replace=True)
    assert index._index.ntotal == 184
    assert len(index) == 149


@pytest.mark.parametrize("kind", KINDS)
def test_replacing_everything_is_one_step(kind):
    items, _ = clusters()
    index = make(kind).build(items)
    index.add(items[::-1], range(len(items)), replace=True)
    found = index.search(items[:40], 3)
    assert len(index) == len(items)
    if kind != "ivf_pq":
        np.testing.assert_array_equal(found.neighbours[:, 0], len(items) - 1 - np.arange(40))


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_changes_are_one_clear_error_and_change_nothing(kind):
    items, _ = clusters()
    index = make(kind)
    with pytest.raises(UserError, match="empty"):
        index.add(items, range(600))
    with pytest.raises(UserError, match="empty"):
        index.remove([1])
    index.build(items)
    before = index.search(items[:20], 5).to_dict()
    for call, message in [
        (lambda: index.remove([600, 1, 601]), r"id 600 is not in the index \(nor are 1 others\)"),
        (lambda: index.remove([5, 5]), "id 5 is given twice"),
        (lambda: index.remove(["5"]), "ids are strings, those of the index are integers"),
        (lambda: index.remove(range(600)), "nothing would be left"),
        (lambda: index.add(items[:2], [600, 5]), "id 5 is in the index already: replace=True"),
        (lambda: index.add(items[:2], [600, 600], replace=True), "id 600 is given twice"),
        (lambda: index.add(items[:2], [600]), "ids for 2"),
        (lambda: index.add(items[:2], []), "ids for 2"),
        (lambda: index.update(ids=[600]), "empty"),
        (lambda: index.add(items[:2], ["a", "b"]), "ids are strings"),
        (lambda: index.add(items[:2], ["a", "b"], replace=True), "ids are strings"),
        (lambda: index.add(items[:2, :8], [600, 601]), "8 dimensions but the index has 16"),
        (lambda: index.add(items[:2] * np.float32(np.nan), [600, 601]), "NaN"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
        assert index.search(items[:20], 5).to_dict() == before, message
        assert len(index) == 600, message
    assert index.remove([]).update() is index
    assert index.search(items[:20], 5).to_dict() == before


def test_notes_are_kept_and_folders_without_them_are_read(tmp_path):
    items, _ = clusters()
    index = make("flat").build(items)
    index.notes["model"] = "köln"
    index.save(tmp_path / "index")
    assert load_index(tmp_path / "index").notes == {"model": "köln"}
    path = tmp_path / "index" / "meta.json"
    meta = json.loads(path.read_text())
    del meta["notes"]
    path.write_text(json.dumps(meta))
    assert load_index(tmp_path / "index").notes == {}
    path.write_text(json.dumps({**meta, "notes": 3}))
    with pytest.raises(UserError, match="build it again"):
        load_index(tmp_path / "index")


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_an_index_on_a_gpu_is_changed_on_the_cpu(kind, played_gpu):
    items, _ = clusters()
    one, other = (
        make(kind, gpu=gpu).build(items).remove(range(100)).add(items[:50], range(50))
        for gpu in ("on", "off")
    )
    assert isinstance(one._index, played_gpu)
    assert one.search(items[:99], 4).to_dict() == other.search(items[:99], 4).to_dict()

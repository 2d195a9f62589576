"""A catalogue that changes while it is searched: beside a dict and an exact search of it."""

import numpy as np
import pytest

from tests.serving.live_catalogues import (
    FIELDS,
    draw_fields,
    made,
    nearest,
    vectors,
)
from trainer.serving.changes import Item
from trainer.serving.live import LiveCatalogue

PICTURE = b"a picture"


@pytest.fixture(autouse=True)
def one_thread():
    faiss = pytest.importorskip("faiss")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture
def shop(tmp_path):
    """A catalogue of 60 items, and what it holds."""
    held = made(tmp_path / "index")
    live = LiveCatalogue(tmp_path / "index")
    yield live, held
    live.close()


def check(live, held, rng, similarity="cosine"):
    assert len(live) == len(held)
    assert live.categories == tuple(sorted({i.category for i, _ in held.values()} - {""}))
    assert live.domains == tuple(sorted({i.domain for i, _ in held.values()} - {""}))
    listed = live.list(0, 1000)
    assert {item.id: item for item in listed} == {name: item for name, (item, _) in held.items()}
    assert listed[3:7] == live.list(3, 4)
    wanted = {name: str(rng.choice(FIELDS[name])) for name in FIELDS if rng.random() < 0.3}
    without = rng.choice(list(held), 2, replace=False).tolist() if len(held) > 2 else []
    queries, k = vectors(rng, 3), int(rng.integers(1, 9))
    found = live.search(queries, k, without=without, **wanted)
    for query, mine in zip(queries, found, strict=True):
        truth = nearest(held, query, k, similarity, without, **wanted)
        assert [one.item for one in mine] == [item for item, _ in truth]
        assert [one.rank for one in mine] == list(range(1, len(truth) + 1))
        np.testing.assert_allclose([one.score for one in mine], [s for _, s in truth], atol=1e-4)
    no_label = {name: value for name, value in wanted.items() if name != "label"}
    assert {item.id for item in live.list(0, 99, **no_label)} == {
        name
        for name, (item, _) in held.items()
        if all(getattr(item, field) == value for field, value in no_label.items())
    }


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_any_changes_give_what_the_items_of_now_give(tmp_path, similarity):
    """Random additions, removals, replacements and restarts beside a plain dict."""
    rng = np.random.default_rng(1)
    held = made(tmp_path / "index", similarity=similarity)
    live = LiveCatalogue(tmp_path / "index")
    for step in range(150):
        version, action = live.version, rng.choice(["add", "replace", "remove", "restart"])
        if action == "restart" and step % 3:
            action = "add"
        if action in ("add", "replace"):
            name = f"new/{step}" if action == "add" else str(rng.choice(list(held)))
            fields, (vector,) = draw_fields(rng), vectors(rng, 1)
            box = (1.0, 2.0, 3.5, 4.0) if rng.random() < 0.5 else None
            live.add(name, PICTURE, vector, **fields, box=box, replace=action == "replace")
            held[name] = (Item(name, **fields, box=box), vector)
        elif action == "remove":
            name = str(rng.choice(list(held)))
            live.remove(name)
            del held[name]
        else:
            live.close()
            live = LiveCatalogue(tmp_path / "index", mapped=bool(rng.integers(2)))
            version = -1
        assert live.version > version
        check(live, held, rng, similarity)
    live.close()

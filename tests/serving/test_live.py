"""A catalogue that changes while it is searched: beside a dict and an exact search of it."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.serving.live_catalogues import (
    DIM,
    FIELDS,
    draw_fields,
    made,
    nearest,
    vectors,
    write,
)
from trainer.config import UserError
from trainer.serving.changes import Item
from trainer.serving.live import LiveCatalogue, changes_file

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
    """Random additions, removals, replacements, restarts and new indexes beside plain dicts."""
    rng = np.random.default_rng(1)
    indexed = made(tmp_path / "index", count=20, similarity=similarity)
    # What was added, with whether it wins; and which items of an index went, whatever comes later.
    added, gone, names = {}, set(), list(indexed)
    live = LiveCatalogue(tmp_path / "index")
    for step in range(160):
        held = {name: indexed[name] for name in indexed if name not in gone}
        held |= {name: one for name, (one, wins) in added.items() if wins or name not in held}
        check(live, held, rng, similarity)
        action = rng.choice(["add", "add", "replace", "remove", "remove", "restart"])
        if action in ("add", "replace"):
            name = str(rng.choice(list(held))) if action == "replace" else f"new/{step}"
            if action == "add" and set(names) - set(held):  # one that was removed, or is not yet
                name = str(rng.choice(sorted({*names, name} - set(held))))
            names.append(name)
            fields, (vector,) = draw_fields(rng), vectors(rng, 1)
            box = (1.0, 2.0, 3.5, 4.0) if rng.random() < 0.5 else None
            replace = action == "replace" or bool(rng.integers(2))
            item = live.add(name, PICTURE, vector, **fields, box=box, replace=replace)
            assert item == Item(name, **fields, box=box)
            added[name] = (item, vector), replace
        elif action == "remove":
            name = str(rng.choice(list(held)))
            live.remove(name)
            added.pop(name, None)
        else:
            live.close()
            if rng.random() < 0.5:
                indexed = rebuilt(tmp_path / "index", sorted({*names}), rng, similarity)
            live = LiveCatalogue(tmp_path / "index", mapped=bool(rng.integers(2)))
        if action in ("replace", "remove") and name in indexed:
            gone.add(name)
    live.close()


def rebuilt(folder, names, rng, similarity):
    """Write another index with most of these items, and return what it holds."""
    names = [name for name in names if rng.random() < 0.8]
    fields, embeddings = [draw_fields(rng) for _ in names], vectors(rng, len(names))
    rows = [{"path": f"/data/shop/{name}", **one} for name, one in zip(names, fields, strict=True)]
    write(folder, rows, embeddings, similarity=similarity)
    return {
        name: (Item(name, **one), vector)
        for name, one, vector in zip(names, fields, embeddings, strict=True)
    }


def test_what_replaced_an_indexed_item_did_so_for_good(tmp_path):
    """Though that was not shown, and an index without it came in between."""
    (vector,) = vectors(np.random.default_rng(2), 1)
    for count in (6, 9):
        made(tmp_path / "index", count=count)
        with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
            live.add("1/7.jpg", PICTURE, vector, label="added", replace=True)
    made(tmp_path / "index", count=6)
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        live.remove("1/7.jpg")
    made(tmp_path / "index", count=9)
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        assert {item.id for item in live.list(5, 9)} == {"2/5.jpg", "0/6.jpg", "2/8.jpg"}


def test_what_is_removed_stays_so_whatever_the_rebuilt_index_has(tmp_path):
    """Whichever is shown, the indexed one or the added one: neither comes back."""
    rng = np.random.default_rng(2)
    made(tmp_path / "index", count=6)
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        for name, replace in (("1/7.jpg", True), ("2/8.jpg", False)):
            live.add(name, PICTURE, vectors(rng, 1)[0], label="added", replace=replace)
    made(tmp_path / "index", count=9)
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        assert live.get("1/7.jpg").label == "added" != live.get("2/8.jpg").label
        for name in ("1/7.jpg", "2/8.jpg"):
            live.remove(name)
        left = live.list(0, 99)
        assert len(left) == 7
    for _ in range(2):
        with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
            assert live.list(0, 99) == left


def test_a_change_that_was_acknowledged_outlives_a_killed_process(tmp_path):
    """The process says what it has added and is killed at any moment: between or within writes."""
    made(tmp_path / "index")
    for delay in (0.0, 0.07):
        command = [sys.executable, "-c", ADDING, str(tmp_path / "index")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        with pytest.raises(UserError, match=r"index.changes.sqlite: another process is using"):
            LiveCatalogue(tmp_path / "index")
        time.sleep(delay)
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
        process.wait()
        whole = [line.split() for line in said if line.endswith("\n")]
        live = LiveCatalogue(tmp_path / "index")
        for name, first in whole:
            assert live.vector(name)[0] == pytest.approx(float(first), abs=1e-6)
            assert live.picture(name) == (name.encode() * 1000, None)
        assert len(live) >= 60 + len(whole)
        for item in live.list(60, 10_000):
            live.remove(item.id)
        live.close()


#: Adds items without end, and says so of each once it is added.
ADDING = """
import sys, uuid
import numpy as np
from trainer.serving.live import LiveCatalogue
live = LiveCatalogue(sys.argv[1])
rng = np.random.default_rng()
while True:
    name, vector = uuid.uuid4().hex, rng.standard_normal(live.dim)
    live.add(name, name.encode() * 1000, vector, label="a")
    print(name, live.vector(name)[0], flush=True)
"""


def test_searches_see_one_version_while_others_change_it(tmp_path):
    """Each answer is that of some version between the begin and the end of its search."""
    held = made(tmp_path / "index", count=40)
    live = LiveCatalogue(tmp_path / "index")
    rng = np.random.default_rng(42)
    queries = vectors(rng, 4)
    versions = [dict(held)]
    stop, faults, searches = threading.Event(), [], []

    def change():
        now = dict(held)
        # Enough of them for the added ones to be sorted out now and then.
        for step in range(120):
            name = str(rng.choice(list(now))) if rng.random() < 0.55 else f"new/{step}"
            if name in now and rng.random() < 0.7:
                live.remove(name)
                del now[name]
            else:
                (vector,), label = vectors(rng, 1), str(rng.choice(FIELDS["label"]))
                live.add(name, PICTURE, vector, label=label, replace=True)
                now[name] = (Item(name, label), vector)
            versions.append(dict(now))
        stop.set()

    def search(seed):
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                label = str(rng.choice(FIELDS["label"])) if rng.random() < 0.5 else None
                begin = len(versions) - 1
                found = live.search(queries, 5, label=label)
                searches.append((begin, found, label, len(versions) - 1))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    change()
    for thread in threads:
        thread.join(timeout=60)
    live.close()
    assert not faults
    assert len(searches) > 20
    assert len({begin for begin, *_ in searches}) > 5
    chosen = rng.permutation(len(searches))[:60]
    for begin, found, label, end in (searches[n] for n in chosen):
        mine = [[one.item for one in row] for row in found]
        # The version after the last one seen may have been there already.
        assert any(
            mine == [[item for item, _ in nearest(now, q, 5, label=label)] for q in queries]
            for now in versions[begin : end + 2]
        ), (begin, end)


def test_a_rebuilt_index_wins_unless_replacing_was_meant(tmp_path, caplog):
    rng = np.random.default_rng(42)
    held = made(tmp_path / "index", count=6)
    live = LiveCatalogue(tmp_path / "index")
    for name, replace in (("1/7.jpg", False), ("2/8.jpg", True), ("other", False)):
        live.add(name, PICTURE, vectors(rng, 1)[0], label="added", replace=replace)
    for name in ("0/3.jpg", "1/4.jpg"):
        live.remove(name)
    live.close()
    rows = [{"path": f"/data/shop/{n % 3}/{n}.jpg", "label": "new"} for n in (0, 1, 3, 7, 8)]
    write(tmp_path / "index", rows, vectors(rng, 5))
    live = LiveCatalogue(tmp_path / "index")
    labels = {item.id: item.label for item in live.list(0, 99)}
    new = dict.fromkeys(("0/0.jpg", "1/1.jpg", "1/7.jpg"), "new")
    assert labels == {**new, "2/8.jpg": "added", "other": "added"}
    assert len(live) == 5
    assert "1/7.jpg: the index has it now" in caplog.text
    live.close()
    assert len(held) == 6


def test_a_rebuilt_index_knows_which_box_of_a_picture_was_removed(tmp_path):
    def build(*names):
        boxes = [dict(zip("xywh", (number, 0, 5, 5), strict=True)) for number in range(9)]
        rows = [
            {"path": f"/data/shop/{name[0]}.jpg", "label": name, **box}
            for name, box in zip(names, boxes, strict=False)
        ]
        write(tmp_path / "index", rows, np.eye(len(rows), DIM, dtype=np.float32))

    build("a", "b left", "b middle", "b right")
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        live.remove("b.jpg#1")
    build("0", "a", "c", "b left", "b middle", "b right")
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        labels = {item.id: item.label for item in live.list(0, 9)}
    there = {"0.jpg": "0", "a.jpg": "a", "c.jpg": "c"}
    assert labels == {**there, "b.jpg": "b left", "b.jpg#2": "b right"}


def test_reading_only(tmp_path):
    made(tmp_path / "index", count=5)
    with contextlib.closing(LiveCatalogue(tmp_path / "index", writable=False)) as live:
        assert sorted(os.listdir(tmp_path)) == [".index.changes.sqlite.lock", "index"]
        for change in (
            lambda: live.add("a", PICTURE, np.ones(DIM), label="a"),
            lambda: live.remove("0/0.jpg"),
        ):
            with pytest.raises(UserError, match="opened for reading only"):
                change()
        # Others may read it, too; who changes it needs it alone.
        with contextlib.closing(LiveCatalogue(tmp_path / "index", writable=False)) as other:
            assert len(other) == len(live) == 5
        with pytest.raises(UserError, match="another process is using these changes"):
            LiveCatalogue(tmp_path / "index")
    assert os.listdir(tmp_path) == ["index"]
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        live.add("a", PICTURE, np.ones(DIM), label="a")
        with pytest.raises(UserError, match="these changes and may write to them"):
            LiveCatalogue(tmp_path / "index", writable=False)
    with contextlib.closing(LiveCatalogue(tmp_path / "index", writable=False)) as live:
        assert live.picture("a") == (PICTURE, None)


def test_files_of_changes_that_do_not_fit_are_one_line(tmp_path):
    made(tmp_path / "index", count=5)
    file = changes_file(tmp_path / "index")
    file.write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="cannot be read as a file of changes"):
        LiveCatalogue(tmp_path / "index")
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(UserError, match="is no file of changes"):
        LiveCatalogue(tmp_path / "index")
    file.unlink()
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        live.add("a", PICTURE, np.ones(DIM), label="a")
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA user_version = 9")
    with pytest.raises(UserError, match=r"is of another version \(9, this one reads 1\)"):
        LiveCatalogue(tmp_path / "index")
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA user_version = 1")
        other.execute("UPDATE about SET value = 'model-2' WHERE name = 'model'")
        other.commit()
    with pytest.raises(UserError, match="made with another model than the index is of") as told:
        LiveCatalogue(tmp_path / "index")
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="cannot write"):
        LiveCatalogue(tmp_path / "index", changes=tmp_path / "nowhere" / "file")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".lock")]


def test_what_cannot_be_added_changes_nothing(shop):
    live, _ = shop
    live.add("a", PICTURE, np.ones(DIM), label="a")
    before = live._state
    good = {"name": "b", "picture": PICTURE, "embedding": np.ones(DIM), "label": "b"}
    for bad, message in [
        ({"name": "a"}, "there is an item a already: replace=True"),
        ({"name": "0/3.jpg"}, "already"),
        *(({"name": name}, "is not allowed") for name in BAD_NAMES),
        ({"embedding": np.ones(DIM + 1)}, "9 dimensions but the index has 8"),
        ({"embedding": np.full(DIM, np.nan)}, "NaN"),
        ({"label": "  "}, "no label"),
        ({"label": "two\nlines"}, "control characters"),
        ({"category": "\ud800"}, "control characters"),
        ({"picture": b""}, "no picture"),
        ({"box": (0, 0, 0, 5)}, "has no area"),
        ({"box": (0, 0, float("nan"), 5)}, "has no area"),
    ]:
        call = {**good, **bad}
        with pytest.raises(UserError, match=message):
            live.add(call.pop("name"), **call)
        assert live._state is before
    assert len(live) == 61
    for lookup in (live.get, live.vector, live.picture, live.remove):
        with pytest.raises(KeyError):
            lookup("b")
    with pytest.raises(UserError, match="k=0"):
        live.search(np.ones((1, DIM)), 0)


BAD_NAMES = ["", "/a", "a/", "a//b", "a/../b", "..", "./a", "a b", "ä", "a\n", "a" * 201, "a?b"]


def test_a_full_disk_changes_nothing(shop):
    live, _ = shop
    live.add("a", PICTURE, np.ones(DIM), label="a")
    live._changes._file.execute("PRAGMA max_page_count = 10")
    with pytest.raises(UserError, match=r"cannot write .*full"):
        live.add("b", b"x" * 100_000, np.ones(DIM), label="b", replace=True)
    with pytest.raises(UserError, match="full"):
        live.add("a", b"x" * 100_000, np.ones(DIM), label="b", replace=True)
    assert len(live) == 61
    assert live.get("a").label == "a"
    live._changes._file.execute("PRAGMA max_page_count = 100000")
    live.add("b", b"x" * 100_000, np.ones(DIM), label="b")
    assert [item.id for item in live.list(60, 9)] == ["a", "b"]


def test_a_disk_that_is_full_at_the_first_change_may_have_room_later(shop, tmp_path, monkeypatch):
    live, _ = shop

    class Full(sqlite3.Connection):
        def execute(self, *words):
            if words[0].lstrip().startswith("CREATE"):
                raise sqlite3.OperationalError("full")
            return super().execute(*words)

    def full(*words, real=sqlite3.connect, **options):
        return real(*words, factory=Full, **options)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (0, 5000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(UserError, match=r"^cannot write .*index.changes.sqlite: "):
                live.remove("0/3.jpg")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert live.get("0/3.jpg") in live.list(0, 60)
    live.close()
    for writable in (False, True):
        live = LiveCatalogue(tmp_path / "index", writable=writable)
        assert len(live) == 60
        live.close()
    live = LiveCatalogue(tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        with pytest.raises(UserError, match=r"^cannot write .*index.changes.sqlite: full$"):
            live.remove("0/3.jpg")
    live.remove("0/3.jpg")
    live.close()
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as again:
        assert len(again) == 59


def test_a_file_of_changes_is_begun_whole_or_not_at_all(tmp_path):
    """Killed between two statements of the first change."""
    made(tmp_path / "index", count=5)
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path / "killed")], check=True)
    lengths = []
    for number in range(24):
        file = tmp_path / f"killed{number}"
        with contextlib.closing(LiveCatalogue(tmp_path / "index", changes=file)) as live:
            lengths.append(len(live))
            live.remove("0/3.jpg")
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) == {4, 5}


#: Its children are killed before one of the statements that they give.
DYING = """
import os, signal, sqlite3, sys
from trainer.serving.changes import Changes

class Connection(sqlite3.Connection):
    left = 0

    def execute(self, *words):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        Connection.left -= 1
        return super().execute(*words)

    executescript = executemany = lambda self, sql, rows=((),): [
        self.execute(one, *([row] if row else ())) for one in sql.split(";") for row in rows
    ]

connect = sqlite3.connect
sqlite3.connect = lambda *words, **options: connect(*words, factory=Connection, **options)
for number in range(24):
    if child := os.fork():
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        continue
    Connection.left = number
    file = Changes(f"{sys.argv[1]}{number}", model="model-1", dim=8, writable=True)
    file.remove(indexed="/data/shop/0/0.jpg")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("missing", [("model",), ("dim",), ("dim", "model")])
def test_a_file_of_changes_that_does_not_say_its_model(tmp_path, missing):
    made(tmp_path / "index", count=5)
    file = changes_file(tmp_path / "index")
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        live.add("a", PICTURE, np.ones(DIM), label="a")
        live.remove("a")

    def forget():
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.executemany("DELETE FROM about WHERE name = ?", [(name,) for name in missing])
            other.commit()

    forget()
    for writable in (False, True):
        with contextlib.closing(LiveCatalogue(tmp_path / "index", writable=writable)) as live:
            assert len(live) == 5
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        live.remove("0/0.jpg")
    forget()
    with pytest.raises(UserError, match="does not say which model its changes were made with"):
        LiveCatalogue(tmp_path / "index")


def test_pictures_and_vectors(tmp_path):
    rows = [
        {"path": "/data/a.jpg", "label": "left", "x": 1, "y": 2, "w": 3, "h": 4.5},
        {"path": "/data/a.jpg", "label": "right", "x": 9, "y": 2, "w": 3, "h": 4},
        {"path": "/data/b.jpg", "label": "b"},
    ]
    embeddings = np.eye(3, DIM, dtype=np.float32) + 0.1
    write(tmp_path / "index", rows, embeddings)
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        assert [item.id for item in live.list(0, 9)] == ["a.jpg", "a.jpg#1", "b.jpg"]
        assert live.picture("a.jpg") == ("/data/a.jpg", (1, 2, 3, 4.5))
        assert live.picture("a.jpg#1") == ("/data/a.jpg", (9, 2, 3, 4))
        assert live.picture("b.jpg") == ("/data/b.jpg", None)
        # An item leaves out itself, not another one in the same picture.
        for name, others in (("a.jpg", {"a.jpg#1", "b.jpg"}), ("a.jpg#1", {"a.jpg", "b.jpg"})):
            (found,) = live.search(live.vector(name)[None], 9, without=[name])
            assert {one.item.id for one in found} == others
        (found,) = live.search(live.vector("b.jpg")[None], 1, without=["nothing"])
        assert found[0].item.id == "b.jpg"
        assert found[0].score == pytest.approx(1, abs=1e-5)
        live.add("c", PICTURE, 3 * embeddings[0], label="c", box=(1, 2, 3, 4))
        assert np.linalg.norm(live.vector("c")) == pytest.approx(1, abs=1e-5)
        assert live.picture("c") == (PICTURE, (1, 2, 3, 4))
        # Equally near ones: those of the index first.
        (found,) = live.search(embeddings[:1], 2)
        assert [one.item.id for one in found] == ["a.jpg", "c"]
        assert live.search(np.ones((2, DIM)), 3, category="none") == [[], []]


@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
def test_other_kinds_of_index_are_searched_the_same_way(tmp_path, kind):
    rng = np.random.default_rng(42)
    held = made(tmp_path / "index", count=300, kind=kind)
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        for name in list(held)[:20]:
            live.remove(name)
            del held[name]
        for number, vector in enumerate(vectors(rng, 20)):
            live.add(f"new/{number}", PICTURE, vector, label="a")
            held[f"new/{number}"] = (Item(f"new/{number}", "a"), vector)
        queries, hits = vectors(rng, 20), 0
        for query, found in zip(queries, live.search(queries, 8, label="a"), strict=True):
            truth = {item.id for item, _ in nearest(held, query, 8, label="a")}
            assert {one.item.label for one in found} == {"a"}
            assert len(found) == 8
            hits += len(truth & {one.item.id for one in found})
        assert hits >= (0.95 if kind == "hnsw" else 0.5) * 160


def test_a_change_counts_only_what_it_changes(shop, monkeypatch):
    live, _ = shop
    monkeypatch.setattr(np, "bincount", None)
    live.add("a", PICTURE, np.ones(DIM), label="a", category="new")
    assert live.categories == ("new", "shirts", "shoes")
    live.add("a", PICTURE, np.ones(DIM), label="a", domain="new", replace=True)
    assert live.categories == ("shirts", "shoes")
    assert live.domains == ("new", "shop", "street")
    live.remove("a")
    assert live.domains == ("shop", "street")


def test_a_search_that_has_begun_sees_no_change(shop):
    live, _ = shop
    for name in "abc":
        live.add(name, PICTURE, np.ones(DIM), label=name)
    state, wanted = live._state, {"category": None, "domain": None, "label": None}
    live.remove("b")
    live.remove("0/3.jpg")
    live.add("d", PICTURE, np.ones(DIM), label="d")
    assert live._allowed_added(state, wanted).tolist() == [True] * 3
    assert live._allowed_indexed(state, wanted) is None

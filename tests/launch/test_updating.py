"""An index follows its catalogue: products come, change and go, and a search says so."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import UserError
from trainer.data.files import locked
from trainer.launch import searching
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import index_catalogue, search_images
from trainer.launch.updating import add_to_index, remove_from_index
from trainer.retrieval.embedding_cache import FILE
from trainer.retrieval.indexes import load_index
from trainer.serving import embedder
from trainer.serving.catalogue import load_catalogue

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def run(finished):
    return RunFolder.open(finished[1].run_dir)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Models are loaded once a folder: that is what takes time here."""
    real, loaded = embedder.Embedder, {}

    def load(folder):
        key = (str(folder), (Path(folder) / embedder.CARD).read_text())
        if key not in loaded:
            loaded[key] = real(folder)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder, "Embedder", load)
        yield


@pytest.fixture(scope="module")
def originals(run):
    """Pictures of products, all different."""
    items = load_catalogue(run.file("index")).items
    return [Path(path).read_bytes() for path in items.path[:30]]


class Shop:
    """A catalogue in a folder, an index of it, and what is expected of both."""

    def __init__(self, folder, run, originals):
        self.folder, self.run, self.originals = folder / "shop", run, originals
        self.index = folder / "index"
        self.folder.mkdir()

    def put(self, name, picture):
        (self.folder / name).write_bytes(self.originals[picture])

    def table(self, rows, name="items.csv"):
        with (self.folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "category"], *rows])
        return str(self.folder / name)

    def command(self, *words):
        out = RUNNER.invoke(app, ["index", *map(str, words)])
        assert out.exit_code == 0, out.output
        return " ".join(out.output.split())

    def path(self, name):
        return str(self.folder / name)

    def nearest(self, name):
        """The best neighbour of a picture, with its score."""
        rows = search_images(self.run, [self.path(name)], 1, index_folder=str(self.index))
        return rows[0]


@pytest.fixture
def shop(tmp_path, run, originals):
    shop = Shop(tmp_path, run, originals)
    for number in range(8):
        shop.put(f"{number}.jpg", number)
    shop.table([[f"{n}.jpg", f"p{n // 2}", "hat"] for n in range(8)])
    return shop


def embedded_paths(monkeypatch):
    """What is embedded from now on."""
    seen = []
    embed = searching.embed_items

    def spy(model, items):
        seen.extend(Path(path).name for path in items.path)
        return embed(model, items)

    monkeypatch.setattr(searching, "embed_items", spy)
    return seen


@pytest.mark.parametrize("kind", ["flat", "hnsw", "annoy"])
def test_products_come_change_and_go(shop, kind, monkeypatch):
    if kind == "annoy":
        pytest.importorskip("annoy", reason="extra annoy is not installed")
    run, to = shop.run.path, shop.index
    out = shop.command(run, "--items", shop.folder, "--to", to, "--set", f"index={kind}")
    assert out == f"8 items in {to}"
    seen = embedded_paths(monkeypatch)

    # Two new ones, one with a new picture, one with another category, one as it was.
    for name, picture in (("8.jpg", 8), ("9.jpg", 9), ("1.jpg", 10)):
        shop.put(name, picture)
    rows = [["8.jpg", "p4", "mug"], ["9.jpg", "p4", "mug"], ["1.jpg", "p0", "hat"]]
    rows += [["2.jpg", "p1", "cap"], ["3.jpg", "p1", "hat"]]
    more = shop.table(rows, "more.csv")
    out = shop.command("add", run, "--items", more, "--to", to)
    assert out == (
        "embedded 3 of 5 pictures, the others were embedded before "
        f"2 added, 1 replaced, 2 unchanged; 10 items in {to}"
    )
    assert sorted(seen) == ["1.jpg", "8.jpg", "9.jpg"]
    for name, label, category in (("8.jpg", "p4", "mug"), ("1.jpg", "p0", "hat")):
        row = shop.nearest(name)
        assert (row["id"], row["label"], row["category"]) == (shop.path(name), label, category)
        assert row["score"] == pytest.approx(1, abs=1e-3)
    assert shop.nearest("2.jpg")["category"] == "cap"
    # The picture that was there before is no longer found as if it were.
    shop.put("query.jpg", 1)
    assert shop.nearest("query.jpg")["score"] < 0.9999

    # Again changes nothing, and embeds nothing.
    del seen[:]
    before = load_catalogue(to)
    out = shop.command("add", run, "--items", more, "--to", to)
    assert out.endswith(f"before 5 unchanged; 10 items in {to}")
    assert load_catalogue(to).ids == before.ids
    assert seen == []

    out = shop.command("remove", "--from", to, shop.path("8.jpg"), "--label", "p3")
    assert out == f"3 removed; 7 items in {to}"
    left = load_catalogue(to)
    assert left.ids == [shop.path(f"{n}.jpg") for n in (0, 2, 3, 4, 5, 9, 1)]
    found = search_images(shop.run, [shop.path("8.jpg")], 20, index_folder=str(to))
    assert len(found) == 7
    assert shop.path("8.jpg") not in {row["id"] for row in found}

    # What was built step by step is what a new build is, to the order of its rows.
    shop.table([[f"{n}.jpg", "p", "hat"] for n in (0, 1, 2, 3, 4, 5, 9)])
    index_catalogue(shop.run, str(shop.folder), to.with_name("fresh"), [f"index={kind}"])
    queries = [shop.path(f"{n}.jpg") for n in range(10)]
    one, other = (
        {
            (row["query"], row["id"]): row["score"]
            for row in search_images(shop.run, queries, 7, index_folder=str(folder))
        }
        for folder in (to, to.with_name("fresh"))
    )
    assert len(one) == 70
    assert one.keys() == other.keys()
    np.testing.assert_allclose(list(one.values()), [other[key] for key in one], atol=1e-5)


def test_building_again_embeds_what_is_new_or_has_changed(shop, monkeypatch, caplog):
    seen = embedded_paths(monkeypatch)
    told = []

    def build():
        del seen[:], told[:]
        caplog.clear()
        index_catalogue(shop.run, str(shop.folder), shop.index, tell=told.append)
        catalogue = load_catalogue(shop.index)
        flat = catalogue.index._index
        return dict(zip(catalogue.ids, flat.reconstruct_n(0, flat.ntotal), strict=True))

    first = build()
    assert (len(seen), told) == (8, [])
    assert build().keys() == first.keys()
    assert seen == []
    assert told == ["embedded 0 of 8 pictures, the others were embedded before"]

    # Contents change places, one is new, one is moved, one is gone: only the new one is embedded.
    shop.put("0.jpg", 1)
    shop.put("1.jpg", 0)
    shop.put("8.jpg", 8)
    (shop.folder / "2.jpg").rename(shop.folder / "moved.jpg")
    names = [f"{n}.jpg" for n in (0, 1, 4, 5, 6, 7, 8)] + ["moved.jpg"]
    shop.table([[name, "p", ""] for name in names])
    again = build()
    assert seen == ["8.jpg"]
    assert told == ["embedded 1 of 8 pictures, the others were embedded before"]
    for now, before in (("0", "1"), ("1", "0"), ("moved", "2"), ("4", "4")):
        new, old = shop.path(f"{now}.jpg"), shop.path(f"{before}.jpg")
        np.testing.assert_array_equal(again[new], first[old])

    # A damaged cache is said to be, and then everything is embedded.
    path = shop.index / FILE
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_allclose(build()[shop.path("0.jpg")], again[shop.path("0.jpg")], atol=1e-6)
    assert len(seen) == 8
    assert "damaged" in caplog.text
    build()
    assert seen == []


def test_swapped_pictures_are_both_replaced(shop):
    """Both contents are known, though not of these items."""
    index_catalogue(shop.run, str(shop.folder), shop.index)
    shop.put("0.jpg", 7)
    shop.put("7.jpg", 0)
    told = []
    change = add_to_index(shop.run, str(shop.folder), shop.index, tell=told.append)
    assert (change.added, change.replaced, change.unchanged) == (0, 2, 6)
    assert told == ["embedded 0 of 8 pictures, the others were embedded before"]
    for name in ("0.jpg", "7.jpg"):
        assert shop.nearest(name)["id"] == shop.path(name)


def other_model(run, folder):
    """A copy of the run whose exported model is another file for file."""
    shutil.copytree(run.path, folder)
    card = folder / "model/assets.extra/mildnet.json"
    card.write_text(card.read_text() + "\n")
    return RunFolder.open(str(folder))


def test_another_model_embeds_everything_and_cannot_add(shop, tmp_path, monkeypatch):
    index_catalogue(shop.run, str(shop.folder), shop.index)
    other = other_model(shop.run, tmp_path / "other")
    with pytest.raises(UserError, match="built with another model"):
        add_to_index(other, str(shop.folder), shop.index)
    seen = embedded_paths(monkeypatch)
    index_catalogue(other, str(shop.folder), shop.index)
    assert len(seen) == 8
    assert add_to_index(other, str(shop.folder), shop.index).unchanged == 8


def test_an_index_without_embeddings_or_notes_can_be_changed(shop, monkeypatch):
    """As those are that a job builds, or that were built before either was kept."""
    index_catalogue(shop.run, str(shop.folder), shop.index)
    (shop.index / FILE).unlink()
    meta = json.loads((shop.index / "meta.json").read_text())
    del meta["notes"]
    (shop.index / "meta.json").write_text(json.dumps(meta))
    assert remove_from_index(shop.index, labels=["p0"]).items == 6
    assert not (shop.index / FILE).exists()
    seen = embedded_paths(monkeypatch)
    more = shop.table([["2.jpg", "p1", ""], ["0.jpg", "p0", ""]], "more.csv")
    change = add_to_index(shop.run, more, shop.index)
    assert (change.added, change.replaced, change.items) == (1, 1, 7)
    assert sorted(seen) == ["0.jpg", "2.jpg"]
    # From now on these two are known, and the others still are not.
    change = add_to_index(shop.run, str(shop.folder), shop.index)
    assert (change.added, change.replaced, change.unchanged) == (1, 5, 2)
    assert shop.nearest("5.jpg")["id"] == shop.path("5.jpg")


def test_a_job_s_index_can_be_added_to(shop, finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[1].run_dir, copy)
    before = len(load_catalogue(copy / "index").items)
    change = add_to_index(RunFolder.open(str(copy)), str(shop.folder), copy / "index")
    assert (change.added, change.items) == (8, before + 8)
    rows = search_images(RunFolder.open(str(copy)), [shop.path("3.jpg")], 2)
    # The same picture is in the run's catalogue, too.
    assert shop.path("3.jpg") in {row["id"] for row in rows}


def test_a_picture_is_replaced_with_all_of_its_boxes(shop):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(shop.path("a.png"))

    def boxes(*rows):
        text = "path,label,x,y,w,h\n" + "".join(f"a.png,{row}\n" for row in rows)
        (shop.folder / "boxes.csv").write_text(text)
        return shop.path("boxes.csv")

    def labels():
        catalogue = load_catalogue(shop.index)
        assert len(set(catalogue.ids)) == len(catalogue.items)
        items = catalogue.items.select(catalogue.items.path == shop.path("a.png"))
        return [items.label_names[code] for code in items.label]

    index_catalogue(shop.run, str(shop.folder), shop.index)
    left, right, top = "left,0,0,40,80", "right,40,0,40,80", "top,0,0,80,40"
    assert add_to_index(shop.run, boxes(left, right), shop.index).added == 2
    assert add_to_index(shop.run, boxes(left, right), shop.index).unchanged == 2
    told = []
    change = add_to_index(shop.run, boxes(left, top, right), shop.index, tell=told.append)
    assert (change.replaced, change.items) == (3, 11)
    assert told == ["embedded 1 of 3 pictures, the others were embedded before"]
    assert labels() == ["left", "top", "right"]
    assert add_to_index(shop.run, boxes(right), shop.index).items == 9
    assert labels() == ["right"]
    add_to_index(shop.run, boxes(left, right, top), shop.index)
    # One box by its id; the others stay, and the index is read again.
    ids = [name for name in load_catalogue(shop.index).ids if "a.png#" in name]
    assert remove_from_index(shop.index, ids[:1]).removed == 1
    assert labels() == ["left", "top"]
    assert remove_from_index(shop.index, source=boxes(left)).removed == 2
    assert labels() == []


def test_what_cannot_be_used_is_left_out_and_the_old_one_stays(shop, tmp_path):
    index_catalogue(shop.run, str(shop.folder), shop.index)
    (shop.folder / "0.jpg").write_bytes(b"half an upload")
    shop.put("8.jpg", 8)
    rows = [[f"{n}.jpg", "p", ""] for n in range(9)]
    with pytest.raises(UserError, match=r"share of 11\.11%"):
        add_to_index(shop.run, shop.table(rows, "more.csv"), shop.index)
    config = json.loads(Path(shop.run.file("config.json")).read_text())
    loose = tmp_path / "loose"
    shutil.copytree(shop.run.path, loose)
    (loose / "config.json").write_text(json.dumps({**config, "max_bad_share": 0.2}))
    change = add_to_index(RunFolder.open(str(loose)), shop.path("more.csv"), shop.index)
    assert (change.added, change.unchanged, change.items) == (1, 7, 9)
    assert "0.jpg" in (tmp_path / "index.bad_images.log").read_text()
    assert shop.path("0.jpg") in load_catalogue(shop.index).ids


def state(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def test_what_is_not_there_is_one_line_and_changes_nothing(shop, tmp_path, monkeypatch):
    index_catalogue(shop.run, str(shop.folder), shop.index)
    monkeypatch.chdir(tmp_path)
    before = state(shop.index)
    others = shop.table([["0.jpg", "p0", ""], ["99.jpg", "p9", ""]], "others.csv")
    everything = str(shop.folder / "items.csv")
    for words, message in [
        (["remove", "--from", "index"], "say what to remove"),
        (["remove", "--from", "index", "shop/0.jpg", "shop/9.jpg"], "has no item"),
        (["remove", "--from", "index", "--label", "p0", "--label", "p77"], "has no product p77"),
        (["remove", "--from", "index", "--items", others], "has no picture"),
        (["remove", "--from", "index", "--items", everything], "nothing would be left"),
        (["remove", "--from", "shop", "0.jpg"], "something else than an index"),
        (["remove", "--from", "nothing", "0.jpg"], "no index"),
        (["add", shop.run.path, "--items", "shop", "--to", "nothing"], "no index"),
        (["add", shop.run.path, "--items", "nothing", "--to", "index"], "nothing does not exist"),
        (["add", "nothing", "--items", "shop", "--to", "index"], "not a run folder"),
    ]:
        out = RUNNER.invoke(app, ["index", *words])
        assert out.exit_code == 2, words
        assert out.output.startswith("error: "), words
        assert message in " ".join(out.output.split()), words
        assert state(shop.index) == before, words
    assert sorted(os.listdir(tmp_path)) == ["index", "shop"]
    # Paths from the working folder are as good as ids.
    assert shop.command("remove", "--from", "index", "shop/0.jpg") == "1 removed; 7 items in index"


def test_one_change_at_a_time(shop):
    index_catalogue(shop.run, str(shop.folder), shop.index)
    with locked(shop.index.with_name(".index.lock"), "busy"):
        for call in (
            lambda: remove_from_index(shop.index, labels=["p0"]),
            lambda: add_to_index(shop.run, str(shop.folder), shop.index),
            lambda: index_catalogue(shop.run, str(shop.folder), shop.index),
        ):
            with pytest.raises(UserError, match="another process is changing this index"):
                call()
        assert len(load_catalogue(shop.index).items) == 8  # readers are not kept out
    assert sorted(os.listdir(shop.index.parent)) == ["index", "shop"]


@pytest.mark.parametrize("killed_at", range(8))
def test_a_change_that_is_killed_leaves_the_old_index_whole(shop, monkeypatch, killed_at):
    """At any of its renames: of the files within, of the old folder, of the new one."""
    index_catalogue(shop.run, str(shop.folder), shop.index)
    before = state(shop.index)
    calls = iter(range(99))
    for module, name in ((os, "rename"), (os, "replace")):
        real = getattr(module, name)

        def dying(source, goal, real=real, **options):
            if next(calls) >= killed_at:
                raise KeyboardInterrupt
            real(source, goal, **options)

        monkeypatch.setattr(module, name, dying)
    done = False
    try:
        remove_from_index(shop.index, labels=["p0"])
        done = True
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert len(load_catalogue(shop.index).items) == (6 if done else 8)
    assert done or state(shop.index) == before
    assert remove_from_index(shop.index, labels=["p1"]).items == (4 if done else 6)
    assert sorted(os.listdir(shop.index.parent)) == ["index", "shop"]


def test_an_index_that_is_replaced_while_it_is_read_is_read_again(shop, monkeypatch):
    index_catalogue(shop.run, str(shop.folder), shop.index)
    real, calls = load_index, []

    def slow(folder, **tuned):
        if not calls:
            calls.append(1)
            remove_from_index(shop.index, labels=["p0"])
            raise UserError("parts of different indexes")
        return real(folder, **tuned)

    def first(folder, **tuned):
        monkeypatch.setattr("trainer.serving.catalogue.load_index", real)
        return slow(folder, **tuned)

    monkeypatch.setattr("trainer.serving.catalogue.load_index", first)
    assert len(load_catalogue(shop.index).items) == 6


def test_a_file_that_changes_while_it_is_embedded_is_embedded_again(shop, monkeypatch):
    """Which of both contents the embedding is of, nobody knows: so it is not kept."""
    embed = searching.embed_items

    def meanwhile(model, items):
        found = embed(model, items)
        shop.put("0.jpg", 20)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(searching, "embed_items", meanwhile)
        index_catalogue(shop.run, str(shop.folder), shop.index)
    seen = embedded_paths(monkeypatch)
    shop.put("0.jpg", 0)
    index_catalogue(shop.run, str(shop.folder), shop.index)
    assert seen == ["0.jpg"]


def test_only_offers_are_added(shop, tmp_path):
    """As in building: with a gallery domain, customers' pictures are no products."""
    config = json.loads(Path(shop.run.file("config.json")).read_text())
    loose = tmp_path / "street"
    shutil.copytree(shop.run.path, loose)
    config |= {"gallery_domain": "shop", "query_domain": "street"}
    (loose / "config.json").write_text(json.dumps(config))
    run = RunFolder.open(str(loose))
    (shop.folder / "mixed.csv").write_text(
        "path,label,domain\n0.jpg,a,shop\n1.jpg,a,street\n2.jpg,b,shop\n"
    )
    index_catalogue(run, str(shop.folder), shop.index)
    remove_from_index(shop.index, labels=["p0", "p1"])
    assert add_to_index(run, shop.path("mixed.csv"), shop.index).added == 2


def test_the_first_word_decides(shop):
    """`index RUN` builds, whatever comes first; `index add` and `index remove` are their own."""
    out = shop.command("--items", shop.folder, shop.run.path, "--to", shop.index)
    assert out == f"8 items in {shop.index}"
    pages = {
        words: RUNNER.invoke(app, ["index", *words]).output
        for words in [("--help",), ("some-run", "--help"), ("add", "--help"), ("remove", "--help")]
    }
    assert pages[("--help",)] == pages[("some-run", "--help")]
    for word in ("RUN", "--items", "--to", "--set", "add", "remove"):
        assert word in pages[("--help",)]
    assert "--set" not in pages[("add", "--help")]
    assert "--label" in pages[("remove", "--help")]
    assert "Missing argument 'RUN'" in RUNNER.invoke(app, ["index"]).output

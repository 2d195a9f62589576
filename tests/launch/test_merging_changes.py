"""What came and went while an index was served is taken into it, whole or not at all."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.serving.live_catalogues import DIM, draw_fields, made, vectors, write
from trainer.cli import app
from trainer.config import UserError
from trainer.launch.updating import merge_changes
from trainer.retrieval.embedding_cache import EmbeddingCache
from trainer.retrieval.indexes import load_index
from trainer.serving.catalogue import ROOTS, load_catalogue
from trainer.serving.changes import Item
from trainer.serving.live import LiveCatalogue, changes_file
from trainer.serving.public_names import merged_folder

RUNNER = CliRunner()


def picture(rng, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def shown(folder):
    """All that clients see of a catalogue: id -> item, vector, picture; and some neighbours."""
    live = LiveCatalogue(folder, writable=False)
    try:
        items = {}
        for item in live.list(0, 999):
            source, box = live.picture(item.id)
            if isinstance(source, str) and os.path.exists(source):
                source = Path(source).read_bytes()
            items[item.id] = (item, live.vector(item.id).round(5).tolist(), source, box)
        found = live.search(vectors(np.random.default_rng(9), 5), 7)
        near = [[(one.item, round(one.score, 4)) for one in row] for row in found]
        return items, near
    finally:
        live.close()


def change(folder, rng, names):
    """Add, replace and remove items of a served index."""
    live = LiveCatalogue(folder)
    for name in names:
        (vector,) = vectors(rng, 1)
        content = picture(rng, str(rng.choice(["PNG", "JPEG", "WEBP"])))
        box = (1.0, 2.5, 3.0, 4.0) if rng.random() < 0.5 else None
        live.add(name, content, vector, **draw_fields(rng), box=box, replace=True)
    for name in rng.choice([item.id for item in live.list(0, 999)], 4, replace=False):
        live.remove(str(name))
    live.close()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_merged_index_shows_what_was_served(tmp_path, kind):
    """Three times over, with items of an earlier merge replaced and removed by the next."""
    folder, rng = tmp_path / "index", np.random.default_rng(3)
    made(folder, kind=kind)
    for names in (
        ["a", "b/c.d", "b/e", "0/3.jpg", "0/6.jpg"],
        ["b/e", "a", "0/3.jpg", "new"],
        ["b/c.d", "1/1.jpg"],
    ):
        change(folder, rng, names)
        before = shown(folder)
        result = merge_changes(folder)
        after = shown(folder)
        assert after[0] == before[0]
        assert after[1] == before[1]
        assert result.items == len(before[0]) == len(load_index(folder))
        assert not changes_file(folder).exists()
    there = {path.name for path in merged_folder(folder).iterdir()}
    used = {os.path.basename(path) for path in load_catalogue(folder).items.path if "~" in path}
    assert there == used
    assert merge_changes(folder).items == len(before[0])
    assert sorted(os.listdir(tmp_path)) == ["index", "index.pictures"]


def test_counts_and_embeddings_are_kept(tmp_path):
    folder, rng = tmp_path / "index", np.random.default_rng(4)
    held = made(folder)
    live = LiveCatalogue(folder)
    (vector,) = 3 * vectors(rng, 1)
    live.add("new", picture(rng), vector, label="a")
    live.add("0/0.jpg", picture(rng), vector, label="a", replace=True)
    live.remove("1/1.jpg")
    with pytest.raises(UserError, match=r"another process is using these changes$"):
        merge_changes(folder)
    live.close()
    out = RUNNER.invoke(app, ["index", "merge", str(folder)])
    assert out.exit_code == 0, out.output
    assert " ".join(out.output.split()) == f"1 added, 1 replaced, 1 removed; 60 items in {folder}"
    cache = EmbeddingCache.load(folder, DIM).of(load_catalogue(folder).ids)
    np.testing.assert_array_equal(cache.embeddings[-2:], [vector, vector])
    assert cache.keys[-2:].any(axis=1).all()
    assert len(held) == 60


@pytest.mark.parametrize("killed_at", range(7))
def test_a_merge_that_is_killed_changes_nothing_that_is_seen(tmp_path, monkeypatch, killed_at):
    folder, rng = tmp_path / "index", np.random.default_rng(5)
    made(folder, count=20)
    change(folder, rng, ["a", "0/3.jpg"])
    before = shown(folder)
    calls = iter(range(99))
    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink"):
            real = getattr(os, name)

            def dying(*paths, real=real, **options):
                if next(calls) >= killed_at:
                    raise KeyboardInterrupt
                return real(*paths, **options)

            patch.setattr(os, name, dying)
        with contextlib.suppress(KeyboardInterrupt):
            merge_changes(folder)
    load_catalogue(folder)  # puts back a folder that was about to be replaced
    assert shown(folder) == before
    merge_changes(folder)
    assert shown(folder) == before
    assert not changes_file(folder).exists()


def test_a_merge_that_ends_while_a_service_starts_is_seen_by_it(tmp_path, monkeypatch):
    folder, rng = tmp_path / "index", np.random.default_rng(5)
    made(folder, count=20)
    change(folder, rng, ["a", "0/3.jpg"])
    before = shown(folder)
    loaded = []

    def slow(*words, **options):
        loaded.append(load_catalogue(*words, **options))
        if len(loaded) == 1:
            merge_changes(folder)
        return loaded[-1]

    monkeypatch.setattr("trainer.serving.live.load_catalogue", slow)
    assert shown(folder) == before
    assert len(loaded) == 2


def test_what_a_killed_merge_has_taken_in_can_be_removed(tmp_path, monkeypatch):
    """The index has the added items then, and the file of changes has them, too."""
    folder, rng = tmp_path / "index", np.random.default_rng(5)
    made(folder, count=20)
    live = LiveCatalogue(folder)
    live.add("wins", picture(rng), vectors(rng, 1)[0], label="a", replace=True)
    live.add("loses", picture(rng), vectors(rng, 1)[0], label="a")
    live.close()
    before = shown(folder)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.serving.changes.Changes.delete", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge_changes(folder)
    assert shown(folder) == before
    live = LiveCatalogue(folder)
    for name in ("wins", "loses"):
        live.remove(name)
    live.close()
    for _ in range(2):
        assert before[0].keys() - shown(folder)[0].keys() == {"wins", "loses"}
        merge_changes(folder)


def test_what_cannot_be_merged_is_one_line(tmp_path):
    folder, rng = tmp_path / "index", np.random.default_rng(6)
    made(folder, count=3)
    live = LiveCatalogue(folder)
    live.remove("0/0.jpg")
    live.add("new", picture(rng), vectors(rng, 1)[0], label="a")
    live.close()
    shutil.copy(changes_file(folder), tmp_path / "kept")
    for words, message in [
        ([tmp_path / "nothing"], "no index"),
        ([folder, "--changes", tmp_path / "none"], "no file of changes"),
        ([folder, "--changes", folder / "items.csv"], "cannot be read as a file of changes"),
    ]:
        out = RUNNER.invoke(app, ["index", "merge", *map(str, words)])
        assert out.exit_code == 2, words
        assert out.output.startswith("error: "), words
        assert message in " ".join(out.output.split()), words
    live = LiveCatalogue(folder)
    for name in ("1/1.jpg", "2/2.jpg", "new"):
        live.remove(name)
    assert len(live) == 0
    assert live.search(vectors(rng, 2), 3) == [[], []]
    live.close()
    with pytest.raises(UserError, match="nothing would be left"):
        merge_changes(folder)
    shutil.copy(tmp_path / "kept", changes_file(folder))
    write(folder, [{"path": "/x/1.jpg", "label": "a"}], np.ones((1, DIM + 1), np.float32))
    with pytest.raises(UserError, match="made with another model"):
        merge_changes(folder)


def test_ids_stay_when_those_that_made_the_common_folder_go(tmp_path):
    """Also of an index that was built before its root was noted."""
    for noted in (True, False):
        folder, rng = tmp_path / f"index{noted}", np.random.default_rng(8)
        rows = [{"path": f"/data/shop/{name}.jpg", "label": "a"} for name in ("a/1", "a/2", "b/1")]
        write(folder, rows, vectors(rng, 3))
        if not noted:
            meta = json.loads((folder / "meta.json").read_text())
            del meta["notes"][ROOTS]
            (folder / "meta.json").write_text(json.dumps(meta))
        live = LiveCatalogue(folder)
        live.remove("b/1.jpg")
        live.add("new", picture(rng), vectors(rng, 1)[0], label="a")
        live.close()
        merge_changes(folder)
        assert list(shown(folder)[0]) == ["a/1.jpg", "a/2.jpg", "new"]


def test_an_added_item_has_no_path(tmp_path):
    """`Item` tells clients nothing of the server, before and after."""
    folder, rng = tmp_path / "index", np.random.default_rng(7)
    made(folder, count=9)
    change(folder, rng, ["a/b"])
    merge_changes(folder)
    for name, (item, *_) in shown(folder)[0].items():
        assert isinstance(item, Item)
        assert not name.startswith("/")
        assert str(tmp_path) not in repr(item)

"""Shards put together are what embedding in one go makes, and an index is made of them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.launch.embedding.commands import done, refused
from tests.launch.embedding.conftest import Catalogue, contents, write_run
from trainer.retrieval.embeddings_folder import read_embeddings_folder
from trainer.serving.catalogue import load_catalogue

pytestmark = pytest.mark.usefixtures("small_batches")


def shards(run: Path, shop: Path, to: Path, count: int, *words: object) -> Path:
    for number in range(1, count + 1):
        shard = ("--shard", f"{number}/{count}")
        done("embed", run, "--items", shop, "--to", to, *shard, *words)
    return to


@pytest.mark.parametrize("count", [1, 3, 9])
def test_merged_is_what_one_go_makes(
    run: Path, catalogue: Catalogue, tmp_path: Path, count: int
) -> None:
    """With bad pictures, rows that are malformed, and more shards than batches of rows."""
    shop = catalogue(45, bad=[3, 40, 41, 42, 43, 44])
    with (shop / "items.csv").open("a") as stream:
        stream.write("0.jpg\n")
    some = ("--max-bad-share", 0.2)
    done("embed", run, "--items", shop, "--to", tmp_path / "whole", *some)
    parts = shards(run, shop, tmp_path / "parts", count, *some)
    out = done("embed", "merge", parts, "--to", tmp_path / "merged")
    assert out.startswith("39 embeddings of 16 numbers, 7 pictures and rows left out")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert done("embed", "merge", parts, "--to", tmp_path / "merged").startswith("done before\n")


def test_shards_may_be_in_several_folders(run: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    shop = catalogue(30)
    for number, place in ((1, "a"), (2, "b"), (3, "a")):
        words = ("--to", tmp_path / place, "--shard", f"{number}/3")
        done("embed", run, "--items", shop, *words)
    given = (tmp_path / "b" / "shard-2-of-3", tmp_path / "a")
    done("embed", "merge", *given, "--to", tmp_path / "merged")
    done("embed", run, "--items", shop, "--to", tmp_path / "whole")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_what_does_not_belong_together_is_refused(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(30)
    parts = shards(run, shop, tmp_path / "parts", 3)
    merged = tmp_path / "merged"

    def line(*folders: Path) -> str:
        words = refused("embed", "merge", *folders, "--to", merged)
        assert not merged.exists()
        assert not list(tmp_path.glob(".merged*"))
        return words

    first, second, third = (parts / f"shard-{number}-of-3" for number in (1, 2, 3))
    assert line(second) == f"shards 1, 3 of 3 are missing beside {second}"
    assert line(first, third).startswith("shard 2 of 3 is missing")
    copy = tmp_path / "copy"
    shutil.copytree(second, copy)
    assert line(parts, copy).startswith(f"shard 2 of 3 comes twice: {second} and {copy}")
    other = write_run(tmp_path / "other", seed=1)
    done("embed", other, "--items", shop, "--to", tmp_path / "others", "--shard", "2/3")
    assert "holds embeddings of another model" in line(first, tmp_path / "others", third)
    assert "no shards of any" in line(tmp_path)

    array = second / "embeddings.npy"
    good = array.read_bytes()
    array.write_bytes(good[:-1] + b"\x01")
    assert line(parts).startswith(f"{array} is damaged")
    array.unlink()
    assert line(parts).startswith(f"{array} is damaged")
    array.write_bytes(good)
    (second / "meta.json").unlink()
    assert line(parts).startswith(f"{parts}: shard 2 of 3 is not finished: give its command again")


def test_a_shard_with_fewer_rows_than_are_its_own_is_refused(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    """As a process wrote it that took what others had done for all."""
    parts = shards(run, catalogue(30), tmp_path / "parts", 2)
    place = parts / "shard-2-of-2" / "meta.json"
    meta = json.loads(place.read_text())
    place.write_text(json.dumps(meta | {"items": meta["items"] - 1}))
    line = refused("embed", "merge", parts, "--to", tmp_path / "merged")
    assert line == f"{place.parent} speaks of 13 rows of 14: delete it, and embed it again"


def test_what_was_merged_before_is_compared(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop, merged = catalogue(30), tmp_path / "merged"
    parts = shards(run, shop, tmp_path / "parts", 2)
    words = ("embed", "merge", parts, "--to", merged)
    done(*words)
    good = (merged / "embeddings.npy").read_bytes()
    (merged / "embeddings.npy").write_bytes(good[:-1] + b"\x01")
    assert refused(*words).startswith(f"{merged}/embeddings.npy is damaged")
    line = refused("index", run, "--embeddings", merged, "--to", tmp_path / "index")
    assert line.startswith(f"{merged}/embeddings.npy is damaged")
    (merged / "embeddings.npy").write_bytes(good)
    assert done(*words).startswith("done before")
    shutil.rmtree(parts / "shard-1-of-2")
    (shop / "1.jpg").write_bytes((shop / "2.jpg").read_bytes())
    shards(run, shop, parts, 2)
    assert "before they were embedded again: delete it" in refused(*words)
    assert (merged / "embeddings.npy").read_bytes() == good
    assert not list(tmp_path.glob(".merge*"))


@pytest.mark.parametrize("remote", [False, True])
def test_a_merge_that_was_cut_short_is_given_again(
    run: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    shop = catalogue(30)
    parts = shards(run, shop, tmp_path / "parts", 2)
    merged = f"ram://{uuid.uuid4().hex}/merged" if remote else str(tmp_path / "merged")
    words = ("embed", "merge", parts, "--to", merged)
    place, name = (tf.io.gfile, "copy") if remote else (os, "replace")
    real, last = getattr(place, name), [f"{merged}/picture_files.npy"]

    def dying(source, target, **options):  # type: ignore[no-untyped-def]
        if str(target) in last:
            last.clear()
            raise OSError("no space left")
        # `ram://` alone writes behind what is there.
        if remote and tf.io.gfile.exists(target):
            tf.io.gfile.remove(target)
        return real(source, target, **options)

    monkeypatch.setattr(place, name, dying)
    assert "no space left" in refused(*words)
    assert sorted(tf.io.gfile.listdir(merged)) == ["embeddings.npy", "picture_keys.npy"]
    assert done(*words).startswith("30 embeddings")
    assert done(*words).startswith("done before")
    done("embed", "merge", merged, "--to", tmp_path / "copy")
    done("embed", run, "--items", shop, "--to", tmp_path / "whole")
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        "shop", "parts", "copy", "whole", *([] if remote else ["merged"])
    }  # fmt: skip


@pytest.mark.parametrize("name", ["items.csv", "red.jpg"])
def test_a_folder_with_files_of_its_own_is_left_alone(
    run: Path, catalogue: Catalogue, tmp_path: Path, name: str
) -> None:
    shop = catalogue(10)
    parts = shards(run, shop, tmp_path / "parts", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    line = refused("embed", "merge", parts, "--to", tmp_path / "mine")
    assert line == f"{tmp_path / 'mine'} holds something else: choose another folder"
    assert contents(tmp_path / "mine") == {name: b"mine"}


def test_the_share_of_bad_pictures_is_that_of_the_whole(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    """A shard may have more than its share, where others make up for it."""
    shop = catalogue(48, bad=[0, 1, 47])
    parts = shards(run, shop, tmp_path / "parts", 3, "--max-bad-share", 0.05)
    line = refused("embed", "merge", parts, "--to", tmp_path / "merged")
    assert "3 pictures and rows of the catalogue cannot be used, a share of 6.25%" in line
    done("embed", "merge", parts, "--to", tmp_path / "merged", "--max-bad-share", 0.0625)
    assert read_embeddings_folder(tmp_path / "merged").meta.bad == 3


def test_an_index_takes_what_can_be_found(run: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    """Of a run that searched one domain, with a picture that is bad."""
    shop = catalogue(48, bad=[11])
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    values = json.loads((copy / "config.json").read_text())
    changed = values | {"max_bad_share": 0.1, "gallery_domain": "shop"}
    (copy / "config.json").write_text(json.dumps(changed))
    done("embed", copy, "--items", shop, "--to", tmp_path / "merged")
    to = tmp_path / "made"
    out = done("index", copy, "--embeddings", tmp_path / "merged", "--to", to)
    assert out == f"24 items in {to}\n"
    done("index", copy, "--items", shop, "--to", tmp_path / "usual")
    made, usual = load_catalogue(to), load_catalogue(tmp_path / "usual")
    assert made.ids == usual.ids
    assert made.items.fingerprint() == usual.items.fingerprint()
    assert made.index.notes == usual.index.notes
    queries = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    one, two = (catalogue.index.search(queries, 10) for catalogue in (made, usual))
    np.testing.assert_array_equal(one.neighbours, two.neighbours)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)
    # What it keeps of the pictures is taken up: nothing is embedded again.
    again = done("index", copy, "--items", shop, "--to", to)
    assert f"embedded 0 of {len(made.ids)} pictures" in again

    other = write_run(tmp_path / "other", seed=1)
    before = contents(to)
    line = refused("index", other, "--embeddings", tmp_path / "merged", "--to", to)
    assert "was embedded with another model than" in line
    assert contents(to) == before


def test_without_bad_pictures_the_index_is_equal_to_the_byte(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(100)
    parts = shards(run, shop, tmp_path / "parts", 2)
    done("embed", "merge", parts, "--to", tmp_path / "merged")
    for words in (("--embeddings", tmp_path / "merged"), ("--items", shop)):
        done("index", run, *words, "--to", tmp_path / words[0].strip("-"))
    made, usual = contents(tmp_path / "embeddings"), contents(tmp_path / "items")
    assert made == usual


def test_metrics_of_the_folder_are_those_of_its_rows(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(40)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    values = json.loads((copy / "config.json").read_text())
    changed = values | {"query_domain": "street", "gallery_domain": "shop"}
    (copy / "config.json").write_text(json.dumps(changed))
    whole = tmp_path / "whole"
    done("embed", copy, "--items", shop, "--to", whole)
    done("evaluate", "--embeddings", whole, "--json", tmp_path / "a.json")
    folder = read_embeddings_folder(whole)
    np.savez(
        tmp_path / "e.npz",
        embeddings=folder.embeddings,
        labels=np.array([f"p{number // 4}" for number in range(40)]),
        is_query=np.arange(40) % 2 == 1,
        is_gallery=np.arange(40) % 2 == 0,
        categories=np.array(["hat"] * 40),
        domains=np.array(["shop", "street"] * 20),
    )
    done("evaluate", "--embeddings", tmp_path / "e.npz", "--json", tmp_path / "b.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == json.loads((tmp_path / "b.json").read_text())
    assert found["queries"] == 20


def test_one_of_items_and_embeddings_is_indexed(tmp_path: Path) -> None:
    words = ("index", "no-run", "--to", tmp_path / "index")
    for more in ((), ("--items", "a", "--embeddings", "b")):
        assert refused(*words, *more) == "give --items or --embeddings, one of the two"

"""A catalogue in a folder: what is in it, what is left out, and going on after a stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.launch.conftest import in_a_bucket
from tests.launch.embedding.commands import done, refused
from tests.launch.embedding.conftest import Catalogue, contents, loaded, write_run
from trainer.config import UserError
from trainer.data.files import locked
from trainer.launch.embedding import walk
from trainer.launch.embedding.blocks import Block, Blocks
from trainer.launch.embedding.folder import ShardFolder
from trainer.launch.embedding.pictures import PictureEmbedder
from trainer.launch.embedding.walk import Work
from trainer.launch.searching import embed_items, read_catalogue
from trainer.retrieval.embedding_cache import picture_keys
from trainer.retrieval.embeddings_folder import read_embeddings_folder

pytestmark = pytest.mark.usefixtures("small_batches")


@pytest.fixture
def embedded_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that go through the model from now on."""
    seen: list[int] = []
    real = PictureEmbedder.embed

    def spy(self, items, batches, first=0) -> Iterator:  # type: ignore[no-untyped-def]
        for block in real(self, items, batches, first):
            seen.extend(range(block.begin, block.end))
            yield block

    monkeypatch.setattr(PictureEmbedder, "embed", spy)
    return seen


def test_the_arrays_are_those_of_the_model_itself(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(45)
    out = done("embed", run, "--items", shop, "--to", tmp_path / "whole")
    assert out == f"45 embeddings of 16 numbers: {tmp_path / 'whole'}\n"
    folder = read_embeddings_folder(tmp_path / "whole")
    items = read_catalogue(str(shop))
    embedder = loaded(str(run / "model"))
    # Decoded by another path, and with batches in the same places.
    np.testing.assert_array_equal(folder.embeddings, embed_items(embedder, items))
    np.testing.assert_array_equal(folder.keys, picture_keys(items, embedder.fingerprint()))
    assert folder.items.fingerprint() == items.fingerprint()
    assert folder.items.path.tolist() == items.path.tolist()
    assert sorted(contents(tmp_path / "whole")) == [
        "bad_images.log",
        "embeddings.npy",
        "items.csv",
        "meta.json",
        "picture_files.npy",
        "picture_keys.npy",
    ]
    assert folder.meta.model == embedder.fingerprint()
    assert folder.meta.catalogue == items.fingerprint()
    assert np.load(tmp_path / "whole" / "embeddings.npy").shape == (45, 16)


def test_bad_pictures_are_named_and_left_out(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(40, bad=[5, 17])
    (shop / "9.jpg").write_text("no picture")
    (shop / "22.jpg").unlink()
    # Its header is good, and so is its end.
    broken = shop / "30.jpg"
    broken.write_bytes(broken.read_bytes()[:250] + b"\xff\xd9")
    line = refused("embed", run, "--items", shop, "--to", tmp_path / "a")
    assert "5 pictures and rows cannot be used, a share of 12.50% of the catalogue where" in line
    assert "--max-bad-share allows 1.00%" in line
    assert f"{shop / '5.jpg'}: JPEG that cannot be decoded" in line
    # What may have been out of reach for a time is looked at again.
    out = done("embed", run, "--items", shop, "--to", tmp_path / "a", "--max-bad-share", 0.2)
    assert "35 embeddings of 16 numbers, 5 pictures and rows left out" in out
    logged = (tmp_path / "a" / "bad_images.log").read_text().splitlines()
    assert [re.sub(r"^.*/(\d+)\.jpg: .*", r"\1", line) for line in logged] == [
        "5", "9", "17", "22", "30",
    ]  # fmt: skip
    assert logged[1].endswith("not a picture of a known kind")
    assert logged[3].endswith("no such file or directory")
    folder = read_embeddings_folder(tmp_path / "a")
    items = read_catalogue(str(shop))
    good = [row for row in range(40) if row not in (5, 9, 17, 22, 30)]
    assert folder.items.path.tolist() == items.path[good].tolist()
    embedder = loaded(str(run / "model"))
    np.testing.assert_allclose(
        folder.embeddings, embed_items(embedder, items.select(good)), atol=1e-6
    )
    assert (folder.meta.items, folder.meta.bad) == (35, 5)


def test_malformed_rows_count_as_in_an_index(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(20)
    with (shop / "items.csv").open("a") as stream:
        stream.write("0.jpg\n")
    assert "items.csv:22: 1 fields" in refused(
        "embed", run, "--items", shop, "--to", tmp_path / "a"
    )
    assert not (tmp_path / "a").exists()
    done("embed", run, "--items", shop, "--to", tmp_path / "a", "--max-bad-share", 0.05)
    assert "items.csv:22: 1 fields" in (tmp_path / "a" / "bad_images.log").read_text()


def test_a_stop_in_the_middle_costs_what_was_not_written(
    run: Path,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    embedded_rows: list[int],
) -> None:
    shop = catalogue(60)
    words = (run, "--items", shop, "--snapshot", 16, "--to")
    write, written = Blocks.write, []

    def full(self, block):  # type: ignore[no-untyped-def]
        if len(written) == 2:
            raise UserError("no space left")
        written.append(block.begin)
        write(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "write", full)
        assert refused("embed", *words, tmp_path / "a") == "no space left"
    assert written == [0, 16]
    embedded_rows.clear()
    out = done("embed", *words, tmp_path / "a")
    assert "32 of 60 rows are done, 28 are left" in out
    assert embedded_rows == list(range(32, 60))
    embedded_rows.clear()
    assert done("embed", *words, tmp_path / "a").startswith("done before\n60 embeddings")
    assert embedded_rows == []
    done("embed", run, "--items", shop, "--to", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("moment", ["before", "in between"])
def test_of_two_processes_without_locks_the_first_to_finish_stands(
    run: Path,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """As in a mounted bucket: the other one's blocks are cleared while this one works."""
    shop, to = catalogue(40), tmp_path / "a"
    words = ("embed", run, "--items", shop, "--snapshot", 8, "--to", to)
    monkeypatch.setattr(ShardFolder, "locked", lambda self: contextlib.nullcontext())
    place, name = (Work, "finish") if moment == "before" else (ShardFolder, "finish")
    real, first = getattr(place, name), []

    def late(self, *given):  # type: ignore[no-untyped-def]
        if not first:
            first.append(True)
            done(*words)
            # A block that was still on its way.
            folder = self.folder if moment == "before" else self
            folder.blocks.write(Block(0, 8, *(np.empty((0, n)) for n in (0, 16, 32, 2)), {}))
            first.append(contents(to))
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, late)
        assert done(*words).startswith("40 embeddings of 16 numbers")
    found = contents(to)
    assert found == {name: first[1][name] for name in found}
    assert len(found) == 6
    assert len(np.load(to / "embeddings.npy")) == 40


def test_rows_that_are_missing_are_told(
    run: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "embed_blocks", lambda *given: None)
    line = refused("embed", run, "--items", catalogue(20), "--to", tmp_path / "a")
    assert f"{tmp_path / 'a'}: rows 0 and on are missing: give the command again" in line
    assert not (tmp_path / "a" / "meta.json").exists()


def test_work_on_something_else_is_refused(run: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    shop = catalogue(20)
    to = tmp_path / "a"
    done("embed", run, "--items", shop, "--to", to, "--shard", "1/2")
    whole = tmp_path / "whole"
    done("embed", run, "--items", shop, "--to", whole)
    before = contents(to), contents(whole)
    other = write_run(tmp_path / "other", seed=1)
    small = catalogue(12, name="small")
    for folder in (to, whole):
        holds = f"{folder} holds embeddings of another"
        shard = ("--shard", "2/2") if folder == to else ()
        for words, what in (
            ((other, "--items", shop, *shard), "model"),
            ((run, "--items", small, *shard), "catalogue"),
            ((run, "--items", shop, "--shard", "1/3"), "number of shards"),
        ):
            assert refused("embed", *words, "--to", folder).startswith(
                f"{holds} {what}: choose another"
            )
    assert f"{to} holds" in refused("embed", run, "--items", shop, "--to", to)
    assert (contents(to), contents(whole)) == before
    line = refused("embed", run, "--items", shop, "--to", shop)
    assert f"{shop} holds something else than embeddings (0.jpg)" in line
    to = tmp_path / "b"
    to.mkdir()
    with locked(to / ".lock", "here"):
        assert refused("embed", run, "--items", shop, "--to", to).endswith("is working in it")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "0/2"], "--shard 0/2: shards count from 1 to 2, there is no 0"),
        (["--snapshot", "0"], "--snapshot 0 must be at least 1"),
        (["--max-bad-share", "1.5"], "--max-bad-share 1.5 must be from 0 to 1"),
        (["--", "--runner", "X"], "--runner: options behind -- are Beam's: give --beam as well"),
    ],
)
def test_options_are_checked_first(words: list[str], message: str, tmp_path: Path) -> None:
    assert refused("embed", "no-run", "--items", "none", "--to", tmp_path / "a", *words) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("remote", [False, True])
def test_pictures_that_have_changed_are_told(
    run: Path, catalogue: Catalogue, tmp_path: Path, remote: bool
) -> None:
    shop = catalogue(40, bad=[7])
    to = f"ram://{uuid.uuid4().hex}/shop" if remote else tmp_path / "a"
    words = ("embed", run, "--items", shop, "--to", to, "--shard", "1/2", "--max-bad-share", 0.1)
    done(*words)
    # Another time alone, a picture that is not there now, and one of the other shard.
    os.utime(shop / "2.jpg", (1, 1))
    (shop / "3.jpg").unlink()
    (shop / "35.jpg").write_bytes((shop / "1.jpg").read_bytes())
    assert done(*words).startswith("done before")
    # Another picture, and one that could not be used before.
    (shop / "4.jpg").write_bytes((shop / "35.jpg").read_bytes()[:-2] + b"\0\xff\xd9")
    (shop / "7.jpg").write_bytes((shop / "5.jpg").read_bytes() + b"\0")
    line = refused(*words)
    assert f"2 pictures have changed since they were embedded, the first: {shop}/4.jpg" in line


def test_the_same_names_elsewhere_are_another_catalogue(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(20)
    shutil.copytree(shop, tmp_path / "moved")
    words = ("embed", run, "--to", tmp_path / "a", "--shard", "1/2", "--items")
    done(*words, shop)
    assert done(*words, shop / "items.csv").startswith("done before")
    assert "holds embeddings of another catalogue: choose" in refused(*words, tmp_path / "moved")


def test_a_folder_that_is_done_is_held_to_the_share_of_bad_pictures(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    words = ("embed", run, "--items", catalogue(20, bad=[3]), "--to", tmp_path / "a")
    done(*words, "--max-bad-share", 0.1)
    line = refused(*words, "--max-bad-share", 0.01)
    assert "a share of 5.00% of the catalogue where --max-bad-share allows 1.00%" in line
    assert line.endswith(f"the first: see {tmp_path / 'a'}/bad_images.log")


def test_names_need_not_be_utf8(run: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    shop = catalogue(20)
    (shop / "items.csv").unlink()
    name = os.fsdecode(b"caf\xe9.jpg")
    os.rename(shop / "0.jpg", shop / name)
    os.rename(shop / "1.jpg", shop / "größe.jpg")
    for shard in ("1/2", "2/2"):
        done("embed", run, "--items", shop, "--to", tmp_path / "parts", "--shard", shard)
    done("embed", "merge", tmp_path / "parts", "--to", tmp_path / "merged")
    done("embed", run, "--items", shop, "--to", tmp_path / "whole")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    paths = read_embeddings_folder(tmp_path / "merged").items.path.tolist()
    assert paths == read_catalogue(str(shop)).path.tolist()
    assert {f"{shop}/{name}", f"{shop}/größe.jpg"} < set(paths)


def test_a_remote_run_is_as_good_as_a_local_one(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    remote = in_a_bucket(run)
    shop = catalogue(20)
    for given, to, *beam in ((run, "a"), (remote, "b"), (remote, "c", "--beam")):
        done("embed", given, "--items", shop, "--to", tmp_path / to, *beam)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    index = tmp_path / "index"
    for words in (("--items", shop), ("--embeddings", tmp_path / "a")):
        assert done("index", remote, *words, "--to", index) == f"20 items in {index}\n"
    assert "20 unchanged" in done("index", "add", remote, "--items", shop, "--to", index)
    words = ("search", remote, shop / "1.jpg", "-k", 1, "--index", index, "--json")
    done(*words, tmp_path / "found.json")
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert row["id"].startswith(f"{shop}/1.jpg")
    words = ("embed", remote, "--items", shop, "--to", tmp_path / "d", "--model", f"{remote}/none")
    for beam in ([], ["--beam"]):
        assert f"{remote}/none does not exist" in refused(*words, *beam)


def test_a_remote_folder_gets_what_a_local_one_gets(
    run: Path, catalogue: Catalogue, tmp_path: Path, embedded_rows: list[int]
) -> None:
    shop = catalogue(30)
    remote = f"ram://{uuid.uuid4().hex}/shop"
    for number in (1, 2):
        done("embed", run, "--items", shop, "--to", remote, "--shard", f"{number}/2")
    embedded_rows.clear()
    assert "done before" in done("embed", run, "--items", shop, "--to", remote, "--shard", "2/2")
    assert embedded_rows == []
    index = ("index", run, "--to", tmp_path / "index", "--embeddings")
    assert "copy it to this machine" in refused(*index, f"{remote}/shard-1-of-2")
    done("embed", "merge", remote, "--to", f"{remote}-merged")
    done("embed", "merge", f"{remote}-merged", "--to", tmp_path / "copy")
    done("embed", run, "--items", shop, "--to", tmp_path / "whole")
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")
    assert sorted(tf.io.gfile.listdir(f"{remote}-merged")) == sorted(contents(tmp_path / "whole"))


def test_an_unfinished_folder_is_no_embeddings(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop = catalogue(20)
    done("embed", run, "--items", shop, "--to", tmp_path / "a", "--shard", "2/2")
    shard = tmp_path / "a" / "shard-2-of-2"
    meta = json.loads((shard / "meta.json").read_text())
    assert (meta["shard"], meta["shards"], meta["rows"]) == (2, 2, 20)
    for folder, words in (
        (shard, "is shard 2 of 2: merge all of them first"),
        (tmp_path / "a", "holds no embeddings that are finished"),
        (tmp_path / "none", "holds no embeddings that are finished"),
    ):
        index = ("index", run, "--to", tmp_path / "index", "--embeddings", folder)
        assert words in refused(*index)

"""By workers of Beam the folder becomes what one process makes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.launch.embedding.commands import done, refused
from tests.launch.embedding.conftest import BATCH, Catalogue, contents, loaded
from trainer.config import UserError
from trainer.launch.embedding import pipeline
from trainer.launch.embedding.blocks import Blocks
from trainer.launch.embedding.pipeline import EmbedBlocks, read_task, write_tasks
from trainer.launch.embedding.plan import Plan
from trainer.launch.searching import read_catalogue

THREADS = ("--direct_running_mode", "multi_threading", "--direct_num_workers", "2")


@pytest.mark.usefixtures("small_batches")
def test_workers_make_what_one_process_makes(
    run: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = catalogue(60, bad=[9, 50])
    words = ("embed", run, "--items", shop, "--max-bad-share", 0.1, "--snapshot", 16, "--to")
    done(*words, tmp_path / "plain")
    one, two = tmp_path / "one", tmp_path / "two"
    out = done(*words, one, "--beam")
    assert "58 embeddings of 16 numbers, 2 pictures and rows left out" in out
    done(*words, two, "--beam", "--", *THREADS)
    assert contents(one) == contents(two) == contents(tmp_path / "plain")
    assert done(*words, one, "--beam").startswith("done before\n")

    # What a worker has written before it was lost is taken up, here by a plain process.
    write, there = Blocks.write, []

    def lost(self, block):  # type: ignore[no-untyped-def]
        if len(there) == 2:
            raise OSError("the worker is lost")
        there.append(block.begin)
        write(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "write", lost)
        with pytest.raises(OSError, match="the worker is lost"):
            done(*words, tmp_path / "three", "--beam")
    assert "32 of 60 rows are done" in done(*words, tmp_path / "three")
    assert contents(tmp_path / "three") == contents(one)


def test_tasks_carry_the_rows_of_their_blocks(catalogue: Catalogue, tmp_path: Path) -> None:
    items = read_catalogue(str(catalogue(10)))
    path = str(tmp_path / "tasks.jsonl")
    tasks = write_tasks(path, items, [(0, 4), (8, 10)])
    assert [(task.begin, task.end) for task in tasks] == [(0, 4), (8, 10)]
    for task in tasks:
        rows = slice(task.begin, task.end)
        read = read_task(path, task)
        assert read.path.tolist() == items.path[rows].tolist()
        np.testing.assert_array_equal(read.box, items.box[rows])
    # A worker of an earlier start, whose file was replaced by one of other rows.
    write_tasks(path, items, [(4, 8)])
    with pytest.raises(UserError, match=r"tasks\.jsonl does not hold rows 0 to 4"):
        read_task(path, tasks[0])


@pytest.mark.usefixtures("small_batches")
def test_each_start_has_a_file_of_its_own(
    run: Path, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers go on when who started them is lost, and may read theirs after the next start."""
    shop, to = catalogue(20), tmp_path / "a"
    monkeypatch.setattr(pipeline, "run", lambda flags, build: None)
    for _ in range(2):
        line = refused("embed", run, "--items", shop, "--to", to, "--beam")
        assert "rows 0 and on are missing" in line
    assert len(list(to.glob("blocks/tasks-*.jsonl"))) == 2


@pytest.mark.usefixtures("small_batches")
def test_too_many_bad_pictures_are_told_as_such(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    shop, to = catalogue(40, bad=[1, 30]), tmp_path / "a"
    words = ("embed", run, "--items", shop, "--to", to, "--snapshot", 8, "--beam")
    assert "2 pictures and rows cannot be used" in refused(*words)
    assert len(list(to.glob("blocks/rows-*"))) == 5


@pytest.mark.usefixtures("small_batches")
def test_a_task_that_runs_twice_does_no_harm(
    run: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    items = read_catalogue(str(catalogue(12)))
    path, folder = str(tmp_path / "tasks.jsonl"), tmp_path / "blocks"
    (task,) = write_tasks(path, items, [(0, 12)])
    model = str(run / "model")
    plan = Plan(loaded(model).fingerprint(), "", "", 12, 16, BATCH, 1)
    found = []
    for _ in range(2):
        worker = EmbedBlocks(path, str(folder), model, plan)
        worker.setup()
        worker.process(task)
        found.append(contents(folder))
    assert found[0] == found[1]
    assert len(found[0]) == 1
    other = dataclasses.replace(plan, model="another")
    with pytest.raises(UserError, match="is another model than when this was begun"):
        EmbedBlocks(path, str(folder), model, other).setup()


def test_workers_may_be_processes(run: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    shop = catalogue(130)
    words = ("embed", run, "--items", shop, "--snapshot", 64, "--to")
    processes = ("--direct_running_mode", "multi_processing", "--direct_num_workers", "2")
    done(*words, tmp_path / "a", "--beam", "--", *processes)
    done(*words, tmp_path / "b")
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one["items.csv"] == other["items.csv"]
    assert one["picture_keys.npy"] == other["picture_keys.npy"]
    # Their processes may sum in another order than this one (TF_ENABLE_ONEDNN_OPTS).
    vectors = (np.load(tmp_path / name / "embeddings.npy") for name in "ab")
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "1/2", "--beam"], "--shard is for machines that know nothing of each other"),
        (["--beam", "--", "--runner", "Nobody"], "--runner Nobody: "),
        (["--beam", "--", "--no_such_option", "1"], "Beam has no option --no_such_option"),
    ],
)
def test_options_are_checked_first(
    words: list[str], message: str, run: Path, tmp_path: Path
) -> None:
    to = tmp_path / "a"
    assert refused("embed", run, "--items", "none", "--to", to, *words).startswith(message)
    assert list(tmp_path.iterdir()) == []

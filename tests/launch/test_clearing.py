"""`--fresh`: what it deletes, what it never does, and how it asks."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from trainer.config import UserError
from trainer.launch import clearing, job, summary
from trainer.launch.clearing import agreed, delete, find_old_run
from trainer.launch.run_folder import RunFolder

from .conftest import small_config


@pytest.fixture
def config(pictures):
    return small_config(pictures)


@pytest.fixture
def run(tmp_path, config):
    """A run folder as a job that has trained a little leaves it."""
    folder = RunFolder.claim(str(tmp_path / "run"), config)
    for name in (
        "environment.json",
        "training.csv",
        "variables.csv",
        "checkpoints/step-000000004.npz",
        "checkpoints/step-000000012.npz",
        "checkpoints/best.npz",
        "checkpoints/.step-000000016.npz.k2j3",
        "logs/events.out.tfevents.17.host.1.0.v2",
        "code/my.loop.py",
        "model/variables/variables.index",
        ".index.old/meta.json",
        "wandb/offline-run-1/files/anything.txt",
    ):
        folder.write_text(name, "x" * 100)
    os.symlink("offline-run-1", tmp_path / "run" / "wandb" / "latest-run")
    return tmp_path / "run"


def content(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


def test_everything_that_a_job_leaves_can_be_deleted_and_nothing_else_goes(finished, tmp_path):
    config, result = finished
    beside = tmp_path / "beside.txt"
    beside.write_text("not the run's")
    copy = tmp_path / "run"
    shutil.copytree(result.run_dir, copy)
    old = find_old_run(config, str(copy))
    text = str(old)
    assert text.startswith(f"{copy} (4 checkpoints, ")
    assert text.endswith(" MB, trained to step 60)")
    assert old.size == sum(p.stat().st_size for p in copy.rglob("*") if p.is_file())
    delete(old)
    assert content(copy) == []
    assert beside.read_text() == "not the run's"


def test_a_run_that_a_job_was_killed_in_can_be_deleted_too(run, config):
    old = find_old_run(config, str(run))
    assert "(3 checkpoints, " in str(old)
    assert "trained to step 12)" in str(old)
    outside = run.parent / "wandb-files"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    os.symlink(outside, run / "wandb" / "elsewhere")
    delete(old)
    assert content(run) == []
    assert (outside / "kept.txt").read_text() == "kept"


def test_where_there_is_no_run_there_is_nothing_to_delete(tmp_path, config):
    assert find_old_run(config, str(tmp_path / "run")) is None
    (tmp_path / "empty").mkdir()
    assert find_old_run(config, str(tmp_path / "empty")) is None


def foreign_file(run):
    (run / "thesis.tex").write_text("years of work")


def foreign_inside(run):
    (run / "checkpoints" / "notes.txt").write_text("years of work")


def foreign_folder(run):
    (run / "drafts").mkdir()


def foreign_nested(run):
    (run / "drafts" / "one").mkdir(parents=True)
    (run / "drafts" / "one" / "report.html").write_text("mine")


def foreign_link(run):
    os.symlink(run.parent, run / "logs" / "events.out.tfevents.link")


def foreign_link_of_a_name(run):
    (run / "training.csv").unlink()
    (run.parent / "far.csv").write_text("far")
    os.symlink(run.parent / "far.csv", run / "training.csv")


@pytest.mark.parametrize(
    ("put", "named"),
    [
        (foreign_file, "thesis.tex"),
        (foreign_inside, "checkpoints/notes.txt"),
        (foreign_folder, "drafts"),
        (foreign_nested, "drafts/one/report.html"),
        (foreign_link, "logs/events.out.tfevents.link"),
        (foreign_link_of_a_name, "training.csv"),
    ],
)
def test_a_folder_with_something_foreign_is_left_alone(run, config, put, named):
    old = find_old_run(config, str(run))
    put(run)
    before = content(run)
    for attempt in (lambda: find_old_run(config, str(run)), lambda: delete(old)):
        with pytest.raises(UserError, match="holds what no job makes") as error:
            attempt()
        assert named in str(error.value)
        assert "\n" not in str(error.value)
    assert content(run) == before


def test_only_a_run_is_deleted(tmp_path, config):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "report.html").write_text("mine")
    with pytest.raises(UserError, match="not a run folder of mildnet"):
        find_old_run(config, str(tmp_path / "photos"))
    (tmp_path / "photos" / "config.json").write_text('{"loss": "of another tool"}')
    with pytest.raises(UserError, match="not a run folder of mildnet"):
        find_old_run(config, str(tmp_path / "photos"))


def test_a_link_to_a_run_is_not_followed(run, config):
    link = run.parent / "link"
    os.symlink(run, link)
    for path in (link, f"{link}/"):
        with pytest.raises(UserError, match="is a link"):
            find_old_run(config, str(path))


def test_a_run_that_a_job_works_in_is_left_alone(run, config):
    old = find_old_run(config, str(run))
    with RunFolder(str(run)).locked():
        for attempt in (lambda: find_old_run(config, str(run)), lambda: delete(old)):
            with pytest.raises(UserError, match="another process is working in it"):
                attempt()
    assert (run / "checkpoints" / "best.npz").exists()


def test_what_the_job_itself_reads_is_not_deleted(run, pictures):
    weights = run / "model.keras"
    weights.write_text("x")
    config = small_config(pictures, f"model.weights={weights}")
    with pytest.raises(UserError, match=r"model.weights=.*which --fresh would delete"):
        find_old_run(config, str(run))


def test_config_json_goes_last_so_that_a_broken_off_deletion_can_be_repeated(
    run, config, monkeypatch
):
    gone = []

    def stop_at_config(folder, name):
        gone.append(name)
        if name == "config.json":
            raise KeyboardInterrupt
        os.unlink(folder.file(name))

    monkeypatch.setattr(clearing, "_remove", stop_at_config)
    with pytest.raises(KeyboardInterrupt):
        delete(find_old_run(config, str(run)))
    assert gone[-1] == "config.json"
    monkeypatch.undo()
    delete(find_old_run(config, str(run)))
    assert content(run) == []


def test_trackers_that_write_elsewhere_in_the_run_are_known(tmp_path, pictures):
    config = small_config(
        pictures, "tracker.csv.name=log[1].csv", "tracker.tensorboard.folder=board"
    )
    folder = RunFolder.claim(str(tmp_path / "run"), config)
    folder.write_text("log[1].csv", "step\n")
    folder.write_text("board/events.out.tfevents.1", "x")
    delete(find_old_run(config, folder.path))
    assert folder.names() == []
    folder = RunFolder.claim(str(tmp_path / "run"), config)
    folder.write_text("log1.csv", "step\n")
    with pytest.raises(UserError, match=r"log1\.csv"):
        find_old_run(config, folder.path)


def test_a_remote_run_is_deleted_through_its_file_system(config):
    folder = RunFolder.claim("ram://clearing/run", config)
    folder.write_text("checkpoints/step-000000003.npz", "x")
    folder.write_text("code/my.py", "x")
    old = find_old_run(config, folder.path)
    assert "(1 checkpoint, " in str(old)
    folder.write_text("mine.txt", "x")
    with pytest.raises(UserError, match=r"mine\.txt"):
        delete(old)
    tf.io.gfile.remove(folder.file("mine.txt"))
    delete(old)
    assert folder.names() == []


class Keys:
    """A console that types an answer."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def input(self, prompt):
        self.asked.append(str(prompt))
        if self.answer is None:
            raise EOFError
        return self.answer

    def print(self, *words):
        pass


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("y", True), ("YES", True), ("", False), ("n", False), ("yep", False), (None, False)],
)
def test_only_yes_is_yes(run, config, monkeypatch, answer, expected):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    old, keys = find_old_run(config, str(run)), Keys(answer)
    assert agreed(old, keys, yes=False) is expected
    assert keys.asked == [f"delete {old}? [y/N] "]


def test_without_a_terminal_somebody_has_to_have_said_yes(run, config, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    old = find_old_run(config, str(run))
    assert agreed(old, Console(), yes=True)
    with pytest.raises(UserError, match=r"trained to step 12\).*no terminal.*add --yes") as error:
        agreed(old, Console(), yes=False)
    assert "\n" not in str(error.value)


def test_nothing_is_run_where_the_answer_is_no(run, config, monkeypatch, capsys):
    monkeypatch.setattr(clearing, "agreed", lambda *a, **k: False)
    monkeypatch.setattr(job, "run", lambda *a, **k: pytest.fail("it ran"))
    before = content(run)
    summary.run_and_show(config, fresh=True, run_dir=str(run))
    assert capsys.readouterr().out.endswith("Nothing was run.\n")
    assert content(run) == before


def test_a_job_that_cannot_work_deletes_nothing(run, pictures):
    before = content(run)
    with pytest.raises(UserError, match="4000"):
        job.run(small_config(pictures, "batch_size=4000"), run_dir=str(run), fresh=True)
    assert content(run) == before


def test_a_job_begins_anew_where_a_run_of_another_config_was(run, pictures):
    other = small_config(pictures, "loss.margin=0.5", "steps=2", "train.validate_every=2")
    with pytest.raises(UserError, match=r"another config.*--fresh"):
        job.run(other, run_dir=str(run))
    job.run(other, run_dir=str(run), fresh=True, training_only=True)
    assert json.loads((run / "config.json").read_text())["loss.margin"] == 0.5
    assert not (run / "wandb").exists()
    with np.load(run / "checkpoints" / "step-000000002.npz") as saved:
        assert json.loads(saved["meta"].tobytes())["step"] == 2


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, True),
        ({"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}, True),
        ({"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}, False),
        ({"cluster": {"chief": ["a"]}, "task": {"type": "worker", "index": 0}}, False),
        ({"cluster": {"chief": ["a"]}, "task": {"type": "chief", "index": 0}}, True),
    ],
)
def test_the_first_of_several_workers_asks(monkeypatch, told, expected):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if told:
        monkeypatch.setenv("TF_CONFIG", json.dumps(told))
    assert clearing.is_first_worker() is expected

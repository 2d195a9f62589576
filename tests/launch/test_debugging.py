"""`mildnet train --debug`: a session on a real terminal, and where there can be none."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import numpy as np
import pexpect
import pytest
from typer.testing import CliRunner

import trainer.cli
from trainer.config import UserError
from trainer.launch import debugging, job, summary

from .conftest import small_config

ROOT = Path(__file__).resolve().parents[2]


class Session:
    """The script `debug_session.py` at a terminal of its own."""

    def __init__(self, folder, data_path):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "IPYTHONDIR": str(folder / "ipython"),
            # Plain prompts; the rest is as at any terminal.
            "IPY_TEST_SIMPLE_PROMPT": "1",
            "TERM": "dumb",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "tests.launch.debug_session", str(data_path)],
            cwd=str(folder),
            env=environment,
            dimensions=(50, 120),
            timeout=240,
            encoding="utf-8",
        )

    def prompt(self):
        """Wait for the prompt, and return what was printed before."""
        self.process.expect(r"In \[\d+\]: ")
        return self.process.before

    def type(self, text):
        """Type a line and return what is answered."""
        self.process.sendline(text)
        return self.prompt()


@pytest.fixture(scope="module")
def session(pictures, tmp_path_factory):
    """(folder, what was said): the whole conversation."""
    folder = tmp_path_factory.mktemp("debug")
    session = Session(folder, pictures)
    said = {"banner": session.prompt()}
    said["loss"] = session.type('print("LOSS", float(loss(batch["label"], model(batch["image"]))))')
    said["loss_of"] = session.type('print("LOSS", loss_of(batch))')
    said["names"] = session.type(
        'print("NAMES", batch["image"].shape, len(splits.train), len(groups), config.loss, '
        "optimizer is groups[0][0], next(iter(batches(0)))['label'].shape)"
    )
    said["steps"] = session.type('print("STEPS", [step()["loss"] for _ in range(3)])')
    said["error"] = session.type("no_such_name")
    session.process.sendline("exit")
    session.prompt()  # of the second job: the first went on and ended
    session.type("[w.assign(w * 0) for w in model.trainable_variables]; keep()")
    session.process.send("\x04")
    session.prompt()  # of the third
    session.process.sendline("stop()")
    session.process.expect("ALL DONE")
    said["end"] = session.process.before
    session.process.expect(pexpect.EOF)
    session.process.close()
    assert session.process.exitstatus == 0
    return folder, said


def numbers(text, word):
    """The numbers that a command printed behind a word; the echo of the command has none."""
    return [float(n) for n in re.findall(r"-?\d+\.\d+", text.rpartition(word)[2])]


def arrays(folder):
    with np.load(folder / "checkpoints" / "step-000000004.npz", allow_pickle=False) as saved:
        return {key: saved[key] for key in saved.files if key != "meta"}


def test_the_banner_lists_what_is_in_reach(session):
    _, said = session
    assert "project/kernel" in said["banner"]  # the table of variables comes before
    assert "All is set up; 0 steps are made. In reach:" in said["banner"]
    for name in ("model", "batch", "splits", "loss", "loss_of", "step", "groups", "config"):
        assert re.search(rf"\n  {name} ", said["banner"]), name
    assert "image (32, 32, 32, 3)" in said["banner"]


def test_loss_model_and_batch_are_those_of_the_job(session):
    _, said = session
    (by_hand,) = numbers(said["loss"], "LOSS ")
    assert 0.1 < by_hand < 10
    assert numbers(said["loss_of"], "LOSS ") == pytest.approx([by_hand], abs=1e-6)
    assert "NAMES (32, 32, 32, 3)" in said["names"]
    assert "1 triplet_semihard True (32,)" in said["names"]


def test_the_step_in_reach_trains(session):
    _, said = session
    losses = numbers(said["steps"], "STEPS ")
    assert len(losses) == len(set(losses)) == 3


def test_a_mistake_in_the_session_ends_nothing(session):
    _, said = session
    assert "NameError" in said["error"]


def test_what_a_session_did_is_undone_before_training(session):
    folder, _ = session
    plain, debugged = arrays(folder / "plain"), arrays(folder / "debugged")
    assert set(plain) == set(debugged)
    for key, value in plain.items():
        assert value.tobytes() == debugged[key].tobytes(), key


def test_what_it_did_stays_where_it_asked_for_that(session):
    folder, _ = session
    plain, kept = arrays(folder / "plain"), arrays(folder / "kept")
    assert not np.array_equal(plain["model/project/kernel"], kept["model/project/kernel"])


def test_stop_leaves_with_an_exit_code_and_no_step_made(session):
    folder, said = session
    assert "STOPPED 1 stopped by stop() after step 0; run it again" in said["end"]
    assert not (folder / "stopped" / "checkpoints").exists()


def test_without_a_terminal_it_is_one_line_before_anything_is_done(tmp_path, pictures):
    path = tmp_path / "a.cnf"
    path.write_text(small_config(pictures).to_cnf())
    words = ["train", str(path), "--run-dir", str(tmp_path / "run"), "--debug"]
    with pytest.raises(UserError, match="no terminal to open it on") as error:
        CliRunner().invoke(trainer.cli.app, words, catch_exceptions=False)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no terminal"):
        job.run(small_config(pictures), run_dir=str(tmp_path / "run"), debug=True)
    assert not (tmp_path / "run").exists()


def test_without_ipython_or_with_several_machines_it_is_one_line(monkeypatch):
    monkeypatch.setattr(debugging, "_on_terminal", lambda: True)
    debugging.check_debugger()
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    with pytest.raises(UserError, match="TF_CONFIG names several"):
        debugging.check_debugger()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "mildnet\[debug\]"'):
        debugging.check_debugger()


def test_train_passes_it_on_and_says_so(monkeypatch, tmp_path, pictures):
    calls = []
    monkeypatch.setattr(summary, "run_and_show", lambda config, **options: calls.append(options))
    path = tmp_path / "a.cnf"
    path.write_text(small_config(pictures).to_cnf())
    for words in ([], ["--debug"]):
        assert CliRunner().invoke(trainer.cli.app, ["train", str(path), *words]).exit_code == 0
    assert [options["debug"] for options in calls] == [False, True]
    text = CliRunner().invoke(trainer.cli.app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert "Open IPython before the first step; and show the traceback" in text

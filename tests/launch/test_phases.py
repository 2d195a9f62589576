"""Jobs one after the other: what is handed on, where it goes on after a stop, what is refused."""

import json
import os
import signal

import numpy as np
import pytest
from typer.testing import CliRunner

import trainer.cli
from trainer.config import JobConfig, UserError
from trainer.config.settings import Settings
from trainer.launch.evaluating import load_model
from trainer.launch.phases import Phases
from trainer.launch.run_folder import RunFolder
from trainer.training.trackers.csv_log import CsvLog

from .conftest import SMALL


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """Nothing from the machine's own settings."""
    monkeypatch.setattr(Settings, "load", classmethod(lambda cls, *args: Settings({})))


@pytest.fixture
def recipe(tmp_path, pictures):
    """Return what writes a file of phases, and two configs beside it."""
    short = {
        "dataset.classes": 16, "dataset.views": 4, "dataset.size": 32, "batch_size": 8,
        "steps": 4, "train.validate_every": 4, "train.checkpoint_every": 2, "train.log_every": 1,
        "trackers": "csv",
    }  # fmt: skip
    changes = {
        "first": {},
        "second": {"loss.margin": 0.3},
    }
    for name, own in changes.items():
        values = {**SMALL, **short, "data_path": str(pictures), **own}
        config = JobConfig.from_mapping(values, (), Settings({}), name=name)
        (tmp_path / f"{name}.cnf").write_text(config.to_cnf())

    def write(*phases, **common):
        file = tmp_path / "recipe.yaml"
        file.write_text(json.dumps({"name": "all", "set": common, "phases": phases}))
        return str(file)

    return write


def run(file, to, *words):
    return CliRunner().invoke(trainer.cli.app, ["phases", file, "--to", str(to), *words])


def weights(folder):
    return {w.path: np.asarray(w.value) for w in load_model(RunFolder(str(folder))).weights}


def states(file, to):
    words = run(file, to, "--list").output.split()
    return [word for word in words if word in ("done", "begun", "waiting")]


def test_a_phase_begins_with_the_weights_of_the_one_before_and_goes_on_after_a_stop(
    recipe, tmp_path, monkeypatch
):
    second = {"config": "second.cnf", "name": "last", "set": {"lr": 0.01}}
    file = recipe("first.cnf", second, lr=0.02)
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert states(file, whole) == ["waiting", "waiting"]
    done = run(file, whole)
    assert done.exit_code == 0, done.output
    first, last = whole / "1_first", whole / "2_last"
    configs = [RunFolder(str(folder)).config() for folder in (first, last)]
    assert [config.lr for config in configs] == [0.02, 0.01]
    assert [config.init_from for config in configs] == ["", str(first)]
    before, after = (json.loads((f / "evaluation.json").read_text()) for f in (first, last))
    assert after["untrained"] == before["trained"]
    assert after["trained"] != before["trained"]
    assert states(file, whole) == ["done", "done"]

    log = CsvLog.log

    def stop(self, step, numbers):
        log(self, step, numbers)
        if step == 2 and (halted / "2_last").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CsvLog, "log", stop)
    assert run(file, halted).exit_code == 128 + signal.SIGTERM
    monkeypatch.setattr(CsvLog, "log", log)
    assert states(file, halted) == ["done", "begun"]
    made = os.stat(halted / "1_first" / "model.keras").st_mtime_ns
    again = run(file, halted)
    assert again.exit_code == 0, again.output
    assert os.stat(halted / "1_first" / "model.keras").st_mtime_ns == made
    ends = [weights(root / "2_last") for root in (whole, halted)]
    for path, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][path], err_msg=path)

    # Another training of the first phase does not go with what was made of the old one.
    other = run(file, halted, "--set", "seed=1")
    assert other.exit_code == 2
    assert "seed: 1, not 0" in other.output
    assert "--fresh-from first" in other.output.replace("\n", "")
    (halted / "1_first" / "report.html").unlink()
    gone = run(file, halted)
    assert gone.exit_code == 2
    assert "other weights of first" in gone.output.replace("\n", " ")
    with pytest.raises(UserError, match="did you mean 'last'"):
        Phases.load(file, to=str(halted)).run(None, fresh="lst")

    # Where the folder lies does not matter.
    whole = whole.rename(tmp_path / "moved")
    first, last = whole / "1_first", whole / "2_last"
    assert run(file, whole).exit_code == 0

    # Begun anew, the last phase is made again and the first is not.
    made = [os.stat(folder / "model.keras").st_mtime_ns for folder in (first, last)]
    anew = run(file, whole, "--fresh-from", "last", "--yes")
    assert anew.exit_code == 0, anew.output
    now = [os.stat(folder / "model.keras").st_mtime_ns for folder in (first, last)]
    assert now[0] == made[0]
    assert now[1] > made[1]

    # An old run that is not to be deleted does not pass for one of the new weights.
    note = last / "restored.json"
    kept = json.loads(note.read_text())
    assert (
        kept["weights"] == json.loads((halted / "2_last" / "restored.json").read_text())["weights"]
    )
    note.write_text(json.dumps({**kept, "weights": "of another training"}))
    refused = run(file, whole, "--fresh-from", "last")
    assert refused.exit_code == 2
    assert "no terminal to ask on" in refused.output.replace("\n", " ")
    gone = run(file, whole)
    assert gone.exit_code == 2
    assert "other weights of first" in gone.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "not YAML"),
        ("phases: 3", "needs `phases:`"),
        ("phases: []", "names no config"),
        ("{phases: [first.cnf], nme: x}", "unknown key 'nme'; did you mean 'name'"),
        ("phases: [gone.cnf]", "gone.cnf: no such file"),
        ("phases: [{name: x}]", "phase 1: give the path of a config"),
        ("{phases: [first.cnf], name: ../x}", "letters, digits"),
        ("{phases: [first.cnf], set: {lr: 2020-01-01}}", "set needs keys"),
        ("phases: [first.cnf, first.cnf]", "two phases are called first"),
        ("phases: [{config: first.cnf, name: a/b}]", "letters, digits"),
        ("phases: [{config: first.cnf, set: [lr]}]", "set needs keys"),
        ("phases: [{config: first.cnf, set: {lr: {a: 1}}}]", "set needs keys"),
        ("{phases: [first.cnf], set: lr}", "set needs keys"),
        ("phases: [{config: first.cnf, match: some}]", "all or matching"),
        ("phases: [{config: first.cnf, set: {lrr: 1}}]", "unknown key 'lrr'"),
    ],
)
def test_mistakes_in_the_file_end_in_one_line(text, message, recipe, tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        Phases.load(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

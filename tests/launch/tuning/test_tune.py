"""`mildnet tune` as a person calls it, and searches of real jobs."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import trainer.cli
from trainer.config import JobConfig
from trainer.launch.tuning import tune as tuning
from trainer.launch.tuning.trial import run_job, run_trial

from ..conftest import small_config
from .searches import make_search, quick_job, write_files

ROOT = Path(__file__).parents[3]
GRID = "lr: {choices: [0.1, 0.01]}\nloss.margin: {choices: [0.1, 0.2]}\n"


def call(folder, *words):
    """Call the command on `job.cnf` and `space.yaml`; return its exit code and its words."""
    files = [str(folder / "job.cnf"), "--space", str(folder / "space.yaml")]
    result = CliRunner().invoke(trainer.cli.app, ["tune", *files, *words], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def quick(monkeypatch):
    """Jobs that are done in no time."""
    monkeypatch.setattr("trainer.launch.tuning.trial.run_job", quick_job)


@pytest.fixture(autouse=True)
def log_as_it_was():
    logger = logging.getLogger("trainer")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.level, logger.handlers, logger.propagate = before


def test_the_list_of_combinations_needs_no_tensorflow(tmp_path):
    write_files(tmp_path, GRID)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trainer.cli", "tune", str(tmp_path / "job.cnf")]
        + ["--space", str(tmp_path / "space.yaml"), "--list", "--index-base", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == [
        "1  lr=0.1  loss.margin=0.1",
        "2  lr=0.1  loss.margin=0.2",
        "3  lr=0.01  loss.margin=0.1",
        "4  lr=0.01  loss.margin=0.2",
        "4 combinations, 1 to 4",
    ]
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "yaml" in imported
    assert not imported & {"tensorflow", "keras", "optuna", "matplotlib"}


def test_a_study_tells_each_trial_and_where_its_results_are(tmp_path, quick):
    write_files(tmp_path, GRID)
    words = ("--sampler", "grid", "--pruner", "none", "--to", str(tmp_path / "tune"))
    code, output = call(tmp_path, *words, "--set", "steps=40")
    assert code == 0
    assert f"job: 4 trials in {tmp_path}/tune" in output
    assert "trial 0: lr=0.1 loss.margin=0.1" in output
    line = r"trial 3 complete: recall_at_1 0.9000 at step 40; \d+.\d s; best 0.9000 of trial 2"
    assert re.search(line, output)
    assert f"mildnet train {tmp_path}/tune/best.cnf --run-dir {tmp_path}/tune/trial-0002" in output
    assert JobConfig.load(tmp_path / "tune" / "best.cnf").steps == 40
    code, summary = call(tmp_path, *words, "--set", "steps=40", "--summary")
    assert code == 0
    assert "trial 3" not in summary
    assert output[output.index("Trials by") :] == summary
    code, output = call(tmp_path, *words)
    assert (code, "with another search (train_epochs: 10.0, not" in output) == (2, True)


def test_combinations_by_index_are_summed_up_like_a_study(tmp_path, quick, monkeypatch):
    write_files(tmp_path, GRID)
    to = ("--to", str(tmp_path / "tune"))
    code, output = call(tmp_path, *to, "--index", "2")
    assert code == 0
    assert "tune/trial-0002_lr=0.01_loss.margin=0.1" in output
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    code, _ = call(tmp_path, *to, "--index-from-env", "auto", "--index-base", "1")
    assert code == 0
    code, output = call(tmp_path, *to, "--summary")
    assert code == 0
    assert "2 combinations have not begun" in output
    trials = json.loads((tmp_path / "tune" / "trials.json").read_text())
    assert [trial["number"] for trial in trials["trials"]] == [2, 0]
    assert (tmp_path / "tune" / "trials.html").is_file()


@pytest.mark.parametrize(
    ("space", "words", "error"),
    [
        ("lr: {choices: []}", (), "space.yaml:1: lr: choices is a list of one value or more"),
        ("lr: {low: 0.1, high: 1}", ("--sampler", "grid"), "lr: a grid needs choices, or low,"),
        ("lr: {low: 0.1, high: 1}", ("--list",), "lr: a grid needs choices, or low, high and"),
        (GRID, ("--metric", "recall"), "--metric: 'recall' is not one of recall_at_1, map_at_r"),
        (GRID, ("--index", "4"), "there is no combination 4: the grid has 4, from 0 to 3"),
        (GRID, ("--index", "0", "--index-base", "1"), "there is no combination -1"),
        (GRID, ("--index", "0", "--index-from-env", "auto"), "one of the two"),
        (GRID, ("--summary",), "holds no search; nothing has begun there"),
        (GRID, ("--summary", "--storage", "STUDY.log"), "no study 'job'"),
        ("loss.margin: {low: -2, high: 1}", (), "space.yaml:1: loss.margin"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(tmp_path, quick, space, words, error):
    write_files(tmp_path, space)
    words = [str(tmp_path / word) if word == "STUDY.log" else word for word in words]
    code, output = call(tmp_path, *words, "--to", str(tmp_path / "tune"))
    assert code == 2
    assert error in output
    assert not list(tmp_path.glob("tune/trial-*"))


def test_a_search_without_a_trial_that_works_fails(tmp_path, monkeypatch):
    def job(config, run_dir, **words):
        raise FloatingPointError(f"at a rate of {config.lr}")

    monkeypatch.setattr("trainer.launch.tuning.trial.run_job", job)
    write_files(tmp_path, GRID)
    words = ("--sampler", "grid", "--to", str(tmp_path / "tune"))
    code, output = call(tmp_path, *words)
    assert code == 2
    assert "error: all 4 trials failed; the first: FloatingPointError: at a rate of 0.1" in output


def test_several_machines_share_a_study_not_a_trial(tmp_path, quick, monkeypatch):
    write_files(tmp_path, GRID)
    monkeypatch.setenv("TF_CONFIG", "{}")
    code, output = call(tmp_path, "--to", str(tmp_path / "tune"))
    assert code == 2
    assert "TF_CONFIG is set: a trial runs on one machine" in output


REAL = """
lr: {low: 0.001, high: 0.01, log: true}
fixed: {steps: 12, train.validate_every: 4, train.checkpoint_every: 4}
"""


def test_a_real_trial_that_was_killed_goes_on_and_may_then_be_pruned(pictures, tmp_path, caplog):
    search = make_search(tmp_path, REAL, small_config(pictures, "train.log_every=4").to_cnf())

    def killed(config, run_dir, *, training_only, stop_early):
        def until_the_second(step, numbers):
            if step == 8:
                raise KeyboardInterrupt
            return stop_early(step, numbers)

        return run_job(config, run_dir, training_only=True, stop_early=until_the_second)

    with pytest.raises(KeyboardInterrupt):
        run_trial(search, 0, {"lr": 0.003}, "trial-0000", job=killed)
    folder = tmp_path / "tune" / "trial-0000"
    left = json.loads((folder / "trial.json").read_text())
    assert (left["state"], left["step"]) == ("unfinished", 4)
    assert not (folder / "checkpoints" / "step-000000008.npz").exists()

    told = []

    def watch(number, score, trial):
        told.append((number, trial.step))
        return number == 2

    with caplog.at_level(logging.INFO):
        trial = run_trial(search, 0, {"lr": 0.003}, "trial-0000", watch)
    assert "going on from step 4" in caplog.text
    assert told == [(2, 8)]
    assert (trial.state, trial.step) == ("pruned", 8)
    assert [step for step, _ in trial.validations] == [4, 8]
    assert trial.score == max(score for _, score in trial.validations)
    assert trial.seconds > left["seconds"]
    assert json.loads((folder / "trial.json").read_text())["state"] == "pruned"
    assert (folder / "checkpoints" / "step-000000008.npz").is_file()
    # Training alone: nothing was measured on the test split, exported or indexed.
    names = {path.name for path in folder.iterdir()}
    assert not names & {"evaluation.json", "model", "index", "report.html"}


def test_the_default_folder_is_named_by_the_job(tmp_path):
    search = make_search(tmp_path, GRID)
    options = tuning.TuneOptions()
    assert tuning._search(search.space, options).folder == "runs/job-tune"

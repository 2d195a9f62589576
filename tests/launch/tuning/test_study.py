"""A study: what it tries, what it keeps when it is killed, and who may work at it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from trainer.config import UserError
from trainer.launch.tuning import study as studies
from trainer.launch.tuning.study import Study, StudyOptions
from trainer.training.interrupts import Interrupted

from .searches import JOB, SPACE, VALIDATIONS, Made, make_search, quick_job, write_files

ROOT = Path(__file__).parents[3]


RANDOM = StudyOptions("random", 5, pruner="none")


def run(folder, options=RANDOM, job=quick_job, **changes):
    return Study(make_search(folder, **changes), options).run(job=job)


def values(trials):
    return [dict(trial.params) for trial in trials]


def test_a_random_study_that_is_stopped_tries_what_an_undisturbed_one_tries(tmp_path):
    whole = run(tmp_path / "whole")
    assert [trial.number for trial in whole] == list(range(5))
    assert all(trial.state == "complete" for trial in whole)
    assert len({trial.params["lr"] for trial in whole}) == 5
    assert all(1e-4 <= trial.params["lr"] <= 1 for trial in whole)

    first = run(tmp_path / "parts", StudyOptions("random", 2))
    assert len(first) == 2
    again = run(tmp_path / "parts")
    assert values(again) == values(whole)
    # Those that were finished were not run again.
    assert again[:2] == first
    assert run(tmp_path / "parts") == again
    (other,) = run(tmp_path / "seed", StudyOptions("random", 1, seed=1))
    assert other.params["lr"] != whole[0].params["lr"]


def test_a_trial_is_a_run_folder_with_its_config_and_its_record(tmp_path):
    trial = run(tmp_path, StudyOptions("random", 1))[0]
    folder = Path(trial.folder)
    assert folder == tmp_path / "tune" / "trial-0000"
    config = json.loads((folder / "config.json").read_text())
    assert (config["lr"], config["batch_size"]) == (trial.params["lr"], trial.params["batch_size"])
    assert config["train.monitor"] == "recall_at_1"
    record = json.loads((folder / "trial.json").read_text())
    assert record["state"] == "complete"
    assert record["params"] == trial.params
    assert [step for step, _ in record["validations"]] == [10, 20, 30, 40]
    assert record["score"] == record["validations"][-1][1] == trial.score


GRID = """
loss: {choices: [triplet_semihard, ntxent]}
loss.margin: {low: 0.1, high: 0.3, step: 0.1}
loss.temperature: {choices: [0.05]}
lr: {choices: [0.1, 0.01]}
"""


@pytest.fixture
def in_memory(monkeypatch):
    """Studies that are gone with the process, and quicker."""
    storage = optuna.storages.InMemoryStorage()
    monkeypatch.setattr(Study, "_open", lambda study: storage)
    return storage


def test_a_grid_runs_every_combination_once_in_order(tmp_path, in_memory):
    search = make_search(tmp_path, GRID)
    trials = Study(search, StudyOptions("grid", trials=3)).run(job=quick_job)
    assert len(trials) == 3
    trials = Study(search, StudyOptions("grid", pruner="none")).run(job=quick_job)
    assert values(trials) == search.space.combinations()
    assert len(trials) == 8
    # What Optuna keeps is what was run.
    kept = optuna.load_study(study_name=search.space.config().name, storage=in_memory)
    assert [trial.params for trial in kept.trials] == [
        {key: pytest.approx(value) for key, value in params.items()} for params in values(trials)
    ]


def test_a_trial_that_is_behind_is_pruned_and_says_so(tmp_path, in_memory):
    rates = iter([0.01, 0.011, 0.009, 0.012, 0.008, 1e-4, 0.0101])

    class InTurn(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            return next(rates)

    study = Study(make_search(tmp_path, "lr: {low: 1e-4, high: 1}"), StudyOptions(trials=7))
    study._study.sampler = InTurn()
    trials = study.run(job=quick_job)
    assert [trial.state for trial in trials] == ["complete"] * 5 + ["pruned", "complete"]
    behind = trials[5]
    # The first validation tells too little.
    assert (behind.step, len(behind.validations)) == (20, 2)
    assert behind.score == pytest.approx(0.5 * 0.5)
    assert json.loads(Path(behind.folder, "trial.json").read_text())["state"] == "pruned"
    assert study._study.trials[5].state == optuna.trial.TrialState.PRUNED


def test_hyperband_prunes_too(tmp_path, in_memory):
    trials = run(tmp_path, StudyOptions("random", 20, pruner="hyperband"))
    states = {trial.state for trial in trials}
    assert states == {"complete", "pruned"}


def test_a_validation_loss_is_brought_down(tmp_path, in_memory):
    def job(config, run_dir, *, training_only, stop_early):
        for step, loss in ((1, 3.0), (2, config.lr), (3, 2.0)):
            stop_early(step, {"val_loss": loss})
        return Made(config.lr, 2, 3)

    search = make_search(tmp_path, "lr: {choices: [0.3, 0.1, 0.2]}", metric="val_loss")
    study = Study(search, StudyOptions("grid"))
    trials = study.run(job=job)
    assert study._study.best_trial.number == 1
    assert [trial.score for trial in trials] == [0.3, 0.1, 0.2]
    assert [trial.best_step for trial in trials] == [2, 2, 2]


def test_a_trial_that_fails_is_noted_and_the_study_goes_on(tmp_path, in_memory):
    def job(config, run_dir, **words):
        if config.lr == 0.1:
            raise UserError("the loss is not a finite number\nat step 3")
        if config.lr == 0.2:
            raise MemoryError("no room")
        if config.lr == 0.3:
            return Made(None, 0, 40)
        return quick_job(config, run_dir, **words)

    space = "lr: {choices: [0.1, 0.2, 0.3, 0.4]}\nsampler: {choices: [classes_per_batch]}"
    trials = run(tmp_path, StudyOptions("grid"), job, space=space)
    assert [trial.state for trial in trials] == ["failed", "failed", "failed", "complete"]
    assert trials[0].error == "the loss is not a finite number at step 3"
    assert trials[1].error == "MemoryError: no room"
    assert trials[2].error == "no validation gave a number for recall_at_1"
    traceback = Path(trials[1].folder, "error.txt").read_text()
    assert "in job" in traceback
    assert not Path(trials[0].folder, "error.txt").exists()
    assert json.loads(Path(trials[0].folder, "trial.json").read_text())["error"] == trials[0].error


def test_values_that_do_not_go_together_fail_in_one_line(tmp_path, in_memory):
    space = (
        "loss: {choices: [triplet_margin, triplet_semihard]}\nsampler: {choices: [random_triplets]}"
    )
    trials = run(tmp_path, StudyOptions("grid"), space=space)
    assert [trial.state for trial in trials] == ["complete", "failed"]
    assert "learns from labels, but sampler 'random_triplets' gives triplets" in trials[1].error


def test_a_trial_that_is_interrupted_goes_on_with_its_values(tmp_path):
    def stopped(config, run_dir, *, training_only, stop_early):
        stop_early(10, {"recall_at_1": 0.3})
        raise Interrupted(signal.SIGTERM, 10)

    with pytest.raises(Interrupted):
        run(tmp_path, job=stopped)
    (left,) = Study(make_search(tmp_path), StudyOptions("random")).trials()
    assert (left.state, left.score) == ("unfinished", 0.3)
    seen = []

    def rest(config, run_dir, *, training_only, stop_early):
        seen.append((run_dir, config.lr))
        # The validation at step 10 comes again, as after a checkpoint before it.
        return quick_job(config, run_dir, training_only=training_only, stop_early=stop_early)

    trials = run(tmp_path, StudyOptions("random", 1), rest)
    assert seen[0] == (left.folder, left.params["lr"])
    assert [trial.state for trial in trials] == ["complete"]
    assert [step for step, _ in trials[0].validations] == [10, 20, 30, 40]


def test_a_trial_of_another_machine_is_left_alone_until_it_is_said_to_be_gone(
    tmp_path, monkeypatch
):
    def stopped(config, run_dir, **words):
        raise Interrupted(signal.SIGTERM, 10)

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(studies.socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(Interrupted):
            run(tmp_path, job=stopped)
    trials = run(tmp_path, StudyOptions("random", 2))
    assert [trial.state for trial in trials] == ["unfinished", "complete"]
    trials = run(tmp_path, StudyOptions("random", 2, take_over=True))
    assert [trial.state for trial in trials] == ["complete"] * 2


def start(folder, trials, seconds):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.launch.tuning.searches", str(folder), str(trials), seconds],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]


def steps(folder, number):
    """Return the steps that a trial has made, each with the process that made it."""
    log = folder / "tune" / f"trial-{number:04d}" / "steps.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def test_a_study_that_is_killed_goes_on_where_it_was(tmp_path):
    write_files(tmp_path)
    process = start(tmp_path, 3, "0.3")
    give_up = time.monotonic() + 100
    while len(steps(tmp_path, 1)) < 2 and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    study = Study(make_search(tmp_path), StudyOptions("random", 3))
    before = study.trials()
    assert [trial.state for trial in before] == ["complete", "unfinished"]
    done = steps(tmp_path, 1)
    assert 2 <= len(done) < VALIDATIONS

    finish(start(tmp_path, 3, "0"))
    after = study.trials()
    assert [trial.state for trial in after] == ["complete"] * 3
    assert after[0] == before[0]
    assert after[1].params == before[1].params
    assert after[1].folder == before[1].folder
    assert after[1].seconds > before[1].seconds
    # No step was made twice.
    assert [step for step, _ in steps(tmp_path, 1)] == list(range(1, VALIDATIONS + 1))
    assert steps(tmp_path, 1)[: len(done)] == done
    assert {pid for _, pid in steps(tmp_path, 1)} > {pid for _, pid in done}


def test_two_processes_share_the_trials_of_a_study(tmp_path):
    write_files(tmp_path)
    processes = [start(tmp_path, 6, "0.1") for _ in range(2)]
    for process in processes:
        finish(process)
    trials = Study(make_search(tmp_path), StudyOptions("random", 6, pruner="none")).trials()
    assert [trial.number for trial in trials] == list(range(6))
    assert all(trial.state == "complete" for trial in trials)
    workers = [{pid for _, pid in steps(tmp_path, number)} for number in range(6)]
    # Each trial was run by one of the two, and both had some.
    assert all(len(pids) == 1 for pids in workers)
    assert set().union(*workers) == {process.pid for process in processes}
    assert all(len(steps(tmp_path, number)) == VALIDATIONS for number in range(6))
    # What one process would have drawn alone.
    assert values(trials) == values(
        run(tmp_path / "alone", StudyOptions("random", 6, pruner="none"))
    )


@pytest.mark.parametrize(
    ("changes", "options", "error"),
    [
        ({"job": JOB + "seed=1\n"}, {}, r"with another search \(seed: 1, not 0\)"),
        ({"space": SPACE.replace("32", "64")}, {}, r"\(the space of batch_size\)"),
        ({"space": SPACE + "loss.margin: {choices: [1]}\n"}, {}, r"\(the space of loss.margin\)"),
        ({"metric": "map_at_r"}, {}, r"\(metric: map_at_r, not recall_at_1\)"),
        (
            {"space": "lr: {choices: [0.1]}"},
            {"sampler": "grid"},
            r"\(the space of lr\); take another folder \(--to\) or, .*another --study",
        ),
    ],
)
def test_a_study_of_another_search_is_refused(tmp_path, changes, options, error):
    before = run(tmp_path, StudyOptions("random", 1))
    with pytest.raises(UserError, match=error):
        Study(make_search(tmp_path, **changes), StudyOptions(**options))
    assert Study(make_search(tmp_path), StudyOptions()).trials() == before


def test_a_space_may_be_mended_before_the_first_trial(tmp_path):
    Study(make_search(tmp_path), StudyOptions())
    (trial,) = run(tmp_path, StudyOptions("grid"), space="lr: {choices: [0.1]}")
    assert trial.params == {"lr": 0.1}


def test_another_sampler_or_pruner_may_go_on_but_not_with_a_grid(tmp_path):
    space = "lr: {choices: [0.1, 0.2]}"
    run(tmp_path, StudyOptions("random", 1), space=space)
    assert len(run(tmp_path, StudyOptions("tpe", 2, pruner="none"), space=space)) == 2
    with pytest.raises(UserError, match=r"grid: True, not False"):
        run(tmp_path, StudyOptions("grid", 3), space=space)


def test_run_folders_of_a_study_that_is_gone_are_not_taken_for_those_of_a_new_one(tmp_path):
    run(tmp_path, StudyOptions("random", 1))
    os.unlink(tmp_path / "tune" / "study.db")
    with pytest.raises(UserError, match=r"holds trials of another search \(trial-0000"):
        run(tmp_path, StudyOptions("random", 1))


def test_a_journal_serves_as_storage_and_holds_several_studies(tmp_path):
    journal = str(tmp_path / "study.log")
    for name in ("one", "two"):
        options = StudyOptions("random", 2, storage=journal, name=name)
        trials = run(tmp_path / name, options)
        assert [trial.number for trial in trials] == [0, 1]
    assert not (tmp_path / "one" / "tune" / "study.db").exists()
    kept = Study(make_search(tmp_path / "one"), options, create=False).trials()
    assert kept == trials
    with pytest.raises(UserError, match=r"no study 'job'; --study NAME"):
        Study(make_search(tmp_path / "one"), StudyOptions(storage=journal), create=False)


@pytest.mark.parametrize(
    ("storage", "error"),
    [
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
        ("nosuchbase://host/db", "nosuchbase"),
        ("sqlite://:secret@", "secret"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_in_one_line(tmp_path, storage, error):
    with pytest.raises(UserError, match=r"--storage") as caught:
        run(tmp_path, StudyOptions(storage=storage))
    assert "\n" not in str(caught.value)
    assert (error in str(caught.value)) == (error != "secret")


def test_a_damaged_database_is_told_in_one_line(tmp_path):
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "study.db").write_text("not a database, " * 1000)
    with pytest.raises(UserError, match=r"--storage: file is not a database"):
        run(tmp_path)


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "tune").write_text("")
    with pytest.raises(UserError, match=r"tune: can't be made \(File exists\)"):
        run(tmp_path)


def test_a_url_cannot_be_the_folder_of_a_study(tmp_path):
    search = make_search(tmp_path)
    object.__setattr__(search, "folder", "gs://bucket/tune")
    with pytest.raises(UserError, match=r"gs://bucket/tune: a study needs a local or mounted"):
        Study(search, StudyOptions())


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'needs Optuna: pip install "mildnet\[tune\]"'):
        run(tmp_path)

"""One combination of a grid, chosen by its number: what jobs of an array run."""

import json
import sys
from pathlib import Path

import pytest

from trainer.config import UserError
from trainer.launch.tuning import array
from trainer.launch.tuning.array import gather, index_from, run_combination
from trainer.launch.tuning.study import Study, StudyOptions

from .searches import JOB, make_search, quick_job

SPACE = "lr: {choices: [0.1, 0.01]}\nloss.margin: {low: 0.1, high: 0.2, step: 0.1}\n"


@pytest.fixture
def without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)


def test_each_index_runs_its_combination_in_a_folder_that_names_it(tmp_path, without_optuna):
    search = make_search(tmp_path, SPACE)
    for index in (3, 0, 1, 2):
        run_combination(search, index, job=quick_job)
    names = sorted(path.name for path in (tmp_path / "tune").iterdir())
    assert names == [
        "trial-0000_lr=0.1_loss.margin=0.1",
        "trial-0001_lr=0.1_loss.margin=0.2",
        "trial-0002_lr=0.01_loss.margin=0.1",
        "trial-0003_lr=0.01_loss.margin=0.2",
        "tune.json",
    ]
    config = json.loads((tmp_path / "tune" / names[1] / "config.json").read_text())
    assert (config["lr"], config["loss.margin"]) == (0.1, 0.2)
    trials = gather(search)
    assert [dict(trial.params) for trial in trials] == search.space.combinations()
    assert all(trial.state == "complete" for trial in trials)


def test_a_combination_that_is_complete_is_not_run_again_others_are(tmp_path):
    search = make_search(tmp_path, SPACE)
    runs = []

    def job(config, run_dir, **words):
        runs.append(config.lr)
        if len(runs) == 1:
            raise UserError("the disk was full")
        return quick_job(config, run_dir, **words)

    with pytest.raises(UserError, match="combination 2: the disk was full"):
        run_combination(search, 2, job=job)
    assert gather(search)[0].state == "failed"
    done = run_combination(search, 2, job=job)
    assert run_combination(search, 2, job=job) == done == gather(search)[0]
    assert runs == [0.01, 0.01]


@pytest.mark.parametrize("index", [-1, 4])
def test_there_is_no_combination_beyond_the_grid(tmp_path, index):
    with pytest.raises(UserError, match=r"no combination -?\d: the grid has 4, from 0 to 3"):
        run_combination(make_search(tmp_path, SPACE), index, job=quick_job)
    assert not (tmp_path / "tune").exists()


def test_a_folder_of_another_search_is_refused(tmp_path):
    run_combination(make_search(tmp_path, SPACE), 0, job=quick_job)
    with pytest.raises(UserError, match=r"another search \(steps: 7, not \(not set\)"):
        run_combination(make_search(tmp_path, SPACE, JOB + "steps=7\n"), 1, job=quick_job)
    with pytest.raises(UserError, match=r"another search \(the space of lr\)"):
        gather(make_search(tmp_path, SPACE.replace("0.01", "0.02")))
    with pytest.raises(UserError, match=r"holds trials of another search"):
        Study(make_search(tmp_path, SPACE), StudyOptions())
    Study(make_search(tmp_path / "study", SPACE), StudyOptions())
    with pytest.raises(UserError, match=r"holds a study \(study.db\)"):
        run_combination(make_search(tmp_path / "study", SPACE), 0, job=quick_job)
    with pytest.raises(UserError, match=r"holds no search"):
        gather(make_search(tmp_path / "nothing", SPACE))


def test_a_record_that_is_damaged_is_told(tmp_path):
    search = make_search(tmp_path, SPACE)
    trial = run_combination(search, 0, job=quick_job)
    Path(trial.folder, "trial.json").write_text('{"number": 1}')
    with pytest.raises(UserError, match=r"trial.json: damaged"):
        gather(search)


def test_the_index_comes_from_the_variable_that_the_scheduler_sets():
    assert index_from("MY_INDEX", {"MY_INDEX": "12"}) == 12
    for variable in array.VARIABLES:
        assert index_from("auto", {variable: "3", "OTHER": "4"}) == 3
    # Grid Engine sets the word where there is no array.
    assert index_from("auto", {"SGE_TASK_ID": "undefined", "SLURM_ARRAY_TASK_ID": "0"}) == 0


@pytest.mark.parametrize(
    ("variable", "environment", "error"),
    [
        ("MY_INDEX", {}, r"--index-from-env MY_INDEX: it is not set"),
        ("MY_INDEX", {"MY_INDEX": "1-4"}, r"'1-4' is not a whole number"),
        ("auto", {"MY_INDEX": "1"}, r"none of these is set: SLURM_ARRAY_TASK_ID, "),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "1", "PBS_ARRAY_INDEX": "2"},
            r"several are set \(SLURM_ARRAY_TASK_ID=1, PBS_ARRAY_INDEX=2\); name one",
        ),
    ],
)
def test_an_index_that_is_not_clear_is_refused(variable, environment, error):
    with pytest.raises(UserError, match=error):
        index_from(variable, environment)

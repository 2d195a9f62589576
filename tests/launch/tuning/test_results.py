"""What a search leaves: files, table, page and the best config."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from trainer.config import JobConfig
from trainer.launch.tuning import results
from trainer.launch.tuning.trial import Trial

from .searches import make_search

SPACE = """
lr: {low: 1e-4, high: 1, log: true}
loss: {choices: [triplet_semihard, ntxent]}
loss.margin: {low: 0.1, high: 0.5, step: 0.1}
"""


def trial(number, state, score, lr, margin=None, error=""):
    params = {"loss": "ntxent", "lr": lr}
    if margin is not None:
        params = {"loss": "triplet_semihard", "lr": lr, "loss.margin": margin}
    return Trial(number, params, f"tune/trial-{number:04d}", state, score, 20, 40, 61.0, (), error)


TRIALS = [
    trial(0, "complete", 0.5, 0.01, 0.2),
    trial(1, "pruned", 0.9, 0.02),
    trial(2, "failed", None, 0.5, 0.5, "lr: [bold]too <b>high</b>"),
    trial(3, "complete", 0.75, 0.003, 0.3),
    trial(4, "unfinished", 0.1, 0.004),
    trial(5, "complete", 0.6, 0.0042),
]


def test_the_table_is_sorted_and_the_best_is_a_complete_trial(tmp_path):
    search = make_search(tmp_path, SPACE)
    results.write(search, TRIALS)
    folder = tmp_path / "tune"
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [int(row["trial"]) for row in rows] == [3, 5, 0, 1, 4, 2]
    assert rows[0]["recall_at_1"] == "0.75"
    assert [row["loss.margin"] for row in rows] == ["0.3", "", "0.2", "", "", "0.5"]
    assert rows[5]["recall_at_1"] == ""
    assert rows[5]["error"] == TRIALS[2].error
    found = json.loads((folder / "trials.json").read_text())
    assert (found["best"], found["direction"], found["metric"]) == (3, "maximize", "recall_at_1")
    assert [Trial.from_dict(values).number for values in found["trials"]] == [3, 5, 0, 1, 4, 2]
    best = JobConfig.load(folder / "best.cnf")
    assert best == search.config(TRIALS[3].params)
    assert (best.lr, best.parameters["loss"]["margin"]) == (0.003, 0.3)
    assert best.training.monitor == "recall_at_1"


def test_of_a_loss_the_least_is_best_and_nothing_is_best_before_a_trial_is_complete(tmp_path):
    search = make_search(tmp_path, SPACE, metric="val_loss")
    results.write(search, TRIALS)
    assert json.loads((tmp_path / "tune" / "trials.json").read_text())["best"] == 0
    early = make_search(tmp_path / "early", SPACE)
    results.write(early, TRIALS[1:3])
    assert not (tmp_path / "early" / "tune" / "best.cnf").exists()


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_shows_every_trial_with_its_values_and_why_it_failed(tmp_path, width):
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    results.show(make_search(tmp_path, SPACE), TRIALS, console)
    text = console.export_text()
    assert text.index("0.7500") < text.index("0.6000") < text.index("0.5000")
    assert "loss.margin=0.3" in text
    assert "trial 2 failed: lr: [bold]too <b>high</b>" in text
    many = [trial(number, "complete", number / 100, 0.01) for number in range(40)]
    results.show(make_search(tmp_path, SPACE), many, console)
    assert "and 10 more: see trials.csv" in console.export_text()


def test_a_trial_in_one_line(tmp_path):
    search = make_search(tmp_path, SPACE)
    words = [results.in_one_line(search, trial, TRIALS) for trial in TRIALS[:3]]
    assert words == [
        "trial 0 complete: recall_at_1 0.5000 at step 20; 1 min 1 s; best 0.7500 of trial 3",
        "trial 1 pruned: recall_at_1 0.9000 at step 20; 1 min 1 s; best 0.7500 of trial 3",
        "trial 2 failed: lr: [bold]too <b>high</b>; 1 min 1 s; best 0.7500 of trial 3",
    ]


def test_page_and_picture_show_the_course_and_each_key(tmp_path):
    search = make_search(tmp_path, SPACE)
    results.draw(search, TRIALS)
    html = (tmp_path / "tune" / "trials.html").read_text()
    # The course of the search and three keys.
    assert html.count("data:image/png;base64,") == 4
    assert "Validation Recall@1, percent of 5 trials in order; the best is 75 of trial 3." in html
    assert "against loss.margin of 2 trials" in html
    assert '<span class="mark">best</span>75</td>' in html
    assert "6 trials: 3 complete, 1 pruned, 1 unfinished, 1 failed." in " ".join(html.split())
    assert "too &lt;b&gt;high&lt;/b&gt;" in html
    with Image.open(tmp_path / "tune" / "trials.png") as picture:
        assert picture.size[0] > picture.size[1] > 500


def test_nothing_is_drawn_before_there_is_a_score(tmp_path):
    results.draw(make_search(tmp_path, SPACE), TRIALS[2:3])
    assert not (tmp_path / "tune").exists()


def test_the_picture_of_one_unfinished_trial_has_no_best(tmp_path):
    results.draw(make_search(tmp_path, SPACE), TRIALS[4:5])
    assert "none is complete" in (tmp_path / "tune" / "trials.html").read_text()

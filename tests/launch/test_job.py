"""A whole job: what it leaves, what it refuses, and that its numbers are those of its files."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.launch import job
from trainer.launch.evaluating import evaluate_run
from trainer.launch.run_folder import RunFolder

from .conftest import small_config


def test_a_job_leaves_every_file_of_a_run(finished):
    config, result = finished
    folder = Path(result.run_dir)
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.cnf",
        "config.json",
        "environment.json",
        "training.csv",
        "logs",
        "checkpoints",
        "model",
        "model.keras",
        "evaluation.json",
        "index",
        "neighbours.png",
        "neighbours.json",
        "report.html",
    }
    assert JobConfig.load(folder / "config.cnf") == config
    with Image.open(result.picture) as picture:
        assert min(picture.size) > 300
    rows = list(csv.DictReader((folder / "training.csv").open()))
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert all(float(row["recall_at_1"]) >= 0 for row in rows)


def test_training_raises_recall_on_products_never_seen(finished):
    _, result = finished
    evaluation = json.loads((Path(result.run_dir) / "evaluation.json").read_text())
    assert evaluation["unseen_classes"] is True
    assert evaluation["split"] == "test"
    assert result.trained["map_at_r"] > result.untrained["map_at_r"] + 0.02
    assert evaluation["trained"]["metrics"] == result.trained
    low, high = evaluation["trained"]["intervals"]["recall_at_1"]
    assert low <= result.trained["recall_at_1"] <= high


def test_environment_tells_versions_seed_and_data(finished):
    config, result = finished
    facts = RunFolder(result.run_dir).read_json("environment.json")
    assert facts["seed"] == config.seed
    assert facts["versions"].keys() >= {"tensorflow", "keras", "numpy"}
    assert facts["data"]["train"]["classes"] + facts["data"]["test"]["classes"] < 48
    assert len(facts["data"]["test"]["fingerprint"]) == 64


def test_the_report_shows_the_numbers_of_the_evaluation(finished):
    _, result = finished
    html = Path(result.report).read_text()
    evaluation = json.loads((Path(result.run_dir) / "evaluation.json").read_text())
    for stage in ("untrained", "color_histogram", "trained"):
        value = evaluation[stage]["metrics"]["recall_at_1"]
        low, high = evaluation[stage]["intervals"]["recall_at_1"]
        assert f"{100 * value:.1f} <span" in html
        assert f">{100 * low:.1f} to {100 * high:.1f}<" in html
    assert f"<td>{evaluation['model']['parameters']:,}</td>" in html
    # The neighbours, and the curves of loss, Recall@1 and MAP@R.
    assert html.count("data:image/png;base64,") == 1 + 3
    assert 'src="http' not in html


def test_evaluating_the_run_again_gives_the_same_numbers(finished):
    _, result = finished
    again = evaluate_run(RunFolder.open(result.run_dir))
    assert again.metrics == pytest.approx(result.trained, abs=1e-9)


def test_neighbours_are_sorted_and_leave_the_query_out(finished):
    _, result = finished
    rows = json.loads((Path(result.run_dir) / "neighbours.json").read_text())
    by_query = {}
    for row in rows:
        by_query.setdefault(row["query"], []).append(row)
    assert len(by_query) == 8
    for query, found in by_query.items():
        assert query not in [row["id"] for row in found]
        assert [row["rank"] for row in found] == list(range(1, 9))
        scores = [row["score"] for row in found]
        assert scores == sorted(scores, reverse=True)
        assert all(Path(row["id"]).is_file() for row in found)


def test_a_finished_job_run_again_keeps_its_weights_and_numbers(finished, tmp_path):
    config, result = finished
    copy = tmp_path / "again"
    shutil.copytree(result.run_dir, copy)
    again = job.run(config, run_dir=str(copy))
    assert again.trained == result.trained
    assert again.untrained == result.untrained


def test_a_run_of_another_config_is_refused_and_left_alone(finished, pictures):
    _, result = finished
    before = {p: p.stat().st_mtime_ns for p in Path(result.run_dir).rglob("*") if p.is_file()}
    other = small_config(pictures, "loss.margin=0.5")
    with pytest.raises(
        UserError, match=r"another config \(loss\.margin: 0\.5, not 0\.2\).*--fresh"
    ):
        job.run(other, run_dir=result.run_dir)
    after = {p: p.stat().st_mtime_ns for p in Path(result.run_dir).rglob("*") if p.is_file()}
    assert before == after


def test_a_folder_with_other_files_is_refused(tmp_path, pictures):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not a run's \(thesis\.tex"):
        job.run(small_config(pictures), run_dir=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path, pictures):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file") as error:
        job.run(small_config(pictures), run_dir=str(tmp_path / "file" / "run"))
    assert "\n" not in str(error.value)


def test_two_processes_cannot_train_in_one_folder(finished):
    config, result = finished
    with (
        RunFolder(result.run_dir).locked(),
        pytest.raises(UserError, match="another process"),
    ):
        job.run(config, run_dir=result.run_dir)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train_split=summer"], "train_split='summer' has no images.*train"),
        (["test_split=x", "val_split=x"], "neither test_split='x'"),
        (["sampler.images_per_class=7"], "7"),
        (["batch_size=4000"], "4000|classes"),
        (["train.monitor=triplet_accuracy"], "train.monitor=triplet_accuracy can't be measured"),
        (["lr=0.1", "schedule=cosine", "schedule.final_lr=1"], "schedule.final_lr"),
        (["optimizer.beta_1=2"], "optimizer.beta_1"),
        (["index=hnsw", "index.m=1"], "index.m: m=1 is below 2"),
        (["model.trunk=convnet_smal"], "convnet_smal.*convnet_small"),
        (["model.weights=/nowhere.h5"], "nowhere"),
        (["dataset=items"], "items.csv"),
        (["dataset=items", "data_path=/nowhere"], "/nowhere"),
        (["dataset=items", "data_path="], "data path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_work_is_one_line_before_anything_is_made(
    tmp_path, pictures, overrides, message
):
    with pytest.raises(UserError, match=message) as error:
        job.run(small_config(pictures, *overrides), run_dir=str(tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def items(folder, rows):
    """Write pictures and an items.csv of (label, split) rows."""
    rng = np.random.default_rng(0)
    with open(folder / "items.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for number, (label, split) in enumerate(rows):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", label, split])


def test_classes_with_one_image_cannot_be_learnt_from(tmp_path):
    items(tmp_path, [(n, "train") for n in range(20)] + [("t", "test")] * 2)
    with pytest.raises(UserError, match="8 classes of 2 images or more"):
        job.run(small_config(tmp_path, "dataset=items"), run_dir=str(tmp_path / "run"))


def test_broken_pictures_beyond_the_share_stop_the_job_and_are_named(tmp_path):
    items(tmp_path, [(n // 4, "train") for n in range(32)] + [("t", "test")] * 4)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    (tmp_path / "5.png").write_bytes(b"")
    config = small_config(tmp_path, "dataset=items")
    with pytest.raises(UserError, match="2") as error:
        job.run(config, run_dir=str(tmp_path / "run"))
    assert "\n" not in str(error.value)
    log = (tmp_path / "run" / "bad_images.log").read_text()
    assert "3.png" in log
    assert "5.png" in log


def test_data_without_splits_is_divided_by_class(tmp_path):
    items(tmp_path, [(n // 4, "") for n in range(60)])
    config = small_config(tmp_path, "dataset=items", "steps=2")
    result = job.run(config, run_dir=str(tmp_path / "run"))
    facts = RunFolder(result.run_dir).read_json("environment.json")["data"]
    assert [facts[part]["classes"] for part in ("train", "val", "test")] == [10, 2, 3]
    evaluation = RunFolder(result.run_dir).read_json("evaluation.json")
    assert evaluation["unseen_classes"] is True

"""Trackers: what they write is read back with the tools that users read it with."""

import csv
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.config import UserError, components
from trainer.training.trackers import Trackers
from trainer.training.trackers.csv_log import COLUMNS, CsvLog
from trainer.training.trackers.tensorboard import TensorBoard
from trainer.training.trackers.wandb import WeightsAndBiases

from . import wandb_file

#: What a tracker needs to work without network and keys.
ALONE = {"wandb": {"mode": "offline"}}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "neighbours.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    """Whoever runs the tests, W&B finds no settings and no key, and nobody answers Hyperdash."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYPERDASH_SERVER", "http://127.0.0.1:9")
    monkeypatch.setenv("HYPERDASH_KEY", "sesame")


@pytest.mark.parametrize("name", components("tracker"))
def test_every_tracker_takes_what_a_job_says(name, tmp_path, picture):
    run = tmp_path / "run"
    run.mkdir()
    tracker = components("tracker")[name].build(str(run), **ALONE.get(name, {}))
    tracker.start(0, {"lr": 0.1})
    tracker.log(5, {"loss": 0.5})
    tracker.picture(5, "neighbours/trained", str(picture))
    tracker.finish(5, {"trained/recall_at_1": 0.5})
    tracker.close()
    # Hyperdash has no files: test_hyperdash.py sees what it sends.
    assert list(run.iterdir()) or name == "hyperdash"


@pytest.mark.parametrize("name", components("tracker"))
def test_every_tracker_closes_before_it_starts(name, tmp_path):
    components("tracker")[name].build(str(tmp_path), **ALONE.get(name, {})).close()
    assert not list(tmp_path.iterdir())


def test_tensorboard_reads_scalars_and_config(tmp_path):
    tracker = TensorBoard(str(tmp_path))
    tracker.start(0, {"loss.margin": 0.25})
    tracker.log(10, {"loss": 0.5, "recall_at_1": 0.25})
    tracker.log(20, {"loss": 0.125})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    tags = events.Tags()["tensors"]
    assert set(tags) == {"config", "loss", "recall_at_1"}
    losses = [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors("loss")]
    assert losses == [(10, 0.5), (20, 0.125)]
    text = tf.make_ndarray(events.Tensors("config")[0].tensor_proto).item().decode()
    assert "loss.margin=0.25" in text


def test_tensorboard_shows_pictures_and_final_numbers(tmp_path, picture):
    tracker = TensorBoard(str(tmp_path))
    tracker.start(0, {})
    tracker.picture(20, "neighbours/trained", str(picture))
    tracker.finish(20, {"trained/recall_at_1": 0.75})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    event = events.Tensors("neighbours/trained")[0]
    width, height, png = tf.make_ndarray(event.tensor_proto)[:3]
    assert (event.step, int(width), int(height)) == (20, 30, 20)
    expected = np.asarray(Image.open(picture))
    np.testing.assert_array_equal(tf.io.decode_png(png).numpy(), expected)
    recall = events.Tensors("trained/recall_at_1")[0]
    assert (recall.step, float(tf.make_ndarray(recall.tensor_proto))) == (20, 0.75)


def offline(run_dir, **parameters):
    return WeightsAndBiases(str(run_dir), mode="offline", **parameters)


def test_wandb_keeps_config_numbers_and_pictures(tmp_path, picture):
    run_dir = tmp_path / "shop"
    run_dir.mkdir()
    with Trackers([offline(run_dir, project="p", group="g", tags=("a", "b"))]) as trackers:
        trackers.start(0, {"loss.margin": 0.25, "trackers": ["csv", "wandb"]})
        trackers.log(10, {"loss": 0.5, "recall_at_1": 0.25})
        trackers.log(20, {"loss": 0.125})
        trackers.picture(20, "neighbours/trained", str(picture))
        trackers.finish(20, {"trained/recall_at_1": 0.75})
    (kept,) = wandb_file.read_all(run_dir)
    assert (kept.project, kept.name, kept.group, kept.tags) == ("p", "shop", "g", ("a", "b"))
    assert kept.config == {"loss.margin": 0.25, "trackers": ["csv", "wandb"]}
    first, last = kept.rows
    assert first == {"_step": 10, "loss": 0.5, "recall_at_1": 0.25}
    assert (last["_step"], last["loss"]) == (20, 0.125)
    shown = kept.folder / "files" / last["neighbours/trained/path"]
    np.testing.assert_array_equal(np.asarray(Image.open(shown)), np.asarray(Image.open(picture)))
    assert kept.summary["trained/recall_at_1"] == 0.75
    assert kept.exit_code == 0


def test_a_job_that_goes_on_goes_on_with_its_wandb_run(tmp_path):
    for start, steps in ((0, (10, 20)), (10, (20, 30))):
        with Trackers([offline(tmp_path)]) as trackers:
            trackers.start(start, {})
            for step in steps:
                trackers.log(step, {"loss": 1.0})
            if start:
                trackers.finish(30, {})
    first, second = wandb_file.read_all(tmp_path)
    assert first.run_id == second.run_id == (tmp_path / "wandb" / "run_id").read_text().strip()
    assert [row["_step"] for row in second.rows] == [20, 30]
    # What was cut off is not shown as if it had ended well.
    assert (first.exit_code, second.exit_code) == (1, 0)


def test_wandb_leaves_out_steps_that_it_has_and_keeps_pictures(tmp_path, picture, capfd):
    with Trackers([offline(tmp_path)]) as trackers:
        trackers.start(0, {})
        trackers.log(10, {"loss": 1.0})
        trackers.log(5, {"loss": 2.0})
        trackers.picture(5, "early", str(picture))
    (kept,) = wandb_file.read_all(tmp_path)
    assert [(row["_step"], row["loss"]) for row in kept.rows] == [(10, 1.0)]
    assert "early/path" in kept.rows[0]
    assert "WARNING" not in capfd.readouterr().err


def test_without_a_key_wandb_is_dropped_in_one_line_and_never_asks(tmp_path, caplog, monkeypatch):
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "login", lambda **options: asked.append(options) or False)
    with Trackers([WeightsAndBiases(str(tmp_path))]) as trackers:
        trackers.start(0, {})
        trackers.log(1, {"loss": 1.0})
    assert asked == [{"prompt": False}]
    (record,) = caplog.records
    assert "wandb login" in record.message
    assert "tracker.wandb.mode=offline" in record.message
    assert "\n" not in record.message
    assert not list(tmp_path.iterdir())


def test_wandb_goes_by_its_own_variable_where_the_config_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with Trackers([WeightsAndBiases(str(tmp_path))]) as trackers:
        trackers.start(0, {})
        trackers.log(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
    assert WeightsAndBiases(str(tmp_path), mode="offline").mode == "offline"


def test_wandb_that_is_missing_or_cannot_work_is_told_before_the_job_begins(monkeypatch):
    with pytest.raises(ValueError, match="mode=offline keeps its files on a local disk"):
        offline("gs://bucket/run")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "mildnet\[wandb\]"'):
        offline("run")


def test_csv_leaves_empty_what_was_not_measured(tmp_path):
    tracker = CsvLog(str(tmp_path))
    tracker.start(0, {})
    tracker.log(1, {"loss": 0.1 + 0.2, "unknown": 3.0})
    tracker.log(2, {"recall_at_1": 1.0})
    rows = list(csv.DictReader((tmp_path / "training.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["step"], rows[0]["loss"], rows[0]["recall_at_1"]) == ("1", "0.3", "")
    assert (rows[1]["step"], rows[1]["loss"], rows[1]["recall_at_1"]) == ("2", "", "1")


def test_csv_starts_anew_with_a_job_that_does(tmp_path):
    for start, step in ((0, 1), (1, 2), (0, 3)):
        tracker = CsvLog(str(tmp_path))
        tracker.start(start, {})
        tracker.log(step, {"loss": 1.0})
    rows = list(csv.DictReader((tmp_path / "training.csv").open()))
    assert [row["step"] for row in rows] == ["3"]


def test_a_tracker_that_fails_is_dropped_and_the_others_go_on(tmp_path, caplog):
    class Broken:
        calls = 0

        def start(self, step, config):
            self.calls += 1
            raise OSError("no route to host")

        log = close = start

    broken, good = Broken(), CsvLog(str(tmp_path))
    trackers = Trackers([broken, good])
    trackers.start(0, {})
    trackers.log(1, {"loss": 1.0})
    trackers.close()
    assert broken.calls == 1
    assert "Broken stopped: no route to host" in caplog.text
    assert "1" in (tmp_path / "training.csv").read_text().splitlines()[1]

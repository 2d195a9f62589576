"""Trackers: what they write is read back with the tools that users read it with."""

import csv

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.config import components
from trainer.training.trackers import Trackers
from trainer.training.trackers.csv_log import COLUMNS, CsvLog
from trainer.training.trackers.tensorboard import TensorBoard


@pytest.mark.parametrize("name", components("tracker"))
def test_every_tracker_starts_logs_and_closes(name, tmp_path):
    tracker = components("tracker")[name].build(str(tmp_path))
    tracker.start(0, {"lr": 0.1})
    tracker.log(5, {"loss": 0.5})
    tracker.close()
    assert list(tmp_path.iterdir())


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

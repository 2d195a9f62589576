"""The loop: exact resume, replicas, interrupts, errors."""

import contextlib
import csv
import os
import signal

import keras
import numpy as np
import pytest

from trainer.config import UserError
from trainer.training.interrupts import Interrupted
from trainer.training.loop import _learning_rate, fit
from trainer.training.schedules import constant
from trainer.training.trackers.csv_log import CsvLog

from . import tasks


def trained(run_dir, **changes):
    strategy, task = tasks.make_task(run_dir, **changes)
    with strategy.scope():
        outcome = fit(task)
    return outcome, tasks.weights(task)


def assert_same(one, two):
    assert set(one) == set(two)
    for path, value in one.items():
        assert value.tobytes() == two[path].tobytes(), path


class StopAt:
    """A tracker that acts once at a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def start(self, step, config):
        pass

    def log(self, step, values):
        if step == self.step:
            self.action()

    def close(self):
        pass


VARIANTS = [
    {},
    {"model": {"dropout": 0.5}},
    {"ema": 0.9, "accumulate": 2},
    {"precision": "mixed_float16"},
    {"replicas": 2},
    {"loss": "proxy_anchor", "loss_lr_scale": 2.0, "replicas": 2},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_stopped_job_goes_on_to_the_same_weights(tmp_path, variant):
    whole = trained(tmp_path / "whole", **variant)[1]
    stop = StopAt(7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="step 7") as stopped:
        trained(tmp_path / "parts", trackers=[stop], log_every=1, **variant)
    assert stopped.value.signal_number == signal.SIGTERM
    outcome, again = trained(tmp_path / "parts", **variant)
    assert outcome.step == 10
    assert_same(whole, again)


def test_other_data_gives_other_weights(tmp_path):
    """The check that the equality above can fail."""
    one = trained(tmp_path / "one")[1]
    strategy, task = tasks.make_task(
        tmp_path / "two",
        batches=lambda start: tasks.batches(
            strategy, start, 10, lambda number: tasks.batch_arrays(number + 1)
        ),
    )
    with strategy.scope():
        fit(task)
    other = tasks.weights(task)
    assert any(not np.array_equal(one[path], other[path]) for path in one)


# Few steps with proxies: this rate is far too high for their steep losses, and magnifies rounding.
@pytest.mark.parametrize(
    ("loss", "steps", "atol"),
    [
        ("triplet_semihard", 10, 2e-6),
        ("proxy_anchor", 2, 2e-5),
        ("soft_triple", 2, 2e-5),
        ("triplet_margin", 10, 2e-6),
    ],
)
def test_two_replicas_train_as_one_device_does(tmp_path, loss, steps, atol):
    # A draw that differed in one replica would choose other triplets.
    miner = ("distance_weighted", {"positives": 1}) if loss == "triplet_margin" else None
    log = {}
    for replicas in (1, 2):
        run = tmp_path / str(replicas)
        run.mkdir()
        trackers = [CsvLog(str(run))]
        log[replicas] = trained(
            run,
            replicas=replicas,
            loss=loss,
            miner=miner,
            steps=steps,
            trackers=trackers,
            log_every=1,
        )[1]
        rows = list(csv.DictReader((run / "training.csv").open()))
        log[replicas, "loss"] = [float(row["loss"]) for row in rows]
    assert log[1, "loss"] == pytest.approx(log[2, "loss"], abs=atol)
    assert len(set(log[1, "loss"])) == steps
    for path, value in log[1].items():
        np.testing.assert_allclose(value, log[2][path], atol=atol, err_msg=path)


def test_the_best_validation_decides_the_final_weights(tmp_path):
    scores = iter([0.1, 0.9, 0.3, 0.2])
    seen = []

    strategy, task = tasks.make_task(tmp_path, steps=8, validate_every=2, monitor="recall_at_1")
    weights = []

    def validate():
        weights.append(tasks.weights(task))
        seen.append(next(scores))
        return {"recall_at_1": seen[-1]}

    object.__setattr__(task, "validate", validate)
    object.__setattr__(task, "monitor", "recall_at_1")
    with strategy.scope():
        outcome = fit(task)
    assert seen == [0.1, 0.9, 0.3, 0.2]
    assert (outcome.best_step, outcome.best_score) == (4, 0.9)
    assert_same(weights[1], tasks.weights(task))


def test_a_job_that_is_told_to_stop_early_goes_on_later_to_the_same_weights(tmp_path):
    _, whole = trained(tmp_path / "whole", steps=8, validate_every=2, validate=dict)
    told = []

    def stop_early(step, numbers):
        told.append((step, numbers["recall_at_1"]))
        return len(told) in (2, 4)

    def task():
        return tasks.make_task(
            tmp_path / "stopped",
            steps=8,
            validate_every=2,
            checkpoint_every=100,
            validate=lambda: {"recall_at_1": 0.1 * len(told)},
            stop_early=stop_early,
        )

    strategy, first = task()
    with strategy.scope():
        outcome = fit(first)
    assert (outcome.step, outcome.stopped_early) == (4, True)
    strategy, second = task()
    with strategy.scope():
        outcome = fit(second)
    # At the last step there is nothing left to stop.
    assert (outcome.step, outcome.stopped_early) == (8, False)
    assert told == [(2, 0.0), (4, 0.1), (6, 0.2), (8, pytest.approx(0.3))]
    assert_same(whole, tasks.weights(second))


def test_a_finished_job_is_not_trained_further(tmp_path):
    first = trained(tmp_path)
    second = trained(tmp_path)
    assert first[0].step == second[0].step == 10
    assert_same(first[1], second[1])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned(number):
        images, labels = tasks.batch_arrays(number)
        return (np.full_like(images, np.nan) if number == 7 else images), labels

    strategy, task = tasks.make_task(
        tmp_path, batches=lambda start: tasks.batches(strategy, start, 10, poisoned)
    )
    with strategy.scope(), pytest.raises(UserError, match=r"not a finite number.*step 5 is kept"):
        fit(task)
    assert os.listdir(tmp_path / "checkpoints") == ["step-000000005.npz"]


def test_a_checkpoint_of_another_config_or_data_set_is_refused(tmp_path):
    trained(tmp_path)
    for name in ("config", "data"):
        identity = {"config": "c", "data": "d"} | {name: "other"}
        with pytest.raises(UserError, match=f"another {name}.*--fresh"):
            trained(tmp_path, identity=identity)
    assert len(os.listdir(tmp_path / "checkpoints")) == 2


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(UserError, match="differ in"):
        trained(tmp_path, model={"norm": False})


def test_a_tracker_that_fails_does_not_stop_the_job(tmp_path, caplog):
    def fail():
        raise RuntimeError("no network")

    outcome, _ = trained(tmp_path, trackers=[StopAt(2, fail)], log_every=1)
    assert outcome.step == 10
    assert "no network" in caplog.text


def test_training_csv_reads_as_if_the_job_had_never_stopped(tmp_path):
    for name, runs in (("whole", [None]), ("parts", [7, None])):
        (tmp_path / name).mkdir()
        for stop in runs:
            log = CsvLog(str(tmp_path / name))
            stopper = StopAt(stop, lambda: os.kill(os.getpid(), signal.SIGINT))
            with contextlib.suppress(Interrupted):
                trained(tmp_path / name, trackers=[log, stopper], log_every=1)
    rows = {}
    for name in ("whole", "parts"):
        rows[name] = list(csv.DictReader((tmp_path / name / "training.csv").open()))
        for row in rows[name]:
            assert float(row.pop("images_per_second")) > 0
    assert rows["whole"] == rows["parts"]
    assert [int(row["step"]) for row in rows["whole"]] == list(range(1, 11))


def test_the_log_has_the_mean_loss_since_the_last_row(tmp_path):
    for every in (1, 5):
        (tmp_path / str(every)).mkdir()
        trained(
            tmp_path / str(every), trackers=[CsvLog(str(tmp_path / str(every)))], log_every=every
        )
    single, pooled = (
        [float(row["loss"]) for row in csv.DictReader((tmp_path / n / "training.csv").open())]
        for n in ("1", "5")
    )
    assert pooled == pytest.approx([np.mean(single[:5]), np.mean(single[5:])], rel=1e-5)


def test_an_error_in_the_data_saves_what_was_trained(tmp_path):
    def broken(number):
        if number == 7:
            raise ValueError("this picture is gone")
        return tasks.batch_arrays(number)

    strategy, task = tasks.make_task(
        tmp_path, batches=lambda start: tasks.batches(strategy, start, 10, broken)
    )
    with strategy.scope(), pytest.raises(UserError, match="training stopped") as error:
        fit(task)
    assert "\n" not in str(error.value)
    assert "step-000000007.npz" in os.listdir(tmp_path / "checkpoints")


def test_the_rate_that_is_logged_is_that_before_the_factors_of_parts():
    schedule = constant(0.1, 10, 5)
    for scale in (1.0, 0.01):
        groups = [(keras.optimizers.SGD(schedule.scaled(scale)), [])]
        assert _learning_rate(groups, 3) == pytest.approx(0.1)

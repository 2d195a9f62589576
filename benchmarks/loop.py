"""The training loop against a bare compiled step: same model, loss, optimizer and batch in memory.

The bare side is what one writes by hand: a `tf.function` with a gradient tape and
`optimizer.apply`, called in a `for` loop over the same dataset. Goal: the loop costs at most 5%.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.report import machine, print_table
from trainer import losses, models
from trainer.config.train_options import TrainOptions
from trainer.training.groups import parameter_groups
from trainer.training.loop import Task, fit
from trainer.training.trackers import Tracker, Trackers

EVERY = 50


class Clock(Tracker):
    """A tracker that notes when each report comes."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Nothing to prepare."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note the time."""
        self.times.append((step, time.perf_counter()))

    def seconds_per_step(self) -> float:
        """Return the mean between the first report, which pays for compiling, and the last."""
        (first, start), (last, end) = self.times[0], self.times[-1]
        return (end - start) / (last - first)


def build(size: int) -> tuple[keras.Model, keras.losses.Loss]:
    """Return the model and loss that both sides train."""
    keras.utils.set_random_seed(0)
    return models.build("mildnet", image_size=size), losses.get("triplet_semihard", margin=0.2)


def dataset(batch: int, size: int) -> tf.data.Dataset:
    """Return one batch in memory, again and again."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(batch // 4), 4).astype(np.int64)
    return tf.data.Dataset.from_tensors({"image": images, "label": labels}).repeat()


def bare(steps: int, batch: int, size: int, learning_rate: float = 0.001) -> float:
    """Return the seconds per step of a hand-written step."""
    model, loss = build(size)
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        weights = [variable.value for variable in model.trainable_variables]
        optimizer.apply(tape.gradient(value, weights), model.trainable_variables)
        return value

    start, number = 0.0, 0
    for number, data in enumerate(dataset(batch, size).take(steps), start=1):
        step(data["image"], data["label"])
        if number == EVERY:
            start = time.perf_counter()
    return (time.perf_counter() - start) / (number - EVERY)


def loop(steps: int, batch: int, size: int, learning_rate: float = 0.001) -> float:
    """Return the seconds per step of the library's loop, with its reports on."""
    model, loss = build(size)
    clock = Clock()
    with tempfile.TemporaryDirectory() as run_dir:
        fit(
            Task(
                model=model,
                loss=loss,
                example_rows=1,
                groups=parameter_groups(
                    model, loss, lambda scale: keras.optimizers.Adam(learning_rate * scale)
                ),
                batches=lambda start: dataset(batch, size),
                images_per_batch=batch,
                total_steps=steps,
                steps_per_epoch=steps + 1,
                options=TrainOptions(log_every=EVERY, checkpoint_every=steps + 1),
                run_dir=run_dir,
                identity={},
                trackers=Trackers([clock]),
            )
        )
    return clock.seconds_per_step()


def main(argv: list[str]) -> None:
    """Measure both sides in turn, several times, and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    rows = []
    for batch, size in ((32, 64), (64, 64), (32, 112)):
        bare_times, loop_times = [], []
        for _ in range(options.rounds):
            bare_times.append(bare(options.steps, batch, size))
            loop_times.append(loop(options.steps, batch, size))
        one, two = statistics.median(bare_times), statistics.median(loop_times)
        rows.append(
            [
                f"{batch} images of {size} px",
                1000 * one,
                1000 * two,
                f"{100 * (two / one - 1):+.1f}%",
            ]
        )
    print_table(
        "Training loop against a bare compiled step (goal: at most +5%)",
        ["batch", "bare, ms/step", "loop, ms/step", "overhead"],
        rows,
    )
    print(machine("tensorflow", "keras"))

"""Training steps against the learnt centers of very many classes: all of them, or sampled ones.

Each row is a process of its own, which trains with `arcface` and Adam by the step that jobs train
with, behind a net of one layer, so that what is measured is the loss and its update. Memory is the
highest above that of the loaded library: centers, Adam's moments, and what making and moving them
takes. The rival is pytorch-metric-learning's `ArcFaceLoss` with torch's Adam, over all classes; how
to make its environment is said in `tests/reference/README.md`.

    python -m benchmarks softmax --rival-python .venv-pml/bin/python

A row that does not fit into `--memory-gb` is reported as such.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = {"full": "mildnet, all", "sampled": "mildnet, sampled", "rival": "pytorch, all"}
SIDE = 8


def main(argv: list[str]) -> None:
    """Run the benchmark with the options in `argv` and print its table."""
    options = _options().parse_args(argv)
    if options.measure:
        _worker(options)
        return
    import psutil

    from benchmarks.report import machine, print_table

    available = psutil.virtual_memory().available / 1e9
    if options.memory_gb is None:
        options.memory_gb = 0.8 * available
    print(machine("tensorflow", "keras"))
    rows: list[list[object]] = []
    for classes in options.classes:
        full = _row(rows, "full", classes, classes, options, None)
        sampled = min(max(round(options.share * classes), options.least), classes)
        _row(rows, "sampled", classes, sampled, options, full)
        if options.rival_python:
            _row(rows, "rival", classes, classes, options, full)
    print_table(
        f"arcface, {options.batch} images a step, D = {options.dim}, {options.threads} threads; "
        f"{options.memory_gb:.3g} GB to use",
        ["classes", "softmax over", "library", "ms a step", "MB", "time / all", "memory / all"],
        rows,
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks softmax", description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--share", type=float, default=0.1, help="of the classes, sampled")
    parser.add_argument("--least", type=int, default=4096, help="sampled classes at the least")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rival-python", help="a Python with pytorch-metric-learning")
    parser.add_argument(
        "--memory-gb", type=float, help="what a row may take; default: 80%% of what is available"
    )
    parser.add_argument(
        "--measure", nargs=3, metavar=("SIDE", "CLASSES", "SAMPLED"), help=argparse.SUPPRESS
    )
    return parser


def _row(
    rows: list[list[object]],
    side: str,
    classes: int,
    sampled: int,
    options: argparse.Namespace,
    full: dict[str, float] | None,
) -> dict[str, float] | None:
    """Measure in a process of its own, add the row, and return what was measured."""
    from benchmarks.report import measured_worker

    python = options.rival_python if side == "rival" else sys.executable
    command = [python, str(Path(__file__).resolve())]
    command += ["--measure", side, str(classes), str(sampled)]
    for name in ("batch", "dim", "threads", "repeats", "memory_gb"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    cells: list[object] = [f"{classes:,}", f"{sampled:,}", NAMES[side]]
    # Centers, two moments and a gradient of all, before a step has begun to compute.
    tables = (4 if side != "sampled" else 3) * 4 * classes * options.dim / 1e9
    found = measured_worker(command) if tables < options.memory_gb else None
    if found is None:
        cells.append(f"needs more than {options.memory_gb:.3g} GB")
    else:
        cells += [1000 * found["seconds"], found["mb"]]
        if full:
            cells += [found["seconds"] / full["seconds"], found["mb"] / full["mb"]]
    rows.append([*cells, *[""] * (7 - len(cells))])
    print(*(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in cells), flush=True)
    return found


def _worker(options: argparse.Namespace) -> None:
    """Measure one row: prints `ready`, waits for a line, prints seconds as JSON.

    Runs in the rival's environment too: nothing but the standard library, numpy and it.
    """
    side, classes, sampled = options.measure[0], *map(int, options.measure[1:])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    import numpy as np

    from benchmarks.worker import answer

    random = np.random.default_rng(0)
    pictures = random.normal(size=(options.batch, SIDE, SIDE, 3)).astype("f4")

    def labels() -> Any:
        return random.integers(0, classes, options.batch)

    make = _torch_step if side == "rival" else _step
    begin = make(pictures, labels, options.dim, options.threads)
    answer(options.memory_gb, lambda: begin(classes, sampled), options.repeats, skip=2)


Begin = Callable[[int, int], Callable[[], object]]


def _step(pictures: Any, labels: Callable[[], Any], dim: int, threads: int) -> Begin:
    """Load the library; return what makes the centers of classes, and steps that train them."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    from trainer import losses
    from trainer.training.groups import parameter_groups
    from trainer.training.step import TrainStep

    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, keras.layers.Dense(dim)(keras.layers.Flatten()(inputs)))

    def batches() -> Any:
        while True:
            yield {"image": pictures, "label": labels()}

    def begin(classes: int, sampled: int) -> Callable[[], object]:
        loss = losses.get("arcface", sampled_classes=sampled)
        loss.prepare(range(classes), dim)
        groups = parameter_groups(model, loss, lambda scale: keras.optimizers.Adam(0.001 * scale))
        step = TrainStep(model, loss, groups=groups, rows=len(pictures))
        signature = {
            "image": tf.TensorSpec(pictures.shape),
            "label": tf.TensorSpec((len(pictures),), tf.int64),
        }
        coming = iter(tf.data.Dataset.from_generator(batches, output_signature=signature))
        return lambda: float(step.run(coming)["loss"])

    return begin


def _torch_step(pictures: Any, labels: Callable[[], Any], dim: int, threads: int) -> Begin:
    import torch
    from pytorch_metric_learning import losses  # type: ignore[import-not-found]

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.from_numpy(pictures.reshape(len(pictures), -1))
    model = torch.nn.Linear(x.shape[1], dim)

    def begin(classes: int, sampled: int) -> Callable[[], object]:
        loss = losses.ArcFaceLoss(classes, dim)
        adam = torch.optim.Adam([*model.parameters(), *loss.parameters()], 0.001)

        def step() -> object:
            adam.zero_grad()
            value = loss(model(x), torch.from_numpy(labels()))
            value.backward()
            adam.step()
            return value.item()

        return step

    return begin


if __name__ == "__main__":
    main(sys.argv[1:])

"""Losses over a labelled batch, forward and backward: time and memory beside other libraries'.

Every row runs in a process of its own, in which one library is loaded, with the same threads, the
same embeddings (float32, length 1) and the same labels. Rivals live in environments of their own;
`tests/reference/README.md` says how to make them.

    python -m benchmarks losses --tfa-python .venv-tfa/bin/python --pml-python .venv-pml/bin/python
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARGIN = 0.2

#: Loss -> the libraries that have it.
LOSSES = {
    "triplet_semihard": ("tfa", "pml"),
    "triplet_hard": ("tfa", "pml"),
    "batch_all": ("pml",),
    "multi_similarity": ("pml",),
    "contrastive": ("pml",),
    "ntxent": ("pml",),
}
NAMES = {
    "ours": "mildnet",
    "ours-xla": "mildnet, XLA",
    "tfa": "tensorflow-addons",
    "pml": "pytorch-metric-learning",
}


def main(argv: list[str]) -> None:
    """Run the benchmark with the options in `argv` and print its table."""
    options = _options().parse_args(argv)
    if options.measure:
        _worker(options.measure, options)
        return
    from benchmarks.report import machine, print_table

    rows: list[list[object]] = []
    about = machine("tensorflow", "keras")
    for per_class in options.per_class:
        for loss in options.losses:
            ours = _row(rows, "ours", loss, options.batch, per_class, options)
            if loss == "triplet_semihard":
                _row(rows, "ours-xla", loss, options.batch, per_class, options, ours)
            for rival in LOSSES[loss]:
                if getattr(options, f"{rival}_python"):
                    _row(rows, rival, loss, options.batch, per_class, options, ours)
    if options.large:
        for loss in options.losses:
            _row(rows, "ours", loss, options.large, options.per_class[0], options)
    print(about)
    print_table(
        f"losses, forward and backward, D = {options.dim}, {options.threads} threads",
        ["loss", "batch", "library", "ms", "extra MB", "time / ours", "memory / ours"],
        rows,
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks losses", description=__doc__)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--large", type=int, default=4096, help="batch of ours alone; 0: none")
    parser.add_argument("--per-class", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tfa-python", help="a Python with tensorflow-addons")
    parser.add_argument("--pml-python", help="a Python with pytorch-metric-learning")
    parser.add_argument(
        "--memory-gb", type=float, default=22, help="a row that needs more is reported as such"
    )
    parser.add_argument("--measure", nargs=2, metavar=("LIBRARY", "LOSS"), help=argparse.SUPPRESS)
    return parser


def _row(
    rows: list[list[object]],
    library: str,
    loss: str,
    batch: int,
    per_class: int,
    options: argparse.Namespace,
    ours: dict[str, float] | None = None,
) -> dict[str, float] | None:
    """Measure in a process of its own, add the row, and return what was measured."""
    python = getattr(options, f"{library}_python", None) or sys.executable
    from benchmarks.report import measured_worker

    command = [python, str(Path(__file__).resolve()), "--measure", library, loss]
    for name, value in (("batch", batch), ("dim", options.dim), ("threads", options.threads)):
        command += [f"--{name}", str(value)]
    command += ["--per-class", str(per_class), "--repeats", str(options.repeats)]
    command += ["--memory-gb", str(options.memory_gb)]
    found = measured_worker(command)
    cells: list[object] = [loss, f"{batch // per_class} x {per_class}", NAMES[library]]
    if found is None:
        rows.append([*cells, f"needs more than {options.memory_gb:g} GB", "", "", ""])
        return None
    cells += [1000 * found["seconds"], found["mb"]]
    if ours:
        cells += [found["seconds"] / ours["seconds"], found["mb"] / max(ours["mb"], 1.0)]
    rows.append([*cells, *[""] * (7 - len(cells))])
    print(*(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in cells), flush=True)
    return found


def _worker(measure: list[str], options: argparse.Namespace) -> None:
    """Measure one loss of one library: prints `ready`, waits for a line, prints seconds as JSON.

    Runs in the rivals' environments: nothing but the standard library, numpy and them.
    """
    library, loss = measure
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    import numpy as np

    from benchmarks.worker import answer

    random = np.random.default_rng(0)
    labels = np.arange(options.batch) // options.per_class[0]
    centres = random.normal(size=(labels[-1] + 1, options.dim))
    x = centres[labels] + 1.5 * random.normal(size=(options.batch, options.dim))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    makers = {"ours": _ours, "ours-xla": _ours, "tfa": _tfa, "pml": _pml}
    call = makers[library](loss, labels, x, library == "ours-xla", options.threads)
    answer(options.memory_gb, lambda: call, options.repeats, skip=1)


def _compiled(
    function: Callable[..., Any], labels: Any, x: Any, jit: bool | None, threads: int
) -> Callable[[], object]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)

    @tf.function(jit_compile=jit)
    def step(y: Any, e: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(e)
            value = function(y, e)
        return value, tape.gradient(value, e)

    y, e = tf.constant(labels), tf.constant(x)
    step.get_concrete_function(y, e)
    tf.linalg.matmul(e[:64], e[:64], transpose_b=True).numpy()
    return lambda: [part.numpy() for part in step(y, e)]


def _ours(loss: str, labels: Any, x: Any, jit: bool, threads: int) -> Callable[[], object]:
    from trainer import losses

    triplets = loss.startswith("triplet") or loss == "batch_all"
    function = losses.get(loss, **({"margin": MARGIN} if triplets else {}))
    return _compiled(function, labels, x, jit or None, threads)


def _tfa(loss: str, labels: Any, x: Any, jit: bool, threads: int) -> Callable[[], object]:
    import tensorflow_addons as tfa  # type: ignore[import-not-found]

    theirs = {
        "triplet_semihard": tfa.losses.triplet_semihard_loss,
        "triplet_hard": tfa.losses.triplet_hard_loss,
    }[loss]
    return _compiled(lambda y, e: theirs(y, e, margin=MARGIN), labels, x, None, threads)


def _pml(loss: str, labels: Any, x: Any, jit: bool, threads: int) -> Callable[[], object]:
    import torch
    from pytorch_metric_learning import (  # type: ignore[import-not-found]
        losses,
        miners,
    )

    torch.set_num_threads(threads)
    miner, function = {
        "triplet_semihard": lambda: (
            miners.TripletMarginMiner(MARGIN, "semihard"),
            losses.TripletMarginLoss(MARGIN),
        ),
        "triplet_hard": lambda: (miners.BatchHardMiner(), losses.TripletMarginLoss(MARGIN)),
        "batch_all": lambda: (None, losses.TripletMarginLoss(MARGIN)),
        "multi_similarity": lambda: (
            miners.MultiSimilarityMiner(0.1),
            losses.MultiSimilarityLoss(),
        ),
        "contrastive": lambda: (None, losses.ContrastiveLoss()),
        "ntxent": lambda: (None, losses.NTXentLoss(0.07)),
    }[loss]()
    y = torch.from_numpy(labels)
    e = torch.from_numpy(x).requires_grad_()
    torch.matmul(e[:64], e[:64].T)

    def call() -> object:
        e.grad = None
        function(e, y, miner(e, y) if miner else None).backward()
        return e.grad

    return call


if __name__ == "__main__":
    main(sys.argv[1:])

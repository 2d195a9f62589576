"""A loss against a memory of batches, forward and backward, beside the bare matrix products.

What cannot be done without is the product of a batch with all that is remembered, and that of the
gradient with it. A loss adds masks, its formula, and the moving up of the memory. Each row is a
compiled step on embeddings that are there already; the network that makes them is not in it.

    python -m benchmarks memory --pml-python .venv-pml/bin/python
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.report import machine, median_seconds, print_table

LOSSES = (
    "contrastive_similarity",
    "contrastive",
    "multi_similarity",
    "supcon",
    "ntxent",
    "circle",
    "triplet_hard",
)

PML = """
import sys, time, statistics
import numpy as np, torch
from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory
from pytorch_metric_learning.distances import CosineSimilarity
size, rows, dim, threads, repeats = map(int, sys.argv[1:])
torch.set_num_threads(threads)
memory = CrossBatchMemory(ContrastiveLoss(1, 0.5, distance=CosineSimilarity()), dim, size)
random = np.random.default_rng(0)
seconds = []
for number in range(-(-size // rows) + repeats):
    x = torch.tensor(random.normal(size=(rows, dim)).astype("f4"), requires_grad=True)
    y = torch.tensor(random.integers(0, 2000, rows // 2).repeat(2))
    if number >= -(-size // rows):
        start = time.perf_counter()
        memory(x, y).backward()
        seconds.append(time.perf_counter() - start)
    else:
        memory.add_to_memory(x.detach(), y, rows)
print(statistics.median(seconds))
"""


def main(argv: list[str]) -> None:
    """Run the benchmark with the options in `argv` and print its table."""
    options = _options().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(options.batch, options.dim)), tf.float32)
    labels = tf.constant(np.repeat(random.integers(0, 2000, options.batch // 2), 2))
    bare = median_seconds(_products(x, options), options.repeats, warmup=2)
    rows: list[list[object]] = [["the two matrix products", 1000 * bare, 1.0]]
    for name in options.losses:
        for kind, call in _steps(name, labels, x, options).items():
            seconds = median_seconds(call, options.repeats, warmup=2)
            rows.append([f"{name}, {kind}", 1000 * seconds, seconds / bare])
    if options.pml_python:
        seconds = _pml(options)
        words = "pytorch-metric-learning, contrastive, against the memory alone"
        rows.append([words, 1000 * seconds, seconds / bare])
    print(machine("tensorflow", "keras"))
    print_table(
        f"batch {options.batch}, memory {options.size} x {options.dim}, forward and backward, "
        f"{options.threads} threads",
        ["step", "ms", "time / products"],
        rows,
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--size", type=int, default=32000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--pml-python", help="a Python with pytorch-metric-learning")
    return parser


def _products(x: Any, options: argparse.Namespace) -> Callable[[], object]:
    import tensorflow as tf

    random = np.random.default_rng(1)
    memory = tf.constant(random.normal(size=(options.size, options.dim)), tf.float32)

    @tf.function
    def products(x: Any, memory: Any) -> Any:
        similarity = tf.matmul(x, memory, transpose_b=True)
        return tf.matmul(similarity, memory)

    return lambda: products(x, memory).numpy()


def _steps(
    name: str, labels: Any, x: Any, options: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    """Return compiled steps of a loss within the batch, and with a memory that is full."""
    import tensorflow as tf

    from trainer import losses

    loss = losses.get(name)
    memory = losses.get_memory("xbm", loss, size=options.size)
    memory.prepare(options.dim)
    random = np.random.default_rng(2)
    memory.embeddings.assign(random.normal(size=(options.size, options.dim)))
    memory.labels.assign(random.integers(0, 2000, options.size))
    memory.filled.assign(options.size)

    def compiled(function: Any, jit: bool | None) -> Callable[[], object]:
        @tf.function(jit_compile=jit)
        def step(labels: Any, x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(labels, x)
            return value, tape.gradient(value, x)

        return lambda: [part.numpy() for part in step(labels, x)]

    return {
        "batch alone": compiled(loss, None),
        "batch and memory": compiled(memory, None),
        "batch and memory, XLA": compiled(memory, True),
    }


def _pml(options: argparse.Namespace) -> float:
    numbers = (options.size, options.batch, options.dim, options.threads, options.repeats)
    command = [options.pml_python, "-c", PML, *map(str, numbers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])

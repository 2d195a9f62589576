"""All exact retrieval metrics against the bare matrix product and against FAISS with metrics.

The set has the shape of Stanford Online Products' test half: 60,502 embeddings of 1,024 dimensions
in 11,316 classes, generated. Every method ranks all others for every image.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import machine, peak_memory, print_table
from trainer.retrieval.metrics import evaluate

KS = (1, 10, 100, 1000)

PML = """
import sys, time
import numpy as np, torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
x = torch.from_numpy(np.load(sys.argv[1]))
y = torch.from_numpy(np.load(sys.argv[2]))
names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
calculator = AccuracyCalculator(include=names, k="max_bin_count", device=torch.device("cpu"))
start = time.perf_counter()
found = calculator.get_accuracy(x, y)
print(time.perf_counter() - start, found["precision_at_1"], found["mean_average_precision_at_r"])
"""


def catalogue(images: int, classes: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit embeddings around a centre per class, and labels in random order."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(images) % classes)
    embeddings = random.standard_normal((images, dim), dtype=np.float32)
    embeddings *= 4.0
    embeddings += random.standard_normal((classes, dim), dtype=np.float32)[labels]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings, labels


def bare_product(embeddings: np.ndarray) -> None:
    """Multiply all embeddings with all, block by block, and do nothing with the result."""
    rows = max(1, 128 * 2**20 // (4 * len(embeddings)))
    out = np.empty((rows, len(embeddings)), np.float32)
    for low in range(0, len(embeddings), rows):
        block = embeddings[low : low + rows]
        np.matmul(block, embeddings.T, out=out[: len(block)])


def faiss_and_metrics(embeddings: np.ndarray, labels: np.ndarray, depth: int) -> dict[str, float]:
    """Search with FAISS flat to `depth`, and compute from that what it suffices for."""
    import faiss

    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    sizes = np.bincount(labels)
    sums: dict[str, float] = {}
    places = np.arange(1, depth)
    for low in range(0, len(embeddings), 4096):
        rows = np.arange(low, min(low + 4096, len(embeddings)))
        found = index.search(embeddings[rows], depth)[1]
        # The query itself is usually first; otherwise the last neighbour goes.
        own = found == rows[:, None]
        own[~own.any(axis=1), -1] = True
        right = labels[found[~own].reshape(len(rows), depth - 1)] == labels[rows][:, None]
        relevant = sizes[labels[rows]] - 1
        keep = relevant > 0
        right, relevant = right[keep], relevant[keep]
        precision = right.cumsum(axis=1) / places * right
        within = places <= relevant[:, None]
        first = np.where(right.any(axis=1), right.argmax(axis=1) + 1, np.inf)
        values: dict[str, np.ndarray] = {f"recall_at_{k}": first <= k for k in KS}
        values |= {f"precision_at_{k}": right[:, :k].mean(axis=1) for k in KS}
        values["r_precision"] = (right & within).sum(axis=1) / relevant
        values["map_at_r"] = (precision * within).sum(axis=1) / relevant
        values["map"] = precision.sum(axis=1) / relevant
        values["mrr"] = 1 / first
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value.sum())
    queries = int((sizes[labels] > 1).sum())
    return {name: value / queries for name, value in sums.items()}


def pml_metrics(python: str, embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Return the seconds pytorch-metric-learning's AccuracyCalculator takes, in its own Python."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("embeddings.npy", "labels.npy")]
        for file, array in zip(files, (embeddings, labels), strict=True):
            np.save(file, array)
        call = [python, "-c", PML, *files]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0])


def main(argv: list[str]) -> None:
    """Measure, check that the methods agree, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks evaluation")
    parser.add_argument("--small", action="store_true", help="a tenth of the images: a quick look")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the median counts")
    parser.add_argument("--pml-python", help="a Python with pytorch-metric-learning and faiss")
    options = parser.parse_args(argv)
    images, classes = (6_050, 1_132) if options.small else (60_502, 11_316)
    embeddings, labels = catalogue(images, classes, 1024)

    results: dict[str, dict[str, float]] = {}

    def ours() -> None:
        results["ours"] = evaluate(embeddings, labels, ks=KS).metrics

    def ours_by_rows() -> None:
        # One image that does not search: queries and gallery are no longer the same.
        is_query = np.arange(images) > 0
        evaluate(embeddings, labels, is_query=is_query, is_gallery=is_query | True, ks=KS)

    def faiss() -> None:
        results["faiss"] = faiss_and_metrics(embeddings, labels, 1001)

    methods: dict[str, Callable[[], None]] = {
        "bare blocked matrix product": lambda: bare_product(embeddings),
        "mildnet, all metrics, intervals": ours,
        "the same, queries other than gallery": ours_by_rows,
        "FAISS flat top-1001, then metrics": faiss,
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    memory: dict[str, float] = {}
    bare_product(embeddings[:4096])  # wakes the BLAS threads
    # Round by round, so that a slow spell of the machine falls on all of them.
    for number in range(options.repeats):
        for name, call in methods.items():
            print(f"round {number + 1}: {name} ...", file=sys.stderr)
            with peak_memory() as peak:
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
            memory[name] = max(memory.get(name, 0.0), peak.mb)
    for name in ("recall_at_1", "recall_at_1000", "r_precision", "map_at_r"):
        difference = abs(results["ours"][name] - results["faiss"][name])
        assert difference < 1e-4, f"{name} differs by {difference}"

    median = {name: statistics.median(values) for name, values in seconds.items()}
    if options.pml_python:
        name = "pytorch-metric-learning, R metrics only"
        median[name] = pml_metrics(options.pml_python, embeddings, labels)
    bare = next(iter(median.values()))
    print_table(
        f"Evaluation of {images:,} embeddings x 1,024, {classes:,} classes, each against all",
        ("method", "seconds", "x bare product", "memory above embeddings, MB"),
        [
            (name, value, value / bare, f"{memory[name]:.0f}" if name in memory else "-")
            for name, value in median.items()
        ],
    )
    print(machine("numpy", "faiss-cpu"))

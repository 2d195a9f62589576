"""Milvus Lite beside FAISS, up to a million vectors on one machine: the same search, both sides.

The embeddings are those of `python -m benchmarks search`: pictures of products in categories. Each
side builds from the same array, is saved, and is loaded by a fresh process, whose growth is its
memory: Milvus Lite runs in that process. Recall is against all cosines, decided in float64.

Graphs are as wide on both sides (`--m`, `--ef-construction`, `--ef-search`). Milvus Lite keeps one
for each 100,000 to 200,000 vectors, FAISS one for all. `--uri` measures a Milvus elsewhere in its
place; its memory and disk are not ours to see.
"""

from __future__ import annotations

import argparse
import os
import sys


def main(argv: list[str]) -> None:
    """Measure both sides at each size and print a table."""
    options = _options().parse_args(argv)
    # What FAISS takes within Milvus Lite's own threads is told to it by this alone, when it loads.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import numpy as np

    from benchmarks.report import machine, print_table
    from benchmarks.search import catalogue
    from trainer.config import UserError
    from trainer.retrieval.speed import SearchTask, measure_index

    print(machine("pymilvus", "milvus-lite", "faiss-cpu", "numpy"))
    rows = []
    for images in options.images:
        embeddings = catalogue(images, options.dim).embeddings
        queries = np.sort(np.random.default_rng(0).choice(images, options.queries, replace=False))
        task = SearchTask.of(embeddings, queries, np.arange(images), 10)
        del embeddings
        for name, kind, parameters in _sides(options):
            try:
                found = measure_index(
                    kind,
                    task,
                    parameters=parameters,
                    threads=options.threads,
                    repeats=options.repeats,
                )
            except UserError as error:
                print(f"{name}, {images:,} items: {error}", file=sys.stderr, flush=True)
                continue
            for row in found:
                cells: list[object] = [
                    f"{images:,}",
                    name,
                    row.build_seconds,
                    "" if row.resident_bytes is None else row.resident_bytes / 1e6,
                    row.file_bytes / 1e6,
                    f"{row.queries_per_second:,.0f}",
                    1000 * row.p50,
                    1000 * row.p95,
                    f"{row.recall:.4f}",
                ]
                rows.append(cells)
                print(*(f"{c:.4g}" if isinstance(c, float) else c for c in cells), flush=True)
    print_table(
        f"{options.queries} queries, D = {options.dim}, threads: {options.threads}",
        [
            "items",
            "index",
            "build s",
            "memory MB",
            "disk MB",
            "queries/s",
            "p50 ms",
            "p95 ms",
            "recall@10",
        ],
        rows,
    )


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks milvus", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=100)
    parser.add_argument("--ef-search", type=int, default=64)
    parser.add_argument("--uri", default="", help="a Milvus to measure instead of Milvus Lite")
    parser.add_argument("--only", nargs="+", help="names of rows, such as 'milvus hnsw'")
    return parser


def _sides(options: argparse.Namespace) -> list[tuple[str, str, dict[str, object]]]:
    """Return the name of each row, the index and its parameters."""
    at = {"uri": options.uri, "collection": "mildnet_benchmark"}
    graph = {
        "m": options.m,
        "ef_construction": options.ef_construction,
        "ef_search": options.ef_search,
    }
    sides: list[tuple[str, str, dict[str, object]]] = [
        ("faiss flat", "flat", {}),
        ("milvus flat", "milvus", {"index_type": "flat", **at}),
        ("faiss hnsw", "hnsw", dict(graph)),
        ("milvus hnsw", "milvus", {"index_type": "hnsw", **at, **graph}),
        ("milvus ivf_sq8", "milvus", {"index_type": "ivf_sq8", **at}),
    ]
    return [side for side in sides if not options.only or side[0] in options.only]

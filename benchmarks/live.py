"""The catalogue behind `mildnet serve`: its memory, searches with and without filters, additions.

Generated embeddings of pictures of products, searched for 12 neighbours by single queries that lie
near some of them, in a fresh process for each kind of index. FAISS has one thread, as in the
service; nothing of HTTP or the model is in the figures.

    python -m benchmarks live
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine, median_seconds, print_table

#: Of them are 5% of the products each.
CATEGORIES = 20
#: Bytes of the picture of an added product.
PICTURE = 50_000


def main(argv: list[str]) -> None:
    """Measure each kind and print the table, with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks live", description=__doc__)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", default=["flat", "hnsw"])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(_measure(options)))
        return
    print(machine("faiss-cpu", "numpy"))
    columns = []
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            index = write_shop(Path(folder) / "index", options.products, options.dim, kind)
            arguments = [sys.executable, "-m", "benchmarks", "live", *argv, "--measure", str(index)]
            done = subprocess.run(
                arguments,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        columns.append(json.loads(done.stdout))
    print_table(
        f"{options.products:,} products, D = {options.dim}",
        ("", *options.kinds),
        [(name, *(column[name] for column in columns)) for name in columns[0]],
    )


def write_shop(
    folder: Path, products: int, dim: int, kind: str, notes: dict[str, Any] | None = None
) -> Path:
    """Write an index of generated products to `folder`, and return it."""
    from benchmarks.search import catalogue
    from trainer.config import get
    from trainer.data.table import ItemTable
    from trainer.serving.catalogue import CatalogueIndex, write_catalogue

    made = catalogue(products, dim)
    names = [f"/shop/{number:07d}.jpg" for number in range(products)]
    index = get("index", kind).build().build(made.embeddings, names)
    index.notes.update(notes or {})
    items = ItemTable.from_columns(
        path=names,
        label=[str(label) for label in made.labels],
        category=[str(number % CATEGORIES) for number in range(products)],
    )
    write_catalogue(CatalogueIndex(index, items), folder)
    return folder


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """Return what one kind of index takes, milliseconds and megabytes."""
    from trainer.serving.live import LiveCatalogue

    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        found = {
            f"memory of its own, {how}, MB": fresh.submit(_memory, options.measure, mapped).result()
            for how, mapped in (("mapped", True), ("loaded", False))
        }
    live = LiveCatalogue(options.measure)
    random = np.random.default_rng(1)
    near = np.stack([live.vector(item.id) for item in live.list(0, 4 * options.repeats + 6)])
    noise = 0.05 * random.standard_normal(near.shape, np.float32)
    queries = iter((near + noise)[:, None])
    for name, filters in (
        ("search for 12, ms", {}),
        ("search for 12, one category (5%), ms", {"category": "3"}),
        ("search for 12, one label, ms", {"label": live.list(0, 1)[0].label}),
    ):
        call = partial(lambda filters: live.search(next(queries), 12, **filters), filters)
        found[name] = 1000 * median_seconds(call, options.repeats, warmup=2)
    names, content = iter(range(options.repeats)), random.bytes(PICTURE)

    def add() -> None:
        live.add(f"new-{next(names)}", content, next(queries)[0], label="new", category="3")

    seconds = median_seconds(add, options.repeats, warmup=0)
    found[f"add a product with a picture of {PICTURE // 1000} kB, ms"] = 1000 * seconds
    live.close()
    return found


def _memory(folder: str, mapped: bool) -> float:
    """Return what this process grows by that loads a catalogue and searches it."""
    import faiss  # noqa: F401 - its code is not the catalogue's
    import psutil

    from trainer.serving.live import LiveCatalogue

    def own() -> int:
        """Return what no file holds: pages of mapped files can be shared, and dropped."""
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)

    before = own()
    live = LiveCatalogue(folder, mapped=mapped, writable=False)
    live.search(np.ones((1, live.dim), np.float32), 12)
    return (own() - before) / 1e6

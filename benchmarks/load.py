"""`mildnet serve` under load: throughput and latency at 1 to 64 clients, batching on and off.

The service searches 100,000 generated embeddings with the model of a run; Locust's clients
(`pip install locust`) send real pictures of the run's own test split over loopback, each the next
as soon as the last is answered. Beside it stands the same model called for one picture at a time:
by the same service with batches of one, and in a bare loop without HTTP.

    python -m benchmarks load --run runs/synthetic
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.live import write_shop
from benchmarks.report import machine, print_table

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
#: Distinct pictures that the clients send.
PICTURES = 64
COLUMNS = ("clients", "searches/s", "p50 ms", "p95 ms", "p99 ms", "failed")


def main(argv: list[str]) -> None:
    """Measure all sides and print the tables, with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks load", description=__doc__)
    parser.add_argument("--run", required=True, help="a finished run")
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--index", default="hnsw", help="kind of index")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=int, default=15, help="that each point is measured for")
    parser.add_argument("--repeats", type=int, default=3, help="of each point; the median counts")
    parser.add_argument("--requests", type=int, default=10_000, help="of the memory test; 0: none")
    options = parser.parse_args(argv)
    locust = shutil.which("locust", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    if locust is None:
        parser.error("Locust makes the load: pip install locust")
    from trainer.launch.run_folder import RunFolder
    from trainer.serving.catalogue import MODEL
    from trainer.serving.embedder import Embedder

    run = RunFolder.open(options.run)
    embedder = Embedder(run.file("model"), warm_up=(1, 32))
    print(machine("tensorflow", "faiss-cpu", "fastapi", "uvicorn", "locust"))
    with tempfile.TemporaryDirectory() as folder:
        pictures = _pictures(run, Path(folder) / "pictures")
        index = write_shop(
            *(Path(folder) / "index", options.products, embedder.dim, options.index),
            notes={MODEL: embedder.fingerprint()},
        )
        print(
            f"{run.config().model_id}, {embedder.image_size} px, {len(pictures)} pictures; "
            f"{options.products:,} products of {embedder.dim} numbers in {options.index}"
        )
        bare = _bare(embedder, index, pictures)
        whole = [(name, round(rate)) for name, rate in bare.items()]
        print_table("No HTTP, one thread that calls", ("what", "searches/s"), whole)
        sides: dict[str, tuple[str, ...]] = {"batches": (), "one at a time": ("--batch", "1")}
        measured: dict[str, list[list[list[float]]]] = {name: [] for name in sides}
        for _ in range(options.repeats):  # In turn, as machines have better and worse minutes.
            for name, extra in sides.items():
                with _serving(options.run, index, *extra) as (address, _):
                    rows = [
                        _load(locust, address, Path(folder), clients, options.seconds)
                        for clients in options.clients
                    ]
                measured[name].append(rows)
        rates = {}
        for name, all_rows in measured.items():
            middle = [_middle(rows) for rows in zip(*all_rows, strict=True)]
            rates[name] = {n: row[1] for n, row in zip(options.clients, middle, strict=True)}
            print_table(f"mildnet serve, {name}", COLUMNS, middle)
        ratios = [
            (n, rates["batches"][n] / rates["one at a time"][n], rates["batches"][n] / bare["one"])
            for n in options.clients
        ]
        print_table(
            "Batches against one at a time",
            ("clients", "x service without batches", "x bare loop of one"),
            ratios,
        )
        if options.requests:
            with _serving(options.run, index) as (address, pid):
                rows = _memory(locust, address, pid, Path(folder), options.requests)
            print_table("Memory of the service", ("searches", "resident MB"), rows)


def _pictures(run: Any, folder: Path) -> list[bytes]:
    """Write pictures of the run's test split to `folder`, as clients send them."""
    from trainer.launch.splits import read_split

    table = read_split(run.config())
    rows = np.random.default_rng(0).permutation(len(table))[:PICTURES]
    folder.mkdir()
    contents = [Path(table.path[row]).read_bytes() for row in rows]
    for number, content in enumerate(contents):
        (folder / f"{number:03d}").write_bytes(content)
    return contents


def _bare(embedder: Any, folder: Path, pictures: Sequence[bytes]) -> dict[str, float]:
    """Return searches a second by calls of one picture, and of 32, on the loaded model."""
    from trainer.retrieval.indexes import load_index

    index, rates = load_index(folder), {}
    for name, size in (("one", 1), ("batches of 32", 32)):
        begin, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - begin) < 10:
            part = [pictures[(done + n) % len(pictures)] for n in range(size)]
            index.search(embedder.embed_bytes(part), 10)
            done += size
        rates[name] = done / spent
    return rates


@contextmanager
def _serving(run: str, index: Path, *extra: str) -> Iterator[tuple[str, int]]:
    """Start the service on a free port, and give its address and process."""
    command = [sys.executable, "-m", "trainer.cli", "serve", run, "--index", str(index)]
    command += ["--port", "0", "--rate", "none", "--no-access-log", *extra]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0], server.pid
                    break
            else:
                raise RuntimeError(f"the service did not start: {' '.join(command)}")
        finally:
            server.terminate()
            server.stdout.read()


def _load(locust: str, address: str, folder: Path, clients: int, seconds: int) -> list[float]:
    """Return a row of the table for so many clients; the first seconds do not count."""
    environment = os.environ | {"LOAD_PICTURES": str(folder / "pictures")}
    script = str(Path(__file__).with_name("load_clients.py"))
    command = [locust, "-f", script, "--headless", "--json", "--reset-stats", "--host", address]
    command += ["--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{seconds}s"]
    command += ["--loglevel", "ERROR", "--exit-code-on-error", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    stats = json.loads(done.stdout)[0]
    times = np.repeat(
        [float(value) for value in stats["response_times"]], list(stats["response_times"].values())
    )
    span = stats["last_request_timestamp"] - stats["start_time"]
    quantiles = [round(value) for value in np.percentile(times, (50, 95, 99))]
    return [clients, stats["num_requests"] / span, *quantiles, stats["num_failures"]]


def _middle(rows: Sequence[list[float]]) -> list[float]:
    """Return the measurement of a point with the median of searches a second."""
    return sorted(rows, key=lambda row: row[1])[len(rows) // 2]


def _memory(locust: str, address: str, pid: int, folder: Path, requests: int) -> list[list[float]]:
    """Return resident memory of the service after each tenth of so many searches."""
    rows: list[list[float]] = []
    done = 0
    while done < requests:
        row = _load(locust, address, folder, 16, 10)
        done += int(row[1] * 10)
        rows.append([done, round(psutil.Process(pid).memory_info().rss / 1e6)])
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])

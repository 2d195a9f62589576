"""What all benchmarks share: timing, memory, the machine in words, and the table."""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table


def median_seconds(call: Callable[[], object], repeats: int = 5, warmup: int = 1) -> float:
    """Return the median seconds of `repeats` calls, after `warmup` unmeasured ones."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class PeakMemory:
    """Result of :func:`peak_memory`; `mb` is set when the block ends."""

    mb: float = 0.0


@contextmanager
def peak_memory(interval: float = 0.005, pid: int | None = None) -> Iterator[PeakMemory]:
    """Measure how far the resident memory of a process rises above its start, in MB (1e6 bytes).

    Sampled every `interval` seconds by a thread, so a peak shorter than that can be missed. The
    process is this one, or another named by its `pid`, which must outlive the block.
    """
    gc.collect()
    process = psutil.Process(pid)
    start = highest = process.memory_info().rss
    done = threading.Event()
    result = PeakMemory()

    def watch() -> None:
        nonlocal highest
        while not done.wait(interval):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        done.set()
        thread.join()
        highest = max(highest, process.memory_info().rss)
        result.mb = (highest - start) / 1e6


def measured_worker(command: list[str]) -> dict[str, float] | None:
    """Run a worker process and return what it measured, with its memory as `mb`.

    The worker prints `ready` when its libraries are loaded, waits for a line, and prints a JSON
    object, or `out of memory`. Memory is watched between: what is built and compiled there counts,
    loading libraries does not.

    Returns:
        None if it ran out of memory.
    """
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PYTHONWARNINGS": "ignore",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != "ready":
            raise RuntimeError(f"could not start: {' '.join(command)}")
        with peak_memory(pid=worker.pid) as memory:
            worker.stdin.write("go\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        worker.stdin.close()
    if answer.startswith("{"):
        return {**json.loads(answer), "mb": memory.mb}
    # A library that cannot allocate raises, or is ended by a signal.
    if answer.strip() == "out of memory" or worker.returncode < 0:
        return None
    raise RuntimeError(f"failed: {' '.join(command)}")


def machine(*packages: str) -> str:
    """Return one line on the machine and the versions of `packages`."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{package} {_version_of(package)}" for package in packages)
    python = f"Python {platform.python_version()}"
    return f"{name}, {cores} cores, {memory:.0f} GiB, {python}" + (
        f", {versions}" if versions else ""
    )


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Installed under another name, as tensorflow is by tensorflow-cpu.
        return str(importlib.import_module(package).__version__)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, numbers with three significant digits, the first column aligned left."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=max(100, Console().width)).print(table)

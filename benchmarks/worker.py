"""What a process that measures one row does, in a rival's environment too: no other packages."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def answer(
    gigabytes: float, make: Callable[[], Callable[[], object]], repeats: int, skip: int
) -> None:
    """Answer what :func:`benchmarks.report.measured_worker` asks: median seconds of a call.

    Args:
        gigabytes: memory that may be taken beyond what is taken already.
        make: builds what is called, within that memory.
        repeats: calls that count.
        skip: calls before them.
    """
    print("ready", flush=True)
    sys.stdin.readline()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # Address space taken before, most of it never touched, does not count.
    limit = used + int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seconds = []
    try:
        call = make()
        for _ in range(repeats + skip):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    except Exception as error:
        words = f"{type(error).__name__} {error}".lower()
        if not any(word in words for word in ("memory", "exhausted", "allocat")):
            raise
        print("out of memory", flush=True)
        return
    print(json.dumps({"seconds": statistics.median(seconds[skip:])}), flush=True)
    sys.stdin.readline()

"""`python -m benchmarks NAME [options]`: run one benchmark and print its table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
SUPPORT = {"worker", "__init__", "__main__", "report", "learning_rival", "load_clients"}


def main(argv: list[str]) -> int:
    """Run the benchmark named first in `argv` with the remaining arguments."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SUPPORT)
    if not argv or argv[0] not in names:
        print(f"usage: python -m benchmarks NAME [options]\nbenchmarks: {', '.join(names)}")
        return 0 if argv in ([], ["--help"], ["-h"]) else 2
    importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

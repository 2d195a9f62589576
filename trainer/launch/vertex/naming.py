"""Names of remote jobs: that of the config with the next free number, as MILDNet's had."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Characters of a job's name, at most.
LONGEST = 128
#: Characters that are left for `_` and the number.
_SUFFIX = 8


def stem_of(name: str) -> str:
    """Return the part of a job's name before the number, short enough for any number."""
    return name[: LONGEST - _SUFFIX]


def next_name(name: str, taken: Iterable[str]) -> str:
    """Return `name` with `_` and the next free number, one more than the greatest taken.

    A number between, of a job that was deleted, is not used again: logs and labels of the old
    job still go by it.

    Args:
        name: of the config.
        taken: names of all jobs and run folders; others do no harm.
    """
    stem = stem_of(name)
    pattern = re.compile(re.escape(stem) + r"_([1-9][0-9]*)")
    numbers = (int(match[1]) for match in map(pattern.fullmatch, taken) if match)
    return f"{stem}_{max(numbers, default=0) + 1}"

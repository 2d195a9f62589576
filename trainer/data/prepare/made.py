"""What the makers of data sets share: whether a folder is theirs, and how it is filled."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.progress import bar


def is_made(
    target: Path, note: str, parts: Collection[str], arguments: Mapping[str, Any] | None
) -> bool:
    """Whether a data set is there as asked for; an error if what is there is not ours to replace.

    Args:
        target: folder of the data set.
        note: name of the file in it that :func:`write_note` wrote.
        parts: names of all else that the maker puts there.
        arguments: what it is to be made with; None: it is to be made again in any case.

    Raises:
        UserError: the folder holds something else, or is a file.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    foreign = {*parts, note} ^ (set(os.listdir(target)) if target.is_dir() else {target.name})
    if foreign:
        raise UserError(
            f"{target} is there and was not made by this command (or was changed since: "
            f"{', '.join(sorted(foreign)[:3])}): choose another folder"
        )
    try:
        return bool(json.loads((target / note).read_text()) == arguments)
    except (OSError, ValueError):
        return False


def write_note(path: Path, arguments: Mapping[str, Any]) -> None:
    """Note down what a data set is made with."""
    path.write_text(json.dumps(arguments) + "\n")


def save_pictures(chosen: Sequence[tuple[Path, np.ndarray]]) -> None:
    """Write pixels, uint8 (H, W) or (H, W, 3), to picture files in folders that exist."""
    from PIL import Image

    def save(job: tuple[Path, np.ndarray]) -> None:
        Image.fromarray(job[1]).save(job[0])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            with bar("writing pictures", len(chosen)) as advance:
                for _ in pool.map(save, chosen):
                    advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_items(folder: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write items.csv in a folder that exists."""
    with open(folder / "items.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)

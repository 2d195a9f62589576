"""Whether pictures have changed since they were embedded.

What is known of each row's file is two numbers, its bytes and when it was changed in nanoseconds;
zeros where it could not be looked at, or is remote: asking for each would take too long.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np

from trainer.config import UserError
from trainer.data.files import is_remote, read_bytes
from trainer.data.table import ItemTable
from trainer.launch.run_folder import remote_reasons
from trainer.retrieval.embedding_cache import picture_keys
from trainer.retrieval.embeddings_folder import KEYS, STATES


def states_of(paths: Sequence[str]) -> np.ndarray:
    """Return bytes and time of change of files, int64 (N, 2)."""
    states = np.zeros((len(paths), 2), np.int64)
    for row, path in enumerate(paths):
        if not is_remote(path):
            try:
                found = os.stat(path)
            except OSError:
                continue
            states[row] = found.st_size, found.st_mtime_ns
    return states


def changed_pictures(items: ItemTable, folder: str, model: str) -> list[str]:
    """Return the paths of pictures that are not those that were embedded.

    Only files that are new or have another size or time are read.

    Args:
        items: rows of the catalogue that were to be embedded.
        folder: what came of them.
        model: fingerprint of the model.

    Raises:
        UserError: the folder is damaged.
    """
    now = states_of(items.path.tolist())
    before = _array(folder, STATES)
    if before.shape != now.shape:
        raise UserError(f"{folder}/{STATES} is damaged")
    suspects = np.flatnonzero((now != before).any(axis=1) & now.any(axis=1))
    if not len(suspects):
        return []
    known = {key.tobytes() for key in _array(folder, KEYS)}
    keys = picture_keys(items.select(suspects), model)
    return [
        items.path[row]
        for row, key in zip(suspects, keys, strict=True)
        if key.any() and key.tobytes() not in known
    ]


def _array(folder: str, name: str) -> np.ndarray:
    path = f"{folder}/{name}"
    try:
        with remote_reasons(path):
            return np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{path} is damaged") from None

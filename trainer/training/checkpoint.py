"""Checkpoints: one file each, written whole or not at all, read without running anything.

A checkpoint is an uncompressed NumPy archive (`.npz`): every variable of the job under a stable
key, and a `meta` entry with step, score and fingerprints as JSON. The archive's own checksums tell
a truncated file from a good one.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import UserError
from trainer.data.files import is_remote, read_bytes, whole_bytes

META = "meta"


def save(path: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint to `path` (local or remote) under a temporary name, then rename it.

    Arrays are asked for one after the other, and are written as they come: a local checkpoint needs
    no memory but that of the largest.

    Raises:
        FloatingPointError: a value is not finite; a checkpoint that can't be trained on is not
            worth the one it would replace.
        UserError: the disk is full or the folder can't be written.
    """
    text = json.dumps(dict(meta), sort_keys=True).encode()
    with whole_bytes(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        _add(archive, META, np.frombuffer(text, np.uint8))
        for key in arrays:
            _add(archive, key, arrays[key])


def _add(archive: zipfile.ZipFile, key: str, value: np.ndarray) -> None:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise FloatingPointError(f"{key} holds values that are not finite")
    # As `numpy.savez` does, which wants all arrays at once.
    with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.asanyarray(value), allow_pickle=False)


def load(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the meta data of the checkpoint at `path`.

    Raises:
        UserError: it is missing, truncated, or not a checkpoint of this library.
    """
    try:
        source = io.BytesIO(read_bytes(path)) if is_remote(path) else path
        with np.load(source, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(arrays.pop(META).tobytes())
    except (FileNotFoundError, tf.errors.NotFoundError):
        raise UserError(f"{path}: no such checkpoint") from None
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: truncated, or not a checkpoint of mildnet ({error})") from None
    return arrays, meta


class CheckpointFolder:
    """The checkpoints of a run: the newest few by step, and the best.

    Args:
        folder: local or remote folder; made when the first checkpoint is written.
        keep: how many of the newest to keep, at least 1.
    """

    def __init__(self, folder: str, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be 1 or more")
        self.folder = folder
        self.keep = keep

    @property
    def best(self) -> str:
        """Path of the best checkpoint, whether it exists or not."""
        return f"{self.folder}/best.npz"

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, oldest first."""
        if not tf.io.gfile.isdir(self.folder):
            return []
        names = [PurePosixPath(name).name for name in tf.io.gfile.listdir(self.folder)]
        found = [n[5:-4] for n in names if n.startswith("step-") and n.endswith(".npz")]
        return sorted(int(text) for text in found if text.isdigit())

    def path(self, step: int) -> str:
        """Return where the checkpoint of `step` is or would be."""
        return f"{self.folder}/step-{step:09d}.npz"

    def save(
        self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], best: bool = False
    ) -> str:
        """Write the checkpoint of `meta["step"]`, then let go of those older than the newest few.

        Args:
            arrays: every variable of the job by key.
            meta: JSON-ready; must hold `step`.
            best: also keep it as the best one.
        """
        tf.io.gfile.makedirs(self.folder)
        path = self.path(int(meta["step"]))
        # The best one first: a job killed in between goes on from before and writes both again.
        if best:
            save(self.best, arrays, meta)
        save(path, arrays, meta)
        for old in self.steps()[: -self.keep]:
            tf.io.gfile.remove(self.path(old))
        return path

    def sweep(self) -> None:
        """Remove what a process that was killed in the middle of writing has left."""
        if tf.io.gfile.isdir(self.folder):
            for name in tf.io.gfile.listdir(self.folder):
                if name.startswith((".step-", ".best.npz.")) or name.endswith(".npz.part"):
                    tf.io.gfile.remove(f"{self.folder}/{name}")

    def newest(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the newest checkpoint, or None where there is none.

        Raises:
            UserError: it can't be read; going on from an older one is left to the user, who
                removes the file that the message names.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            return load(self.path(steps[-1]))
        except UserError as error:
            before = f"go on from step {steps[-2]}" if len(steps) > 1 else "start again"
            raise UserError(f"{error}; remove it to {before}") from None

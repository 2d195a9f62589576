"""The files of a folder of embeddings, written part by part; remote ones by way of local ones."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer.config import UserError
from trainer.data.files import (
    gfile,
    is_remote,
    reason,
    sha256,
    whole_file,
    write_json,
)
from trainer.data.table import REQUIRED_COLUMNS, ItemTable
from trainer.launch.run_folder import RunFolder, remote_reasons
from trainer.retrieval.embedding_cache import WIDTH
from trainer.retrieval.embeddings_folder import (
    BAD,
    EMBEDDINGS,
    FILES,
    ITEMS,
    KEYS,
    META,
    STATES,
    EmbeddingsMeta,
)

#: Embeddings, keys and states of files of consecutive rows.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def write_arrays(folder: Path, meta: EmbeddingsMeta, rows: int, parts: Iterable[Arrays]) -> None:
    """Write embeddings, keys and states of files, a part of the rows at a time.

    Args:
        folder: local.
        meta: says how many there are, and of how many numbers.
        rows: of the catalogue, with those that are left out.
        parts: float32 (n, D), uint8 (n, 32) and int64 (m, 2) of consecutive rows.

    Raises:
        UserError: the disk refuses.
    """
    try:
        with (
            _rows(folder / EMBEDDINGS, meta.items, meta.dim, np.float32) as embeddings,
            _rows(folder / KEYS, meta.items, WIDTH, np.uint8) as keys,
            _rows(folder / STATES, rows, 2, np.int64) as states,
        ):
            for some, made_from, files in parts:
                embeddings(some)
                keys(made_from)
                states(files)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}") from None


@contextlib.contextmanager
def _rows(path: Path, count: int, width: int, kind: type) -> Iterator:
    """Give a function that takes the next rows of an .npy file."""
    written = 0

    def append(rows: np.ndarray) -> None:
        nonlocal written
        stream.write(np.ascontiguousarray(rows, kind).data)
        written += len(rows)

    with open(path, "wb") as stream:
        descr = np.lib.format.dtype_to_descr(np.dtype(kind))
        header = {"descr": descr, "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(stream, header)
        yield append
        stream.flush()
        os.fsync(stream.fileno())
    if written != count:
        raise UserError(f"{path} got {written} of {count} rows: another process is at work there")


def write_table(folder: Path, items: ItemTable, bad: Iterable[str]) -> None:
    """Write the table of the items, and the log of pictures that are left out, one a line."""
    if len(items):
        items.to_csv(folder / ITEMS)
    else:
        (folder / ITEMS).write_text(",".join(REQUIRED_COLUMNS) + "\n")
    with whole_file(folder / BAD) as stream:
        stream.writelines(f"{line}\n" for line in bad)


def write_meta(folder: Path, meta: EmbeddingsMeta) -> EmbeddingsMeta:
    """Write what the folder says of itself, with checksums of the other files: what finishes it."""
    meta = dataclasses.replace(meta, checksums={name: sha256(folder / name) for name in FILES})
    write_json(str(folder / META), meta.to_dict())
    return meta


@contextlib.contextmanager
def written_to(path: str, *, scratch: str | None = None) -> Iterator[Path]:
    """Give a local folder to write embeddings to, whose files go to a folder when they are done.

    If another process has finished the folder meanwhile, that one's files stay.

    Args:
        path: folder that they go to, local or remote.
        scratch: a local folder on the same disk; with a remote `path` it is not used.

    Raises:
        UserError: the disk or the remote file system refuses.
    """
    remote = is_remote(path)
    try:
        with tempfile.TemporaryDirectory(dir=None if remote else scratch, prefix=".part-") as made:
            yield Path(made)
            if RunFolder(path).exists(META):
                return
            with remote_reasons(path):
                gfile().makedirs(path)
                # The last one says that the others are complete.
                for name in (*FILES, META):
                    if remote:
                        gfile().copy(os.path.join(made, name), f"{path}/{name}", overwrite=True)
                    else:
                        os.replace(os.path.join(made, name), os.path.join(path, name))
    except OSError as error:
        raise UserError(f"cannot write to {path}: {reason(error)}") from None

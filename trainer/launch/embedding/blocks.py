"""Embeddings of consecutive rows, written as they are done: what a start goes on from."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np

from trainer.config import UserError
from trainer.data.files import gfile, is_remote, read_bytes, remote_errors, whole_bytes
from trainer.launch.run_folder import RunFolder, remote_reasons

#: Rows after which what is done is written, unless something else is asked for.
SNAPSHOT = 1024

_NAME = re.compile(r"rows-(\d+)-(\d+)-(\d+)\.npz")


@dataclass(frozen=True)
class Block:
    """What has come of the rows from `begin` up to `end` of a catalogue.

    Attributes:
        begin: first row.
        end: the row behind the last.
        rows: int64 (N,), those with a picture that can be used, in order.
        embeddings: float32 (N, D).
        keys: uint8 (N, 32), see :func:`trainer.retrieval.embedding_cache.picture_key`.
        states: int64 (end - begin, 2), see :mod:`trainer.launch.embedding.changes`.
        faults: what is wrong with the picture of each other row.
    """

    begin: int
    end: int
    rows: np.ndarray
    embeddings: np.ndarray
    keys: np.ndarray
    states: np.ndarray
    faults: dict[int, str]

    @classmethod
    def joined(cls, parts: list[Block]) -> Block:
        """Return one block of consecutive ones."""
        return cls(
            parts[0].begin,
            parts[-1].end,
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.embeddings for part in parts]),
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.states for part in parts]),
            {row: fault for part in parts for row, fault in part.faults.items()},
        )


@dataclass(frozen=True)
class Place:
    """A block in a folder: its rows, how many of them are good, and its name."""

    begin: int
    end: int
    good: int
    name: str

    @property
    def bad(self) -> int:
        return self.end - self.begin - self.good


class Blocks:
    """The blocks in a folder, local or remote.

    A file is there whole or not at all, and its name says which rows it is of. So those that write
    need not know of each other, and one that does a block again does no harm.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str) -> None:
        self._folder = RunFolder(path)

    @property
    def path(self) -> str:
        return self._folder.path

    def file(self, name: str) -> str:
        """Return the path of a file beside the blocks, which goes when they go."""
        return self._folder.file(name)

    def write(self, block: Block) -> None:
        """Write a block.

        Raises:
            UserError: it cannot be written.
        """
        name = f"rows-{block.begin:012d}-{block.end:012d}-{len(block.rows)}.npz"
        self._folder.make()
        with whole_bytes(self.file(name)) as stream:
            np.savez(
                stream,
                rows=block.rows,
                embeddings=block.embeddings,
                keys=block.keys,
                states=block.states,
                bad_rows=np.array(list(block.faults), np.int64),
                bad_faults=np.array(list(block.faults.values()), str),
            )

    def _all(self) -> list[Place]:
        found = []
        for name in self._folder.names():
            if match := _NAME.fullmatch(name):
                begin, end, good = map(int, match.groups())
                found.append(Place(begin, end, good, name))
        return found

    def places(self) -> list[Place]:
        """Return the blocks that are there in the order of their rows, none of a row twice."""
        kept: list[Place] = []
        # Of two attempts at the same rows, the one that could read more of the pictures.
        for place in sorted(self._all(), key=lambda place: (place.begin, -place.end, -place.good)):
            if not kept or place.begin >= kept[-1].end:
                kept.append(place)
        return kept

    def read(self) -> Iterator[Block]:
        """Yield the blocks in the order of their rows.

        Raises:
            UserError: a file is damaged.
        """
        for place in self.places():
            path = self.file(place.name)
            try:
                yield _read(path, place)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile):
                raise UserError(f"{path} is damaged: delete it, and start again") from None

    def drop(self, places: list[Place]) -> None:
        """Delete blocks, and earlier attempts at their rows, so that they are done again."""
        for place in self._all():
            if any(one.begin < place.end and place.begin < one.end for one in places):
                self._delete(self.file(place.name))

    def clear(self) -> None:
        """Delete all files of the folder, and itself."""
        for name in self._folder.names():
            self._delete(self.file(name))
        if self._folder.exists(""):
            self._delete(self._folder.path)

    def _delete(self, path: str) -> None:
        if is_remote(path):
            with remote_reasons(path), contextlib.suppress(FileNotFoundError), remote_errors():
                (gfile().rmtree if gfile().isdir(path) else gfile().remove)(path)
        elif os.path.isdir(path):
            # Where there are no locks, another process may be writing into it.
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _read(path: str, place: Place) -> Block:
    # The archive holds a checksum of each part, which reading compares.
    with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as parts:
        block = Block(
            place.begin,
            place.end,
            parts["rows"],
            parts["embeddings"],
            parts["keys"],
            parts["states"],
            dict(zip(parts["bad_rows"].tolist(), parts["bad_faults"].tolist(), strict=True)),
        )
    if len(block.rows) != place.good or len(block.embeddings) != place.good:
        raise ValueError("another number of rows than its name says")
    return block

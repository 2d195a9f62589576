"""Products that came and went while a catalogue was served, in a file that outlives it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import locked, reason

#: Marks a file as one of changes ("mild").
APPLICATION = 0x6D696C64
VERSION = 1
Box = tuple[float, float, float, float]

SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE added (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
    category TEXT NOT NULL, domain TEXT NOT NULL, x REAL, y REAL, w REAL, h REAL,
    wins INTEGER NOT NULL, embedding BLOB NOT NULL);
CREATE TABLE pictures (number INTEGER PRIMARY KEY REFERENCES added, content BLOB NOT NULL);
CREATE TABLE removed (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class ChangesFault(UserError):
    """The file of changes cannot be read or written, whatever was asked for."""


@dataclass(frozen=True)
class Item:
    """A product that can be found.

    Attributes:
        id: what clients call it; no path of the server.
        label: of the product.
        category: may be empty.
        domain: may be empty.
        box: x, y, w, h in pixels of the stored picture, the part that shows it; None: all of it.
    """

    id: str
    label: str
    category: str = ""
    domain: str = ""
    box: Box | None = None


@dataclass(frozen=True)
class Added:
    """An item that was added.

    Attributes:
        item: the item.
        embedding: float32 (D,), as the model gave it.
        wins: whether it takes the place of an item of the index with the same id.
    """

    item: Item
    embedding: np.ndarray
    wins: bool


class Changes:
    """The file of changes of a catalogue; safe in threads.

    It is an SQLite database with a rollback journal: unlike a write-ahead log, that needs no shared
    memory (network disks and mounted buckets have none), can be read where nothing can be written,
    and leaves one file to copy. What was written survives a killed process and a power cut. Items
    of the index that were removed are known by their id there, which is a path, with the number of
    the box where a picture has several, and stays the same when the index is built anew.

    Args:
        path: the file; made when the first change is written.
        model: fingerprint of the model that the embeddings are of; empty where it is not known.
        dim: their dimensions.
        writable: whether this process changes it: then no other one may use it. If not, others
            may read it, too.

    Raises:
        UserError: the file is another's, of another model or version, damaged, cannot be read, or
            another process has it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, model: str, dim: int, writable: bool
    ) -> None:
        self.path = Path(path)
        self.writable = writable
        self._about = {"model": model, "dim": str(dim)}
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None
        self._stack = contextlib.ExitStack()
        refusal = f"{self.path}: another process is using these changes" + (
            "" if writable else " and may write to them"
        )
        try:
            try:
                lock = self.path.with_name(f".{self.path.name}.lock")
                self._stack.enter_context(locked(lock, refusal, shared=not writable))
            except OSError as error:
                if writable:
                    raise UserError(f"cannot write {self.path}: {reason(error)}") from None
                # Nor does any other process write where this one must not make a lock.
            # It is empty where the disk was full at the first change.
            if self.path.exists() and self.path.stat().st_size:
                self._open()
        except sqlite3.Error as error:
            self.close()
            raise UserError(f"{self.path} cannot be read as a file of changes: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
        self._stack.close()

    def delete(self) -> None:
        """Remove the file: what it held is in the index now. Others are kept out until `close`."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            self.path.unlink(missing_ok=True)

    def added(self) -> list[Added]:
        """Return the items that were added, the first one first."""
        with self._reading() as file:
            rows = () if file is None else file.execute("SELECT * FROM added ORDER BY number")
            return [
                Added(
                    Item(name, label, category, domain, None if box[0] is None else tuple(box)),
                    np.frombuffer(embedding, "<f4").astype(np.float32),
                    bool(wins),
                )
                for _, name, label, category, domain, *box, wins, embedding in rows
            ]

    def removed(self) -> set[str]:
        """Return the ids in the index of its items that were removed."""
        with self._reading() as file:
            rows = () if file is None else file.execute("SELECT id FROM removed")
            return {row[0] for row in rows}

    def picture(self, name: str) -> bytes:
        """Return the picture file of an added item.

        Raises:
            KeyError: there is none with this id.
        """
        with self._reading() as file:
            if file is not None:
                sql = "SELECT content FROM pictures JOIN added USING (number) WHERE id = ?"
                for (content,) in file.execute(sql, (name,)):
                    return bytes(content)
        raise KeyError(name)

    def add(self, added: Added, picture: bytes, *, instead_of: str | None = None) -> None:
        """Keep an added item, in place of one with its id that was added before.

        Args:
            added: the item.
            picture: content of its file.
            instead_of: id in the index of an item that goes.

        Raises:
            UserError: it cannot be written; nothing has changed then.
        """
        item = added.item
        with self._writing() as file:
            file.execute(
                "DELETE FROM pictures WHERE number = (SELECT number FROM added WHERE id = ?)",
                (item.id,),
            )
            file.execute("DELETE FROM added WHERE id = ?", (item.id,))
            if instead_of is not None:
                file.execute("INSERT OR IGNORE INTO removed VALUES (?)", (instead_of,))
            number = file.execute(
                "INSERT INTO added VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(item.id, item.label, item.category, item.domain),
                    *(item.box or (None,) * 4),
                    *(added.wins, added.embedding.astype("<f4").tobytes()),
                ),
            ).lastrowid
            file.execute("INSERT INTO pictures VALUES (?, ?)", (number, picture))

    def remove(self, *, added: str | None = None, indexed: str | None = None) -> None:
        """Forget an added item, and keep in mind that one of the index is gone.

        Args:
            added: id of an added item; there may be none.
            indexed: id in the index.

        Raises:
            UserError: it cannot be written; nothing has changed then.
        """
        with self._writing() as file:
            if indexed is not None:
                file.execute("INSERT OR IGNORE INTO removed VALUES (?)", (indexed,))
            if added is not None:
                file.execute(
                    "DELETE FROM pictures WHERE number = (SELECT number FROM added WHERE id = ?)",
                    (added,),
                )
                file.execute("DELETE FROM added WHERE id = ?", (added,))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        try:
            with self._lock:
                yield self._file
        except sqlite3.Error as error:
            raise ChangesFault(f"cannot read {self.path}: {error}") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if not self.writable:
            raise ChangesFault("this catalogue was opened for reading only")
        try:
            with self._lock:
                if self._file is None:
                    self._open()
                file = self._file
                assert file is not None  # noqa: S101 - set by _open
                file.execute("BEGIN IMMEDIATE")
                try:
                    yield file
                    file.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        file.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise ChangesFault(f"cannot write {self.path}: {error}") from None
        except UserError as error:  # of the file, which is opened for the first change
            raise ChangesFault(str(error)) from None

    def _open(self) -> None:
        """Open the file; where that fails it is left closed, to be opened anew."""
        try:
            self._file = self._opened("rwc" if self.writable else "ro")
        except sqlite3.OperationalError:
            if self.writable:
                raise
            # A change that was cut off has to be rolled back, which is a write.
            self._file = self._opened("rw")

    def _opened(self, mode: str) -> sqlite3.Connection:
        file = self._connected(mode)
        try:
            self._check(file)
        except BaseException:
            file.close()
            raise
        return file

    def _connected(self, mode: str) -> sqlite3.Connection:
        file = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        # The folder is synchronised, too: else a power cut could bring a finished journal back.
        file.execute("PRAGMA synchronous = EXTRA")
        return file

    def _check(self, file: sqlite3.Connection) -> None:
        def number(name: str) -> Any:
            return file.execute(f"PRAGMA {name}").fetchone()[0]

        fresh = not number("schema_version")
        if fresh and self.writable:
            # All in one, for the process may be killed at any moment.
            file.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";"):
                file.execute(statement)
            file.execute(f"PRAGMA application_id = {APPLICATION}")
            file.execute(f"PRAGMA user_version = {VERSION}")
            file.executemany("INSERT INTO about VALUES (?, ?)", self._about.items())
            file.execute("COMMIT")
        elif fresh or number("application_id") != APPLICATION:
            raise UserError(f"{self.path} is no file of changes of a catalogue: give another")
        if number("user_version") != VERSION:
            raise UserError(
                f"{self.path} is of another version ({number('user_version')}, this one reads "
                f"{VERSION}): use the mildnet that wrote it"
            )
        about = dict(file.execute("SELECT name, value FROM about"))
        if self._about.keys() - about.keys():
            if file.execute("SELECT id FROM added UNION ALL SELECT id FROM removed").fetchone():
                raise UserError(f"{self.path} does not say which model its changes were made with")
            about = self._about
            if self.writable:
                file.executemany("REPLACE INTO about VALUES (?, ?)", about.items())
        models = {about["model"], self._about["model"]} - {""}
        if about["dim"] != self._about["dim"] or len(models) > 1:
            raise UserError(
                f"{self.path} holds changes made with another model than the index is of: merge "
                "them into the index that they belong to (mildnet index merge), or give another "
                "file for changes"
            )

"""What failed, over several runs: what to ask for again, and when."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from trainer.config import UserError
from trainer.data import files
from trainer.data.fetch.results import REASONS, Failure, without_credentials

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What is known of a URL that has failed; one line of the ledger.

    Attributes:
        url: as in :class:`~trainer.data.fetch.Failure`.
        reason: of the last failure, one of :data:`~trainer.data.fetch.REASONS`; `""` after a
            picture came at last.
        detail: of the last failure.
        attempts: over all runs.
        runs: runs in which it was asked for and failed, without a success in between.
        last_try: seconds since 1970, UTC.
        next_try: seconds since 1970 before which no run should ask again; None for never.
    """

    url: str
    reason: str
    detail: str
    attempts: int
    runs: int
    last_try: float
    next_try: float | None

    @classmethod
    def after(
        cls,
        failure: Failure,
        previous: Entry | None = None,
        *,
        now: float | None = None,
        first: float = 600.0,
        longest: float = 86_400.0,
        most_runs: int = 8,
    ) -> Entry:
        """Return what is known after a failure.

        Args:
            failure: what has happened.
            previous: what was known before, if anything.
            now: seconds since 1970; by default what the clock says.
            first: seconds until a URL is due after its first run; doubled with each further run.
            longest: most seconds until it is due; a server's own wish may be longer.
            most_runs: runs after which a URL is given up.
        """
        now = time.time() if now is None else now
        attempts, runs = (previous.attempts, previous.runs) if previous else (0, 0)
        # A host that wants peace turns its URLs away unasked: that is none of their doing.
        runs += failure.attempts > 0
        next_try = None
        if failure.retry and runs < most_runs:
            next_try = now + max(failure.wait, min(first * 2.0 ** max(runs - 1, 0), longest))
        return cls(
            failure.url, failure.reason, failure.detail,
            attempts + failure.attempts, runs, now, next_try,
        )  # fmt: skip

    def due(self, now: float | None = None) -> bool:
        """Whether the URL may be asked for, `now` or at seconds since 1970."""
        now = time.time() if now is None else now
        return self.next_try is not None and self.next_try <= now

    def to_json(self) -> str:
        """Return one line of JSON without the end of the line."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Entry:
        """Return the entry of a line.

        Raises:
            ValueError: it is none.
        """
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("not an entry of a ledger")
        try:
            entry = cls(**values)
        except TypeError:
            raise ValueError("not an entry of a ledger") from None
        whole = isinstance(entry.attempts, int) and isinstance(entry.runs, int)
        times = isinstance(entry.last_try, int | float) and isinstance(
            entry.next_try, int | float | None
        )
        if not (isinstance(entry.url, str) and entry.reason in ("", *REASONS) and whole and times):
            raise ValueError("not an entry of a ledger")
        return entry


def latest(lines: Iterable[str | bytes]) -> dict[str, Entry]:
    """Return the last word on each URL, of the lines of one ledger or of several together.

    Lines that are no entry are passed over and counted in a warning: a process that is killed
    while it writes leaves half a line.

    Args:
        lines: as :meth:`Entry.to_json` makes them, in any order.

    Returns:
        Entries of the URLs that have failed and have not been fetched since, by URL.
    """
    found: dict[str, Entry] = {}
    broken = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            entry = Entry.from_json(line)
        except ValueError:  # not JSON, not UTF-8, not an entry
            broken += 1
            continue
        known = found.get(entry.url)
        if known is None or known.last_try <= entry.last_try:
            found[entry.url] = entry
    if broken:
        log.warning("%d broken lines of a ledger are passed over", broken)
    return {url: entry for url, entry in found.items() if entry.reason}


class Ledger:
    """A file of failures that a later run goes on with; safe in threads.

    Each event is one line of JSON at the end of the file, written at once: a process that is
    killed loses at most the line that it was writing, and a later one goes on below it. Several
    processes of one machine may write to the same file, but each knows only of what was there
    when it began and of its own events.

    Args:
        path: local file; made if there is none, in a folder that exists.
        first: seconds until a URL is due after its first run; doubled with each; default 600.
        longest: most seconds until it is due; default 86,400.
        most_runs: runs after which a URL is given up; default 8.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        first: float = 600.0,
        longest: float = 86_400.0,
        most_runs: int = 8,
    ) -> None:
        self.path = files.absolute(os.fspath(path))
        self._waits = {"first": first, "longest": longest}
        self._most_runs = most_runs
        self._lock = threading.Lock()
        try:
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 closed by close()
            with open(self.path, "rb") as lines:
                self._entries = latest(lines)
        except OSError as error:
            raise UserError(f"cannot open {self.path}: {files.reason(error)}") from None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of URLs that have failed and have not been fetched since."""
        return len(self._entries)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def entry(self, url: str) -> Entry | None:
        """Return what is known of a URL; None if it has not failed, or was fetched since."""
        with self._lock:
            return self._entries.get(without_credentials(url))

    def due(self, url: str, now: float | None = None) -> bool:
        """Whether to ask for a URL: it has not failed, or may be asked for again by now.

        Args:
            url: as given to :meth:`trainer.data.fetch.Fetcher.fetch`.
            now: seconds since 1970; by default what the clock says.
        """
        entry = self.entry(url)
        return entry is None or entry.due(now)

    def record(self, failure: Failure, now: float | None = None) -> Entry:
        """Write down a failure, and return what is known of its URL now.

        Args:
            failure: what has happened.
            now: seconds since 1970; by default what the clock says.

        Raises:
            UserError: the file cannot be written.
        """
        with self._lock:
            entry = Entry.after(
                failure,
                self._entries.get(failure.url),
                now=now,
                most_runs=self._most_runs,
                **self._waits,
            )
            self._append(entry)
            self._entries[entry.url] = entry
            return entry

    def clear(self, url: str, now: float | None = None) -> None:
        """Write down that a URL was fetched at last; nothing if it had never failed.

        Args:
            url: as given to :meth:`trainer.data.fetch.Fetcher.fetch`.
            now: seconds since 1970; by default what the clock says.

        Raises:
            UserError: the file cannot be written.
        """
        now = time.time() if now is None else now
        with self._lock:
            entry = self._entries.get(without_credentials(url))
            if entry is not None:
                fetched = Entry(entry.url, "", "", 0, 0, now, None)
                self._append(fetched)
                del self._entries[entry.url]

    def _append(self, entry: Entry) -> None:
        line = entry.to_json().encode("utf-8", "backslashreplace") + b"\n"
        try:
            # Below the half line that a killed process has left, a line of its own.
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                line = line if self._file.read(1) == b"\n" else b"\n" + line
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "no space left on device")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {files.reason(error)}") from None

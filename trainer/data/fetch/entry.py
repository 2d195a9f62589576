"""What is kept of a failure for later runs: whether to ask again, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass

from trainer.data.fetch.results import Failure


@dataclass(frozen=True)
class Entry:
    """What is known of a URL that has failed; its fields are plain, to be written down as a row.

    A later run makes of it and of what happens then the next entry, and the latest one counts.

    Attributes:
        url: as in :class:`~trainer.data.fetch.Failure`.
        reason: of the last failure, one of :data:`~trainer.data.fetch.REASONS`.
        detail: of the last failure.
        attempts: over all runs.
        runs: runs in which it was asked for and failed.
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
            first: seconds until a URL is due after its first run; doubled with each further run;
                default 600.
            longest: most seconds until it is due, default 86,400; a server's own wish may be
                longer.
            most_runs: runs after which a URL is given up, default 8.
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

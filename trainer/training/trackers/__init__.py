"""Trackers: where a job's numbers go. A tracker that fails is dropped, never the job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

LOG = logging.getLogger(__name__)


class Tracker:
    """What a job calls, in this order; a tracker overrides what it has a use for."""

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """The job starts (or goes on) at `step` with the effective `config`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name after the optimizer step `step`."""

    def picture(self, step: int, name: str, path: str) -> None:
        """The picture file at `path`, local or remote, as it is after `step`."""

    def finish(self, step: int, values: Mapping[str, float]) -> None:
        """The job has done all it had to, after `step`; its final numbers by name."""

    def close(self) -> None:
        """The process leaves the job, finished or not."""


class Trackers:
    """Calls every tracker; one that raises is named in the log and not called again.

    Who makes it closes it, best by a `with` block around the whole job.

    Args:
        trackers: what to call, in this order.
    """

    def __init__(self, trackers: Iterable[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """See :meth:`Tracker.start`."""
        self._call(lambda tracker: tracker.start(step, config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :meth:`Tracker.log`."""
        self._call(lambda tracker: tracker.log(step, values))

    def picture(self, step: int, name: str, path: str) -> None:
        """See :meth:`Tracker.picture`."""
        self._call(lambda tracker: tracker.picture(step, name, path))

    def finish(self, step: int, values: Mapping[str, float]) -> None:
        """See :meth:`Tracker.finish`."""
        self._call(lambda tracker: tracker.finish(step, values))

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        self._call(lambda tracker: tracker.close())

    def _call(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except Exception as error:
                words = " ".join(str(error).split())
                LOG.warning("tracker %s stopped: %s", type(tracker).__name__, words)
                self._trackers.remove(tracker)

"""Trackers: where a job's numbers go. A tracker that fails is dropped, never the job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """What the loop calls on every tracker."""

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """The job starts (or goes on) at `step` with the effective `config`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name after the optimizer step `step`."""

    def close(self) -> None:
        """The job ends."""


class Trackers:
    """Calls every tracker; one that raises is named in the log and not called again."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """See :meth:`Tracker.start`."""
        self._call(lambda tracker: tracker.start(step, config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :meth:`Tracker.log`."""
        self._call(lambda tracker: tracker.log(step, values))

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        self._call(lambda tracker: tracker.close())

    def _call(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except Exception as error:
                LOG.warning("tracker %s stopped: %s", type(tracker).__name__, error)
                self._trackers.remove(tracker)

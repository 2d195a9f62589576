"""SIGTERM and SIGINT as a polite request: finish the step, save, leave."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from trainer.config import Stopped

LOG = logging.getLogger(__name__)


class Interrupted(Stopped):
    """The job was asked to stop and has saved its state; `signal_number` says by what."""

    def __init__(self, signal_number: int, step: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name} at step {step}; run it again to go on from there",
            exit_code=128 + signal_number,
        )
        self.signal_number = signal_number


class InterruptGuard:
    """Within the block, remembers the first SIGTERM or SIGINT in `received`.

    A second SIGINT gets its usual effect, for a user who does not want to wait. Outside the main
    thread, where Python does not allow signal handlers, the guard does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM ends the process with 128 + SIGTERM, after its clean-ups.

    The first process of a container would not notice it otherwise. While it trains,
    :class:`InterruptGuard` takes the signal instead, and saves. Outside the main thread, where
    Python does not allow signal handlers, it does nothing.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        LOG.info("stopped by SIGTERM; run it again to go on from the newest checkpoint")
        # Not a Stopped: whoever catches every Exception would catch that, too.
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

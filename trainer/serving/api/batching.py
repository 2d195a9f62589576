"""Many callers, few workers: what waits is done together, stage after stage."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Waiting(Generic[T]):
    """An item, the stages it goes through after this one, and who waits for it at their end."""

    item: T
    stages: tuple[Batcher[T], ...]
    future: asyncio.Future[T]


class Batcher(Generic[T]):
    """Does one stage of the work of concurrent requests together, in threads of its own.

    An idle worker begins at once with what there is; what comes meanwhile makes the next batch.
    If items are still in a stage before this one (:func:`through`), it waits for them a little. If
    a batch fails, its items are done one by one, so that only the guilty ones fail. Items whose
    callers went away are dropped.

    Args:
        run: takes items and writes into them what it finds; called in the threads of this stage.
        most: largest batch.
        wait: most seconds to wait for items that are in a stage before.
        threads: batches worked on at once.
        name: of the threads.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], object],
        *,
        most: int,
        wait: float = 0.0,
        threads: int = 1,
        name: str = "batches",
    ) -> None:
        self._run, self._most, self._wait = run, most, wait
        self._changed = threading.Condition()
        self._queue: deque[_Waiting[T]] = deque()
        self._coming = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True)
            for number in range(threads)
        ]

    def __len__(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish what waits, and end the threads; stages before this one are closed by then."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _announce(self) -> None:
        with self._changed:
            self._coming += 1

    def _take(self, arrived: Sequence[_Waiting[T]], lost: int = 0) -> None:
        """Take items that were announced; `lost` others will not come."""
        with self._changed:
            self._coming -= len(arrived) + lost
            closed = self._closed
            if not closed:
                self._queue.extend(arrived)
            self._changed.notify_all()
        if closed:
            _forget(arrived)
            _end(arrived, RuntimeError("the service is stopping"))

    def _work(self) -> None:
        while batch := self._next():
            self._do(batch)
            del batch  # its pictures would stay in memory until the next comes

    def _next(self) -> list[_Waiting[T]]:
        """Return the next batch, or nothing once all is done and no more will come."""
        with self._changed:
            while True:
                while not self._queue and not self._closed:
                    self._changed.wait()
                end = time.monotonic() + self._wait
                while 0 < len(self._queue) < self._most and self._coming and not self._closed:
                    if (left := end - time.monotonic()) <= 0:
                        break
                    self._changed.wait(left)
                batch: list[_Waiting[T]] = []
                while self._queue and len(batch) < self._most:
                    waiting = self._queue.popleft()
                    if waiting.future.cancelled():
                        _forget([waiting])
                    else:
                        batch.append(waiting)
                if batch or (self._closed and not self._queue):
                    return batch

    def _do(self, batch: list[_Waiting[T]]) -> None:
        try:
            self._run([waiting.item for waiting in batch])
        except Exception as error:
            if len(batch) == 1:
                _forget(batch)
                _end(batch, error)
                del batch  # the error, which the future holds, would hold the future by this frame
                return
        else:
            _send_on(batch)
            return
        for waiting in batch:
            if waiting.future.cancelled():  # it may have taken long
                _forget([waiting])
            else:
                self._do([waiting])


def through(item: T, *stages: Batcher[T]) -> asyncio.Future[T]:
    """Send an item through stages, one after the other; the future holds it at their end.

    Between stages it goes from thread to thread: the loop of the caller sees it at the end only.
    A future that is cancelled makes the item go no further.

    Raises:
        Exception: by the future: what the work of a stage raises for the item, RuntimeError if the
            stage is closed.
    """
    waiting = _Waiting(item, stages, asyncio.get_running_loop().create_future())
    for stage in stages:
        stage._announce()
    _send_on([waiting])
    return waiting.future


def _send_on(batch: Sequence[_Waiting[Any]]) -> None:
    """Send each item to its next stage, or back to whoever waits for it."""
    ended: list[_Waiting[Any]] = []
    arrived: dict[Batcher[Any], list[_Waiting[Any]]] = {}
    for waiting in batch:
        if not waiting.stages:
            ended.append(waiting)
            continue
        stage, *rest = waiting.stages
        waiting.stages = tuple(rest)
        arrived.setdefault(stage, []).append(waiting)
    for stage, items in arrived.items():
        stage._take(items)
    _end(ended)


def _forget(batch: Sequence[_Waiting[Any]]) -> None:
    """Tell the stages that items would have come to that they will not."""
    for waiting in batch:
        for stage in waiting.stages:
            stage._take((), lost=1)


def _end(batch: Sequence[_Waiting[Any]], error: BaseException | None = None) -> None:
    """Tell those who wait for items, in one loop, that they are done, or what went wrong."""
    if batch:
        # The loop of a service that has ended takes nothing more.
        with contextlib.suppress(RuntimeError):
            batch[0].future.get_loop().call_soon_threadsafe(_settle, batch, error)


def _settle(batch: Sequence[_Waiting[Any]], error: BaseException | None) -> None:
    for waiting in batch:
        if waiting.future.done():
            continue
        if error is None:
            waiting.future.set_result(waiting.item)
        else:
            waiting.future.set_exception(error)

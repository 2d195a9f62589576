"""Many callers, one worker: what waits is done together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Waiting(Generic[T]):
    item: T
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Batcher(Generic[T, R]):
    """Does the work of concurrent requests together, in one thread of its own.

    An idle worker begins at once with what there is; what comes meanwhile makes the next batch.
    If the worker knows of items that are just being made (:meth:`coming`), it waits for them a
    little. If a batch fails, its items are done one by one, so that only the guilty ones fail.
    Items whose callers went away are dropped.

    Args:
        run: takes items, returns a result for each; called in one thread, one call at a time.
        most: largest batch.
        wait: most seconds to wait for items that are being made.
        name: of the thread.
        told: takes the size of each batch and the seconds it took.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        most: int,
        wait: float = 0.0,
        name: str = "batches",
        told: Callable[[int, float], object] = lambda size, seconds: None,
    ) -> None:
        self._run, self._most, self._wait, self._name, self._told = run, most, wait, name, told
        self._changed = threading.Condition()
        self._queue: deque[_Waiting[T]] = deque()
        self._coming = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @contextlib.contextmanager
    def coming(self) -> Iterator[Place[T, R]]:
        """Announce an item that is being made, and give the place that it goes to."""
        with self._changed:
            self._coming += 1
        place = Place(self)
        try:
            yield place
        finally:
            place.give_up()

    async def do(self, item: T) -> R:
        """Return the result of an item that is there.

        Raises:
            Exception: what `run` raises for it.
            RuntimeError: the batcher is closed.
        """
        with self.coming() as place:
            return await place.fill(item)

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _arrived(self, waiting: _Waiting[T] | None) -> None:
        with self._changed:
            self._coming -= 1
            if waiting is not None:
                if self._closed:
                    raise RuntimeError("the service is stopping")
                self._queue.append(waiting)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                    self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while batch := self._next():
            self._do(batch)

    def _next(self) -> list[_Waiting[T]]:
        """Return the next batch, or nothing once all is done and no more will come."""
        with self._changed:
            while True:
                while not self._queue and not self._closed:
                    self._changed.wait()
                end = time.monotonic() + self._wait
                while len(self._queue) < self._most and self._coming and not self._closed:
                    if (left := end - time.monotonic()) <= 0:
                        break
                    self._changed.wait(left)
                batch: list[_Waiting[T]] = []
                while self._queue and len(batch) < self._most:
                    waiting = self._queue.popleft()
                    if not waiting.future.cancelled():
                        batch.append(waiting)
                if batch or self._closed:
                    return batch

    def _do(self, batch: list[_Waiting[T]]) -> None:
        begin = time.perf_counter()
        try:
            results = self._run([waiting.item for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                for waiting in batch:
                    self._do([waiting])
                return
            _deliver(batch[0], _fail, error)
            return
        self._told(len(batch), time.perf_counter() - begin)
        for waiting, result in zip(batch, results, strict=True):
            _deliver(waiting, _succeed, result)


class Place(Generic[T, R]):
    """Where an item that was announced goes to."""

    def __init__(self, batcher: Batcher[T, R]) -> None:
        self._batcher: Batcher[T, R] | None = batcher

    async def fill(self, item: T) -> R:
        """Return the result of the item; see :meth:`Batcher.do`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._tell(_Waiting(item, future, loop))
        return await future

    def give_up(self) -> None:
        """Tell that the item will not come, if it has not."""
        self._tell(None)

    def _tell(self, waiting: _Waiting[T] | None) -> None:
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher._arrived(waiting)


def _deliver(waiting: _Waiting[Any], how: Callable[..., None], outcome: object) -> None:
    # The loop of a service that has ended takes nothing more.
    with contextlib.suppress(RuntimeError):
        waiting.loop.call_soon_threadsafe(how, waiting.future, outcome)


def _succeed(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)

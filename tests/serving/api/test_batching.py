"""Concurrent requests share calls of the model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from trainer.serving.api.batching import Batcher


class Doubler:
    """Doubles numbers once `go` is set; fails for negative ones; notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.begun.set()
        assert self.go.wait(10)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError(f"negative: {min(items)}")
        return [2 * item for item in items]


def run(batcher: Batcher[int, int], scenario: object) -> object:
    async def within() -> object:
        async with asyncio.timeout(20):
            return await scenario  # type: ignore[misc]

    try:
        return asyncio.run(within())
    finally:
        batcher.close()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


def test_what_waits_is_done_together() -> None:
    work = Doubler()
    batcher = Batcher(work, most=4)

    async def scenario() -> list[int]:
        first = asyncio.ensure_future(batcher.do(0))
        await until(work.begun)
        others = [asyncio.ensure_future(batcher.do(n)) for n in range(1, 8)]
        await asyncio.sleep(0)
        assert len(batcher) == 7
        work.go.set()
        return list(await asyncio.gather(first, *others))

    assert run(batcher, scenario()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_failing_item_fails_alone() -> None:
    work = Doubler()
    batcher = Batcher(work, most=8)

    async def scenario() -> list[object]:
        first = asyncio.ensure_future(batcher.do(0))
        await until(work.begun)
        others = [asyncio.ensure_future(batcher.do(n)) for n in (1, -2, 3)]
        await asyncio.sleep(0)
        work.go.set()
        return list(await asyncio.gather(first, *others, return_exceptions=True))

    first, one, failed, three = run(batcher, scenario())  # type: ignore[misc]
    assert (first, one, three) == (0, 2, 6)
    assert isinstance(failed, ValueError)


def test_items_of_callers_that_went_away_are_dropped() -> None:
    work = Doubler()
    batcher = Batcher(work, most=1)

    async def scenario() -> None:
        first = asyncio.ensure_future(batcher.do(0))
        await until(work.begun)
        gone, last = (asyncio.ensure_future(batcher.do(n)) for n in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        work.go.set()
        assert await first == 0
        assert await last == 4

    run(batcher, scenario())
    assert work.batches == [[0], [2]]


def test_it_waits_for_what_is_being_made_but_never_alone() -> None:
    work = Doubler()
    work.go.set()
    batcher = Batcher(work, most=8, wait=5.0)

    async def scenario() -> None:
        begin = time.monotonic()
        assert await batcher.do(1) == 2
        with batcher.coming() as slow:
            quick = asyncio.ensure_future(batcher.do(2))
            await asyncio.sleep(0.05)
            assert not quick.done()
            assert await slow.fill(3) == 6
            assert await quick == 4
        # A picture that turns out to be none is waited for no longer.
        with batcher.coming():
            other = asyncio.ensure_future(batcher.do(4))
            await asyncio.sleep(0.05)
            assert not other.done()
        assert await other == 8
        assert time.monotonic() - begin < 4

    run(batcher, scenario())
    assert work.batches == [[1], [2, 3], [4]]


def test_a_closed_batcher_takes_nothing() -> None:
    work = Doubler()
    work.go.set()
    batcher = Batcher(work, most=8)
    assert run(batcher, batcher.do(1)) == 2
    with pytest.raises(RuntimeError):
        run(batcher, batcher.do(1))

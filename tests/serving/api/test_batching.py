"""Concurrent requests share calls of the model."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from trainer.serving.api.batching import Batcher, through

R = TypeVar("R")


@dataclass
class Number:
    """What goes through the stages, and what became of it."""

    value: int
    seen: list[str] = field(default_factory=list)


class Doubler:
    """Doubles numbers once `go` is set; fails for negative ones; notes the batches."""

    def __init__(self, name: str = "doubled") -> None:
        self.name = name
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, items: Sequence[Number]) -> None:
        self.begun.set()
        assert self.go.wait(10)
        self.batches.append([item.value for item in items])
        for item in items:
            if item.value < 0:
                raise ValueError(f"negative: {item.value}")
        for item in items:
            item.value *= 2
            item.seen.append(self.name)


def run(scenario: Coroutine[object, object, R], *stages: Batcher[Number]) -> R:
    async def within() -> R:
        async with asyncio.timeout(20):
            return await scenario

    for stage in stages:
        stage.start()
    try:
        return asyncio.run(within())
    finally:
        for stage in stages:
            stage.close()


async def sent(value: int, *stages: Batcher[Number]) -> int:
    return (await through(Number(value), *stages)).value


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


def test_what_waits_is_done_together() -> None:
    work = Doubler()
    stage = Batcher(work, most=4)

    async def scenario() -> list[int]:
        first = through(Number(0), stage)
        await until(work.begun)
        others = [through(Number(n), stage) for n in range(1, 8)]
        assert len(stage) == 7
        work.go.set()
        return [number.value for number in await asyncio.gather(first, *others)]

    assert run(scenario(), stage) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_failing_item_fails_alone_and_goes_no_further() -> None:
    work, last = Doubler(), Doubler("again")
    last.go.set()
    stages = Batcher(work, most=8), Batcher(last, most=8, wait=5.0)

    async def scenario() -> list[Number | BaseException]:
        first = through(Number(0), *stages)
        await until(work.begun)
        others = [through(Number(n), *stages) for n in (1, -2, 3)]
        work.go.set()
        return list(await asyncio.gather(first, *others, return_exceptions=True))

    begin = time.monotonic()
    first, one, failed, three = run(scenario(), *stages)
    assert isinstance(failed, ValueError)
    assert [n.value for n in (first, one, three) if isinstance(n, Number)] == [0, 4, 12]
    assert all(-2 not in batch for batch in last.batches)
    # The next stage does not wait for it.
    assert time.monotonic() - begin < 4


def test_items_of_callers_that_went_away_are_dropped() -> None:
    work = Doubler()
    stage = Batcher(work, most=1)

    async def scenario() -> None:
        first = through(Number(0), stage)
        await until(work.begun)
        gone, last = (through(Number(n), stage) for n in (1, 2))
        gone.cancel()
        work.go.set()
        assert (await first).value == 0
        assert (await last).value == 4

    run(scenario(), stage)
    assert work.batches == [[0], [2]]


def test_an_item_may_fail_in_any_stage() -> None:
    works = Doubler(), Doubler(), Doubler()
    stages = [Batcher(work, most=4, wait=5.0) for work in works]
    for work in works:
        work.go.set()

    def second(items: Sequence[Number]) -> None:
        if any(item.value == 4 for item in items):
            raise ValueError("four")

    stages.insert(1, Batcher(second, most=4))

    async def scenario() -> list[object]:
        numbers = (through(Number(n), *stages) for n in (1, 2, 3))
        found = await asyncio.gather(*numbers, return_exceptions=True)
        return [n.value if isinstance(n, Number) else str(n) for n in found]

    begin = time.monotonic()
    assert run(scenario(), *stages) == [8, "four", 24]
    assert time.monotonic() - begin < 4


def test_those_whose_callers_left_are_not_tried_again_one_by_one() -> None:
    tried: list[int] = []
    begun, go = threading.Event(), threading.Semaphore(0)

    def fail(items: Sequence[Number]) -> None:
        tried.append(len(items))
        begun.set()
        assert go.acquire(timeout=10)
        raise OSError("no answer")

    stage: Batcher[Number] = Batcher(fail, most=4)

    async def scenario() -> None:
        first = through(Number(0), stage)
        await until(begun)
        others = [through(Number(n), stage) for n in range(1, 4)]
        begun.clear()
        go.release()
        with pytest.raises(OSError, match="no answer"):
            await first
        await until(begun)
        for number in others:
            number.cancel()
        go.release(3)

    run(scenario(), stage)
    assert tried == [1, 3]


@pytest.mark.parametrize("value", [1, -1])
def test_nothing_is_kept_of_what_is_done(value: int) -> None:
    """A picture may have ten million bytes, and the garbage of cycles is collected much later."""
    work = Doubler()
    work.go.set()
    stage = Batcher(work, most=4)

    async def scenario() -> weakref.ref[Number]:
        number = Number(value)
        seen = weakref.ref(number)
        future = through(number, stage)
        del number
        await asyncio.wait([future])
        _ = future.exception()
        del future, _
        await asyncio.sleep(0.05)
        return seen

    gc.collect()
    gc.disable()
    stage.start()
    try:
        seen = asyncio.run(scenario())
        assert seen() is None
    finally:
        gc.enable()
        stage.close()


def test_an_item_goes_from_stage_to_stage() -> None:
    works = Doubler("decoded"), Doubler("embedded")
    stages = [Batcher(work, most=4) for work in works]
    for work in works:
        work.go.set()

    async def scenario() -> Number:
        return await through(Number(3), *stages)

    number = run(scenario(), *stages)
    assert (number.value, number.seen) == (12, ["decoded", "embedded"])


def test_a_stage_waits_for_what_is_before_it_but_never_alone() -> None:
    slow, work = Doubler(), Doubler()
    work.go.set()
    before, stage = Batcher(slow, most=1), Batcher(work, most=8, wait=5.0)

    async def scenario() -> None:
        begin = time.monotonic()
        assert await sent(1, stage) == 2
        late = through(Number(3), before, stage)
        await until(slow.begun)
        quick = through(Number(2), stage)
        await asyncio.sleep(0.05)
        assert not quick.done()
        slow.go.set()
        assert (await late).value == 12
        assert (await quick).value == 4
        # A picture that turns out to be none is waited for no longer, nor one that nobody wants.
        slow.go.clear()
        slow.begun.clear()
        none = through(Number(-1), before, stage)
        await until(slow.begun)
        unwanted = through(Number(5), before, stage)
        other = through(Number(4), stage)
        await asyncio.sleep(0.05)
        assert not other.done()
        unwanted.cancel()
        slow.go.set()
        assert (await other).value == 8
        with pytest.raises(ValueError, match="-1"):
            await none
        assert time.monotonic() - begin < 4

    run(scenario(), before, stage)
    assert work.batches == [[1], [2, 6], [4]]


def test_as_many_batches_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(3)
    stage: Batcher[Number] = Batcher(lambda items: together.wait(10), most=1, threads=3)

    async def scenario() -> None:
        await asyncio.gather(*(through(Number(n), stage) for n in range(3)))

    run(scenario(), stage)


def test_a_closed_stage_takes_nothing() -> None:
    work = Doubler()
    work.go.set()
    stages = Batcher(work, most=8), Batcher(work, most=8)

    async def scenario() -> None:
        assert await sent(1, *stages) == 4
        stages[1].close()
        with pytest.raises(RuntimeError, match="stopping"):
            await sent(1, *stages)
        stages[0].close()
        with pytest.raises(RuntimeError, match="stopping"):
            await sent(1, *stages)

    run(scenario(), *stages)


def test_closing_finishes_what_waits() -> None:
    works = Doubler(), Doubler()
    works[1].go.set()
    stages = [Batcher(work, most=2) for work in works]
    for stage in stages:
        stage.start()

    async def scenario() -> list[int]:
        waiting = [through(Number(n), *stages) for n in range(5)]
        await until(works[0].begun)

        def close() -> None:
            for stage in stages:
                stage.close()

        closing = asyncio.ensure_future(asyncio.to_thread(close))
        await asyncio.sleep(0.05)
        works[0].go.set()
        await closing
        return [(await number).value for number in waiting]

    assert run(scenario()) == [0, 4, 8, 12, 16]

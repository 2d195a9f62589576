"""Many things worked on at once, their results in order, and memory that is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_flight(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what the function makes of it in a thread, in the order of the items.

    Args:
        pool: its threads work.
        function: of an item.
        items: any number.
        ahead: most items that have been begun and not yet been yielded: what bounds the memory.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        if len(begun) >= ahead:
            first, future = begun.popleft()
            yield first, future.result()
        begun.append((item, pool.submit(function, item)))
    for first, future in begun:
        yield first, future.result()

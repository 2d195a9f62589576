"""Many things worked on at once, their results in order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.launch.in_flight import in_flight


def test_results_come_in_order_with_a_bounded_number_begun() -> None:
    taken = 0
    lock = threading.Lock()

    def items():
        nonlocal taken
        for number in range(30):
            with lock:
                taken += 1
            yield number

    def work(number: int) -> int:
        # The first of a few comes last.
        time.sleep(0.02 if number % 4 == 0 else 0.001)
        return number * number

    with ThreadPoolExecutor(4) as pool:
        for number, (item, result) in enumerate(in_flight(pool, work, items(), 6)):
            assert (item, result) == (number, number * number)
            assert taken <= number + 7
    assert taken == 30


def test_an_error_is_not_swallowed() -> None:
    def work(number: int) -> float:
        return 1 / (number - 3)

    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        list(in_flight(pool, work, range(10), 4))

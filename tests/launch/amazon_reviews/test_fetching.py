"""Many pictures in flight, and what becomes of each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.data.http_server import picture
from tests.launch.amazon_reviews.shop import encoded, photo
from trainer.data.fetch import Failure, Fetched
from trainer.launch.amazon_reviews.embedding import embedded, load_embedder, unpacked
from trainer.launch.amazon_reviews.fetching import in_flight


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


def test_a_picture_that_tensorflow_refuses_does_not_take_others_with_it(model: Path) -> None:
    embedder = load_embedder(str(model / "model"))
    contents = [encoded(photo(3, 0)), b"RIFF....WEBPVP8 broken", picture("png", 1)]
    batch = [
        ({"url": f"u{n}", "uses": [("B1", "user")]}, Fetched(f"u{n}", "", content, "JPEG", 1, 1, 2))
        for n, content in enumerate(contents)
    ]
    (_, good), (work, bad), (_, other) = embedded(batch, embedder)
    assert work["url"] == "u1"
    assert isinstance(bad, Failure)
    assert (bad.reason, bad.attempts, bad.retry) == ("damaged", 2, False)
    assert isinstance(good, dict)
    assert isinstance(other, dict)
    assert good["uses"] == [{"asin": "B1", "side": "user"}]
    vectors = unpacked([good["embedding"], other["embedding"]])
    np.testing.assert_allclose(vectors, embedder.embed_bytes([contents[0], contents[2]]), atol=2e-3)
    assert list(embedded([], embedder)) == []

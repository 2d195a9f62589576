"""What becomes of each picture of a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.data.http_server import picture
from tests.launch.amazon_reviews.shop import encoded, photo
from trainer.data.fetch import Failure, Fetched
from trainer.launch.amazon_reviews.embedding import embedded, unpacked
from trainer.serving.embedder import Embedder


def test_a_picture_that_tensorflow_refuses_does_not_take_others_with_it(model: Path) -> None:
    embedder = Embedder(model / "model")
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

"""Similarities of user pictures to those of their product."""

from __future__ import annotations

import itertools
import math
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from trainer.launch.amazon_reviews.comparing import Compare, compared, scores, uses
from trainer.launch.amazon_reviews.embedding import packed, unpacked
from trainer.launch.beam.running import run


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, number by number."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = [math.sqrt(sum(float(x) ** 2 for x in v)) for v in (a, b)]
    return dot / (lengths[0] * lengths[1])


def picture(url: str, vector: np.ndarray, *uses: tuple[str, str]) -> dict[str, Any]:
    return {
        "url": url,
        "uses": [{"asin": asin, "side": side} for asin, side in uses],
        "embedding": packed(vector),
    }


def test_packed_vectors_keep_three_decimals_of_every_cosine() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 48)) * np.logspace(-3, 6, 20)[:, None]
    back = unpacked([packed(vector) for vector in vectors])
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    for a, b in itertools.combinations(range(20), 2):
        assert cosine(back[a], back[b]) == pytest.approx(cosine(vectors[a], vectors[b]), abs=1e-3)
    assert not unpacked([packed(np.zeros(4))]).any()


def test_the_similarity_is_the_mean_of_the_cosines_to_all_pictures_of_the_product() -> None:
    vectors = {
        name: np.random.default_rng(n).normal(size=16) + 0.3
        for n, name in enumerate(["p1", "p2", "p3", "u1", "u2", "both", "alone", "q1"])
    }
    pictures = [
        *(picture(name, vectors[name], ("B1", "product")) for name in ("p1", "p2", "p3")),
        picture("u1", vectors["u1"], ("B1", "user")),
        picture("u2", vectors["u2"], ("B1", "user"), ("B2", "user")),
        # A worker that was started again.
        picture("u2", vectors["u2"], ("B1", "user"), ("B2", "user")),
        picture("q1", vectors["q1"], ("B2", "product")),
        picture("alone", vectors["alone"], ("B3", "user")),
        picture("both", vectors["both"], ("B4", "product")),
    ]
    found: dict[str, Any] = {}
    for asin in ("B1", "B2", "B3", "B4"):
        of_product = [use for p in pictures for name, use in uses(p) if name == asin]
        found |= {row["asin"]: row for row in compared((asin, of_product))}
    assert sorted(found) == ["B1", "B2"]
    for asin, shop in (("B1", ["p1", "p2", "p3"]), ("B2", ["q1"])):
        row = found[asin]
        assert row["product_urls"] == shop
        for url, similarity in zip(row["user_urls"], row["similarities"], strict=True):
            mean = sum(cosine(vectors[url], vectors[name]) for name in shop) / len(shop)
            assert similarity == pytest.approx(mean, abs=1e-3)
    assert found["B1"]["user_urls"] == ["u1", "u2"]

    def check(rows: list[Any]) -> None:
        assert sorted(rows, key=lambda row: row["asin"]) == [found["B1"], found["B2"]]

    counts = run([], lambda p: assert_that(p | beam.Create(pictures) | Compare(), check))
    assert counts == {"products_compared": 2, "pairs": 3 * 2 + 1}


def test_the_pictures_of_the_shop_are_kept_with_the_best_of_the_users() -> None:
    row = {"product_urls": ["p1", "p2"], "user_urls": ["u1", "u2"], "similarities": [0.4, 0.7]}
    assert list(scores(row)) == [
        ("p1", "product", 0.7),
        ("p2", "product", 0.7),
        ("u1", "user", 0.4),
        ("u2", "user", 0.7),
    ]

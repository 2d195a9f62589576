"""Products with pictures of both sides."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from trainer.launch.amazon_reviews.joining import TITLE, JoinProducts
from trainer.launch.beam.running import run


def url(name: str) -> str:
    return f"https://shop.example/I/{name}.jpg"


def join(reviews: list[Any], metadata: list[Any], rows: list[Any]) -> dict[str, int]:
    def build(pipeline: beam.Pipeline) -> None:
        records = {
            "reviews": pipeline | "reviews" >> beam.Create(reviews),
            "metadata": pipeline | "metadata" >> beam.Create(metadata),
        }
        assert_that(records | JoinProducts(), equal_to(rows))

    return run([], build)


def test_products_come_with_all_pictures_of_their_reviews() -> None:
    reviews = [
        {"asin": "B1", "image": [url("u2._SY88")]},
        {"asin": "B1", "image": [url("u1._SY88"), url("u2._SY88")]},
        {"asin": "B1"},
        {"asin": "B2", "image": []},
        # A customer who sends the shop's own picture, and one whose product nobody knows.
        {"asin": "B3", "image": [url("p3._SY88")]},
        {"asin": "B4", "image": [url("u4")]},
        {"asin": " B5 ", "image": [url("u5"), url("p5")]},
        {"asin": "B6", "image": [url("u6")]},
    ]
    metadata = [
        # Comes twice, with other pictures.
        {"asin": "B1", "title": "One", "category": ["A", "B"], "imageURL": [url("p1._SX38_")]},
        {"asin": "B1", "title": "One", "category": ["A", "B"], "imageURLHighRes": [url("p0")]},
        {"asin": "B2", "imageURL": [url("p2")]},
        {"asin": "B3", "imageURL": [url("p3")]},
        {"asin": "B5", "title": "x" * 999, "category": "odd", "imageURL": [url("p5")]},
        {"asin": "B6", "title": "no picture"},
    ]
    rows = [
        {
            "asin": "B1",
            "title": "One",
            "category": "A > B",
            "product_urls": [url("p0"), url("p1")],
            "user_urls": [url("u1"), url("u2")],
        },
        {
            "asin": "B5",
            "title": "x" * TITLE,
            "category": "",
            "product_urls": [url("p5")],
            "user_urls": [url("u5")],
        },
    ]
    counts = join(reviews, metadata, rows)
    assert counts == {
        "reviews_with_pictures": 6,
        "products": 6,
        "products_with_user_pictures": 5,
        "products_joined": 2,
    }


def test_reviews_without_any_picture_make_no_product() -> None:
    assert join([{"asin": "B1"}], [{"asin": "B1", "imageURL": [url("p1")]}], []) == {"products": 1}

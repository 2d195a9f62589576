"""Steps 3 and 4: how like a product's own pictures those of its customers are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PCollection

from trainer.launch.amazon_reviews.embedding import SHOP, USER, unpacked

#: A product: its pictures that were embedded, and of each user picture the mean cosine similarity
#: to the product's pictures.
COMPARED = pa.schema(
    [
        ("asin", pa.string()),
        ("product_urls", pa.list_(pa.string())),
        ("user_urls", pa.list_(pa.string())),
        ("similarities", pa.list_(pa.float32())),
    ]
)


class Compare(beam.PTransform):
    """Rows of `EMBEDDED` -> rows of :data:`COMPARED`, for products with pictures of both sides.

    Counters: products_compared, pairs.
    """

    def expand(self, pictures: PCollection) -> PCollection:
        return (
            pictures
            | "by product" >> beam.FlatMap(uses)
            | beam.GroupByKey()
            | "compare" >> beam.FlatMap(compared)
        )


def uses(picture: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str, bytes]]]:
    """Yield a picture for each product that it is of."""
    for use in picture["uses"]:
        yield use["asin"], (use["side"], picture["url"], picture["embedding"])


def compared(group: tuple[str, Iterable[tuple[str, str, bytes]]]) -> Iterator[dict[str, Any]]:
    """Yield the row of a product, if it has pictures of both sides."""
    asin, pictures = group
    sides: dict[str, dict[str, bytes]] = {SHOP: {}, USER: {}}
    for side, url, vector in sorted(pictures):
        # A worker that is started again may embed a picture twice.
        sides[side].setdefault(url, vector)
    if not sides[SHOP] or not sides[USER]:
        return
    similarity = unpacked(list(sides[SHOP].values())) @ unpacked(list(sides[USER].values())).T
    Metrics.counter("amazon_reviews", "products_compared").inc()
    Metrics.counter("amazon_reviews", "pairs").inc(similarity.size)
    yield {
        "asin": asin,
        "product_urls": list(sides[SHOP]),
        "user_urls": list(sides[USER]),
        "similarities": np.mean(similarity, axis=0, dtype=np.float64).tolist(),
    }


def scores(product: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield each picture of a row of :data:`COMPARED`: url, side, and its score.

    A data set with threshold t holds the pictures with a score above t. A user picture's score is
    its mean similarity. The product's own pictures have that of the best of them: they are kept if
    any user picture is.
    """
    for url in product["product_urls"]:
        yield url, SHOP, max(product["similarities"])
    for url, similarity in zip(product["user_urls"], product["similarities"], strict=True):
        yield url, USER, similarity

"""Step 1: the products that customers took pictures of, with the pictures of both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, PCollection

from trainer.launch.amazon_reviews.pictures import PRODUCT_FIELDS, USER_FIELDS, pictures_of

#: A product, and the addresses of its pictures at full size.
PRODUCT = pa.schema(
    [
        ("asin", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("product_urls", pa.list_(pa.string())),
        ("user_urls", pa.list_(pa.string())),
    ]
)

#: Characters of a title that are kept: some hold a whole script of the shop's page.
TITLE = 300


class JoinProducts(beam.PTransform):
    """{"reviews": records, "metadata": records} -> rows of :data:`PRODUCT`.

    A product has pictures of both sides. Counters: reviews_with_pictures, products,
    products_with_user_pictures, products_joined.
    """

    def expand(self, records: dict[str, PCollection]) -> PCollection:
        users = records["reviews"] | "user pictures" >> beam.FlatMap(user_pictures)
        pictured = (
            users
            | "asins" >> beam.Keys()
            | "each once" >> beam.Distinct()
            | "in a set" >> beam.CombineGlobally(beam.combiners.ToSetCombineFn())
        )
        # Few products have pictures of customers: the others need not go through the join.
        products = records["metadata"] | "products" >> beam.FlatMap(
            product_pictures, AsSingleton(pictured)
        )
        return (
            {"users": users, "products": products}
            | "by product" >> beam.CoGroupByKey()
            | "join" >> beam.FlatMap(joined)
        )


def user_pictures(review: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the product of a review and the pictures of its writer, if there are any."""
    urls = pictures_of(review, USER_FIELDS)
    if urls:
        _count("reviews_with_pictures")
        yield review["asin"].strip(), urls


def product_pictures(
    record: dict[str, Any], pictured: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a product of the metadata, if customers took pictures of it."""
    _count("products")
    asin = record["asin"].strip()
    if asin in pictured:
        title, category = record.get("title"), record.get("category")
        yield (
            asin,
            {
                "title": title[:TITLE] if isinstance(title, str) else "",
                "category": (
                    " > ".join(str(part) for part in category) if isinstance(category, list) else ""
                ),
                "urls": pictures_of(record, PRODUCT_FIELDS),
            },
        )


def joined(group: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the row of a product that has pictures of both sides.

    Records that come twice are taken together. A customer's picture that the shop shows, too, is
    the product's.
    """
    asin, sides = group
    users = {url for urls in sides["users"] for url in urls}
    if not users:
        return
    _count("products_with_user_pictures")
    records = sorted(sides["products"], key=lambda record: (record["title"], record["category"]))
    products = {url for record in records for url in record["urls"]}
    if not products or users <= products:
        return
    _count("products_joined")
    yield {
        "asin": asin,
        "title": records[0]["title"],
        "category": records[0]["category"],
        "product_urls": sorted(products),
        "user_urls": sorted(users - products),
    }


def _count(name: str) -> None:
    Metrics.counter("amazon_reviews", name).inc()

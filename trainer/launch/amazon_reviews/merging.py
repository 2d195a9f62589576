"""Step 6: the kept pictures of all categories as one table for each threshold."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PCollection

from trainer.launch.amazon_reviews.comparing import scores
from trainer.launch.amazon_reviews.embedding import USER
from trainer.launch.beam import places

#: Parts that a sorted table is written in: each has to fit into the memory of a worker.
PARTS = 64

#: Columns of a data set.
HEADER = ("image_path", "label")


class TrainingRows(beam.PTransform):
    """{"products": rows of `COMPARED`, "pictures": rows of `DOWNLOADED`} -> (label, image_path).

    A file that several pictures hold comes once; where it is of several products, the first by its
    name has it: as a picture of both it would teach that they are unlike. Counters, each with
    `_THRESHOLD` behind: kept, kept_user (pictures that pass), products_written, written.

    Args:
        threshold: pictures with a score above it are kept.
        least_pictures: of a product; those with fewer are left out.
    """

    def __init__(self, threshold: float, least_pictures: int) -> None:
        super().__init__()
        self._threshold = threshold
        self._least = least_pictures

    def expand(self, rows: dict[str, PCollection]) -> PCollection:
        return (
            {
                "kept": rows["products"] | "kept" >> beam.FlatMap(kept, self._threshold),
                "pictures": rows["pictures"]
                | "by url" >> beam.Map(lambda row: (row["url"], (row["sha256"], row["path"]))),
            }
            | "downloaded" >> beam.CoGroupByKey()
            | "files" >> beam.FlatMap(files_of_products)
            | "each file once" >> beam.CombinePerKey(min)
            | "of its product" >> beam.Values()
            | "by product" >> beam.GroupByKey()
            | "rows" >> beam.FlatMap(rows_of_product, self._threshold, self._least)
        )


def kept(product: dict[str, Any], threshold: float) -> Iterator[tuple[str, str]]:
    """Yield the pictures of a product that pass, with the product."""
    for url, side, score in scores(product):
        if score > threshold:
            Metrics.counter("amazon_reviews", f"kept_{threshold:g}").inc()
            if side == USER:
                Metrics.counter("amazon_reviews", f"kept_user_{threshold:g}").inc()
            yield url, product["asin"]


def files_of_products(
    group: tuple[str, dict[str, Iterable[Any]]],
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the content of a picture that was downloaded, with each product and the path."""
    _, rows = group
    found = min(rows["pictures"], default=None)
    if found is not None:
        sha256, path = found
        for asin in set(rows["kept"]):
            yield sha256, (asin, path)


def rows_of_product(
    product: tuple[str, Iterable[str]], threshold: float, least: int
) -> Iterator[tuple[str, str]]:
    """Yield the rows of a product that has enough pictures."""
    asin, paths = product
    found = sorted(set(paths))
    if len(found) >= least:
        Metrics.counter("amazon_reviews", f"products_written_{threshold:g}").inc()
        Metrics.counter("amazon_reviews", f"written_{threshold:g}").inc(len(found))
        for path in found:
            yield asin, path


class WriteSortedParts(beam.PTransform):
    """Tuples of strings -> CSV files `part-00` and on in a folder, each sorted, without a header.

    Tuples with an equal first string are in the same part, one after the other, so that the parts
    in order are the same whatever the workers were.

    Args:
        folder: holds no parts of before.
        columns: which strings of the tuple to write, in order.
    """

    def __init__(self, folder: str, columns: Sequence[int]) -> None:
        super().__init__()
        self._folder = folder
        self._columns = tuple(columns)

    def expand(self, rows: PCollection) -> PCollection:
        return (
            rows
            | "to parts" >> beam.Map(lambda row: (zlib.crc32(row[0].encode()) % PARTS, row))
            | beam.GroupByKey()
            | "write" >> beam.Map(write_part, self._folder, self._columns)
        )


def write_part(
    group: tuple[int, Iterable[tuple[str, ...]]], folder: str, columns: Sequence[int]
) -> None:
    """Write the file of a part."""
    number, rows = group
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([row[column] for column in columns] for row in sorted(set(rows)))
    with places.whole(FileSystems.join(folder, f"part-{number:02d}")) as stream:
        stream.write(text.getvalue().encode("utf-8", "backslashreplace"))


def put_together(sources: Iterable[str], header: Sequence[str], target: str) -> None:
    """Write a CSV file of its header and the parts of all folders in order, whole or not at all."""
    with places.whole(target) as stream:
        stream.write((",".join(header) + "\n").encode())
        for folder in sources:
            for part in places.find(FileSystems.join(folder, "part-*")):
                places.append(part, stream)

"""Files of the dump: their names, and their lines as records."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from trainer.config import UserError
from trainer.launch.amazon_reviews.pictures import PRODUCT_FIELDS, USER_FIELDS
from trainer.launch.beam import places

#: Tag of the output with what is wrong in the files.
MALFORMED = "malformed"
#: Most faults of a file that are written down; all are counted.
FAULTS = 100
#: Fields of a record that are read.
FIELDS = frozenset({"asin", "title", "category", *PRODUCT_FIELDS, *USER_FIELDS})
#: Longest line, bytes. What is longer is no record, and must not fill the memory.
LONGEST = 1 << 26


def categories(reviews: Sequence[str], metadata: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the file of reviews and the file of metadata of each category, by its name.

    The name is that of the file without `meta_` in front and `_5` (for products and users with at
    least 5 reviews) behind: `Appliances_5.json.gz` and `meta_Appliances.json.gz` are of
    `Appliances`. One file of each kind makes a pair whatever their names are.

    Args:
        reviews: files, or patterns such as `dump/*_5.json.gz`.
        metadata: files or patterns.

    Raises:
        UserError: a file is missing, two are of one category, or one has no counterpart.
    """
    review_files, metadata_files = _by_category(reviews), _by_category(metadata)
    if len(review_files) == len(metadata_files) == 1:
        ((name, reviewed),) = review_files.items()
        (described,) = metadata_files.values()
        return {name: (reviewed, described)}
    for names, others, kind in (
        (review_files, metadata_files, "metadata"),
        (metadata_files, review_files, "reviews"),
    ):
        if alone := sorted(names.keys() - others.keys()):
            raise UserError(
                f"{names[alone[0]]} has no file of {kind} beside it: name both of each category,"
                f" such as {alone[0]}.json.gz and meta_{alone[0]}.json.gz"
            )
    return {name: (review_files[name], metadata_files[name]) for name in sorted(review_files)}


def _by_category(patterns: Sequence[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for pattern in patterns:
        found = places.find(pattern)
        if not found:
            raise UserError(f"there is no file {pattern}")
        for path in found:
            name = category_of(path)
            if files.setdefault(name, path) != path:
                raise UserError(
                    f"{files[name]} and {path} are both of the category {name}: give one of them"
                )
    return files


def category_of(path: str) -> str:
    """Return the category that a file of the dump is of, by its name.

    >>> category_of("dump/meta_All_Beauty.json.gz"), category_of("All_Beauty_5.json.gz")
    ('All_Beauty', 'All_Beauty')
    """
    name = re.sub(r"(\.jsonl?)?(\.gz)?$", "", path.rpartition("/")[2])
    return re.sub(r"^(meta|reviews)_|_5$", "", name) or name


class ReadRecords(beam.DoFn):
    """Path of a file of the dump -> its records, those with an `asin`; lines counted.

    Files are read as gzip if they begin as such, line by line. What is wrong goes to the output
    :data:`MALFORMED` as `file:line: reason`; the counters `KIND_lines`, `KIND_malformed` and
    `KIND_cut_short` (files that end in the middle) count it.

    Args:
        kind: `reviews` or `metadata`.
    """

    def __init__(self, kind: str) -> None:
        self._lines = Metrics.counter("amazon_reviews", f"{kind}_lines")
        self._malformed = Metrics.counter("amazon_reviews", f"{kind}_malformed")
        self._cut_short = Metrics.counter("amazon_reviews", f"{kind}_cut_short")

    def process(self, path: str) -> Iterator[Any]:
        faults = number = 0
        try:
            for number, line in _lines(path):
                self._lines.inc()
                record = read_record(line)
                if not isinstance(record, str):
                    yield record
                    continue
                self._malformed.inc()
                faults += 1
                if faults <= FAULTS:
                    yield TaggedOutput(MALFORMED, f"{path}:{number}: {record}")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            # Beam's own reader takes the end of a broken download for the end of the data.
            self._cut_short.inc()
            yield TaggedOutput(MALFORMED, f"{path}:{number + 1}: {error}")


def read_record(line: bytes) -> dict[str, Any] | str:
    """Return what is read of the record of a line, or what is wrong with it."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            return "not a record"
        read = {name: record[name] for name in FIELDS & record.keys()}
        # JSON allows halves of characters, which nothing that is written or handed on may have.
        text = json.dumps(read, ensure_ascii=False).encode(errors="replace").decode()
        record = json.loads(text)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(record.get("asin"), str) or not record["asin"].strip():
        return "no asin"
    return record


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers in the file."""
    with places.open_plain(path) as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        lines: BinaryIO = gzip.GzipFile(fileobj=stream) if packed else stream  # type: ignore[assignment]
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST), b""), start=1):
            if line.strip():
                yield number, line

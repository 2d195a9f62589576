"""What has become of addresses: snapshots of pictures and of failures, and what is left to do.

A worker writes what it has after every few hundred pictures, under names that nothing else has. So
a step that was killed goes on from its snapshots, and workers need not know of each other.
"""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.parquetio import ReadAllFromParquet
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PCollection

from trainer.data.fetch import Entry, Failure
from trainer.launch.beam import places

#: A failure: the fields of :class:`trainer.data.fetch.Entry`, `url` being as in the dump.
FAILED = pa.schema(
    [
        ("url", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int64()),
        ("runs", pa.int64()),
        ("last_try", pa.float64()),
        ("next_try", pa.float64()),
    ]
)

#: What any later time at which a failure is due is taken for: calendars end with the year 9999.
LATEST = 253_402_000_000.0


class Snapshots:
    """A folder of files `pictures-*.parquet` and `failures-*.parquet`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def write(self, kind: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Write rows as one more file, if there are any.

        Args:
            kind: `pictures` or `failures`.
            rows: of `schema`.
            schema: of the file.
        """
        if rows:
            path = FileSystems.join(self.folder, f"{kind}-{uuid.uuid4().hex}.parquet")
            with places.whole(path) as stream:
                pq.write_table(pa.Table.from_pylist(list(rows), schema), stream)

    def read(self, pipeline: beam.Pipeline, kind: str, columns: list[str] | None = None) -> Any:
        """Return the rows of all files of a kind, none if there are no files."""
        return read_rows(pipeline, FileSystems.join(self.folder, f"{kind}-*.parquet"), columns)


def read_rows(pipeline: beam.Pipeline, pattern: str, columns: list[str] | None = None) -> Any:
    """Return the rows of the Parquet files that are there now, as dictionaries."""
    files = places.find(pattern)
    return (
        pipeline
        | f"files {pattern}" >> beam.Create(files, reshuffle=False)
        | f"read {pattern}" >> ReadAllFromParquet(columns=columns)
    )


def failed_row(failure: Failure, work: Mapping[str, Any], *, first: float) -> dict[str, Any]:
    """Return the row of a failure.

    Args:
        failure: of this start.
        work: the row of :class:`Pending` that it is of.
        first: seconds until it is due again after the first start, if it may pass at all; doubled
            with each start up to a day, if that is longer.
    """
    previous = Entry(**work["failed"]) if work["failed"] else None
    entry = Entry.after(failure, previous, first=first, longest=max(first, 86_400.0))
    return {**dataclasses.asdict(entry), "url": work["url"]}


def by_url(rows: dict[str, PCollection]) -> PCollection:
    """{"wanted": (url, use), "done": rows, "failed": rows} -> (url, what there is of each)."""
    return {
        "wanted": rows["wanted"],
        "done": rows["done"] | "done urls" >> beam.Map(lambda row: (row["url"], None)),
        "failed": rows["failed"] | "by url" >> beam.Map(lambda row: (row["url"], row)),
    } | beam.CoGroupByKey()


class Pending(beam.PTransform):
    """{"wanted": (url, use), "done": rows, "failed": rows} -> what is left to do.

    Each is a dictionary with `url`, `uses` (all that the address is wanted for, sorted), and
    `failed`, the row of an earlier failure or None. Failures that cannot pass, or are not due, are
    left alone.

    Args:
        now: seconds since 1970, which failures must be due at.
    """

    def __init__(self, now: float) -> None:
        super().__init__()
        self._now = now

    def expand(self, rows: dict[str, PCollection]) -> PCollection:
        return by_url(rows) | "left to do" >> beam.FlatMap(pending, self._now)


def pending(group: tuple[str, dict[str, Iterable[Any]]], now: float) -> Iterator[dict[str, Any]]:
    """Yield the work that an address still is, if any; see :class:`Pending`."""
    url, rows = group
    uses = sorted(set(rows["wanted"]))
    if not uses or any(True for _ in rows["done"]):
        return
    last = latest(rows["failed"])
    if last is None or Entry(**last).due(now):
        yield {"url": url, "uses": uses, "failed": last}


def latest(failures: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the failure of the last start, None of none."""
    return max(failures, key=lambda row: (row["last_try"], row["runs"]), default=None)


class Settle(beam.PTransform):
    """{"wanted": (url, use), "done": rows, "failed": rows} -> the failures that remain, counted.

    What is not wanted, as under another threshold before, is passed over. Counters: `STEP_done`
    addresses with a picture, `STEP_failed_REASON`; and of those that may pass, the distribution
    `STEP_due` of the times at which they are due, in whole seconds.

    Args:
        step: name in front of the counters.
    """

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def expand(self, rows: dict[str, PCollection]) -> PCollection:
        return by_url(rows) | "settled" >> beam.FlatMap(settled, self._step)


def settled(group: tuple[str, dict[str, Iterable[Any]]], step: str) -> Iterator[dict[str, Any]]:
    """Count an address, and yield its failure if it remains; see :class:`Settle`."""
    _, rows = group
    if not any(True for _ in rows["wanted"]):
        return
    if any(True for _ in rows["done"]):
        Metrics.counter("amazon_reviews", f"{step}_done").inc()
        return
    last = latest(rows["failed"])
    if last is not None:
        Metrics.counter("amazon_reviews", f"{step}_failed_{last['reason']}").inc()
        if last["next_try"] is not None:
            due = Metrics.distribution("amazon_reviews", f"{step}_due")
            due.update(math.ceil(min(last["next_try"], LATEST)))
        yield last

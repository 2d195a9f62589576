"""Snapshots, and what is left to do after them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from trainer.data.fetch import Failure
from trainer.launch.amazon_reviews.category import failure_cells
from trainer.launch.amazon_reviews.outcomes import (
    FAILED,
    LATEST,
    Pending,
    Settle,
    Snapshots,
    failed_row,
)
from trainer.launch.beam.running import run

NOW = 1_000_000.0


def failed(
    url: str, next_try: float | None, *, at: float = 0.0, reason: str = "timeout", runs: int = 1
) -> dict[str, Any]:
    return {
        "url": url,
        "reason": reason,
        "detail": "",
        "attempts": 4,
        "runs": runs,
        "last_try": at,
        "next_try": next_try,
    }


DONE = [{"url": "done"}, {"url": "done"}, {"url": "came at last"}]
FAILURES = [
    failed("came at last", NOW - 5),
    failed("due", NOW - 5, at=1.0),
    failed("not due", NOW - 5, at=1.0),
    failed("not due", NOW + 5, at=2.0, runs=2),
    failed("never", None, reason="not_found"),
    failed("not wanted any more", NOW - 9, at=1.0),
]


def rows(pipeline: beam.Pipeline, *names: str) -> dict[str, Any]:
    wanted = [("new", ("B2", "user")), ("new", ("B1", "user")), ("new", ("B1", "user"))]
    wanted += [(url, ("B1", "product")) for url in ("done", "due", "not due", "never")]
    every = {"wanted": wanted, "done": DONE, "failed": FAILURES}
    return {name: pipeline | name >> beam.Create(every[name]) for name in names}


def test_what_is_done_not_due_or_cannot_pass_is_not_left_to_do() -> None:
    left = [
        {"url": "new", "uses": [("B1", "user"), ("B2", "user")], "failed": None},
        {"url": "due", "uses": [("B1", "product")], "failed": FAILURES[1]},
    ]
    run(
        [],
        lambda pipeline: assert_that(
            rows(pipeline, "wanted", "done", "failed") | Pending(NOW), equal_to(left)
        ),
    )


def test_failures_that_remain_are_counted_by_their_last_reason() -> None:
    counts = run(
        [],
        lambda pipeline: assert_that(
            rows(pipeline, "wanted", "done", "failed") | Settle("embed"),
            equal_to([FAILURES[1], FAILURES[3], FAILURES[4]]),
        ),
    )
    # Neither what came at last nor what failed is wanted by now.
    assert counts == {
        "embed_done": 1,
        "embed_failed_timeout": 2,
        "embed_failed_not_found": 1,
        "embed_due": int(NOW - 5),
    }


@pytest.mark.parametrize("seconds", [1e12, 1e30, float("inf")])
def test_times_beyond_all_calendars_are_taken_for_the_last(seconds: float) -> None:
    left = failed("far", seconds)

    def build(pipeline: beam.Pipeline) -> None:
        every = {"wanted": [("far", "")], "done": [], "failed": [left]}
        each = {name: pipeline | name >> beam.Create(rows) for name, rows in every.items()}
        assert_that(each | Settle("embed"), equal_to([left]))

    assert run([], build)["embed_due"] == LATEST
    assert failure_cells(left, "embed", "Toys")[-1].startswith("9999-12-")


def test_a_failure_adds_to_the_one_before() -> None:
    now = time.time()
    failure = Failure("http://***@a/b.jpg", "timeout", "no answer", attempts=3, retry=True)
    work = {"url": "http://me:secret@a/b.jpg", "uses": [], "failed": None}
    first = failed_row(failure, work, first=60.0)
    assert (first["url"], first["attempts"], first["runs"]) == (work["url"], 3, 1)
    assert first["next_try"] == pytest.approx(now + 60, abs=5)
    second = failed_row(failure, {**work, "failed": first}, first=60.0)
    assert (second["attempts"], second["runs"]) == (6, 2)
    assert second["next_try"] == pytest.approx(now + 120, abs=5)
    week = failed_row(failure, {**work, "failed": first}, first=7 * 86_400.0)
    assert week["next_try"] == pytest.approx(now + 7 * 86_400, abs=5)
    for_good = Failure("http://a/b.jpg", "not_found", "404", attempts=1, retry=False)
    assert failed_row(for_good, work, first=60.0)["next_try"] is None


def test_snapshots_are_read_back_and_parts_of_one_are_not(tmp_path: Path) -> None:
    snapshots = Snapshots(str(tmp_path / "embedded"))
    schema = pa.schema([("url", pa.string()), ("size", pa.int64())])
    snapshots.write("pictures", [{"url": "a", "size": 1}], schema)
    snapshots.write("pictures", [{"url": "b", "size": 2}, {"url": "c", "size": 3}], schema)
    snapshots.write("pictures", [], schema)
    snapshots.write("failures", FAILURES, FAILED)
    # What a process leaves that was killed while it wrote.
    (tmp_path / "embedded" / ".part-1-pictures-1.parquet").write_bytes(b"PAR1")
    assert len(list((tmp_path / "embedded").iterdir())) == 4

    def build(pipeline: beam.Pipeline) -> None:
        urls = [{"url": url} for url in "abc"]
        assert_that(snapshots.read(pipeline, "pictures", ["url"]), equal_to(urls), label="a")
        assert_that(snapshots.read(pipeline, "failures"), equal_to(FAILURES), label="b")
        assert_that(Snapshots(f"{tmp_path}/no").read(pipeline, "pictures"), equal_to([]), label="c")

    run([], build)

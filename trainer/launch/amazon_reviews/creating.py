"""The whole walk from the dump to tables of pictures to train on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from trainer.config import UserError
from trainer.data.files import absolute, is_remote, locked
from trainer.launch.amazon_reviews.category import FAILURES, Category, Model
from trainer.launch.amazon_reviews.dump import categories
from trainer.launch.amazon_reviews.merging import (
    HEADER,
    TrainingRows,
    WriteSortedParts,
    put_together,
)
from trainer.launch.amazon_reviews.options import ReviewOptions, table_name
from trainer.launch.amazon_reviews.outcomes import Snapshots, read_rows
from trainer.launch.amazon_reviews.stages import Stage
from trainer.launch.beam import places
from trainer.launch.beam.running import Counts, check_options, run

#: Where the tables are merged below `work`, and their counts: no category has a slash in its name.
MERGED = "merged/tables"


@dataclass(frozen=True)
class Created:
    """What has come of it.

    Attributes:
        tables: the CSV file of each threshold, in rising order.
        failures: CSV file of the addresses without a picture.
        counters: JSON file of `counts`.
        counts: of each category by its name, and of all together as :data:`MERGED`.
        due: seconds since 1970 at which another start may try failures again, None for never.
    """

    tables: dict[float, str]
    failures: str
    counters: str
    counts: dict[str, Counts]
    due: float | None


def create(options: ReviewOptions, *, tell: Callable[[str], object] = lambda line: None) -> Created:
    """Make a data set of the dump, or go on with it: what is done is not done again.

    Args:
        options: what of, how, and where to.
        tell: takes a line on what is being done.

    Raises:
        UserError: Beam does not know an option or a kind of path, a file or the model is missing,
            too many lines are malformed, the folder holds work on something else or files of
            others by the names of the tables, or another process is working in it.
    """
    check_options(options.beam)
    folder = absolute(options.to)
    if any(sign in folder for sign in "*?["):
        raise UserError(f"{folder}: a folder to make cannot have *, ? or [ in its name")
    reviews = [absolute(path) for path in options.reviews]
    metadata = [absolute(path) for path in options.metadata]
    for path in (folder, *reviews, *metadata, absolute(options.model)):
        places.check(path)
    files = categories(reviews, metadata)
    thresholds = sorted(set(options.thresholds))
    tables = {t: FileSystems.join(folder, table_name(t)) for t in thresholds}
    failures = FileSystems.join(folder, "failures.csv")
    counters = FileSystems.join(folder, "counters.json")
    _refuse_strangers(folder, [*tables.values(), failures, counters])
    model = _exported(options.model)
    with _claimed(folder):
        parts = [Category(name, files[name], folder, model, options, tell) for name in files]
        for category in parts:
            category.check()
        counts = {category.name: category.create() for category in parts}
        counts[MERGED] = _merge(parts, tables, folder, options, tell)
        put_together([part for c in parts for part in c.unresolved], FAILURES, failures)
        places.write_json(counters, counts)
        due = min((moment for c in parts if (moment := c.due()) is not None), default=None)
    return Created(tables, failures, counters, counts, due)


def _merge(
    parts: Sequence[Category],
    tables: dict[float, str],
    folder: str,
    options: ReviewOptions,
    tell: Callable[[str], object],
) -> Counts:
    settings = {
        "thresholds": list(tables),
        "least_pictures": options.least_pictures,
        "categories": {c.name: c.downloaded.content("pictures-*.parquet") for c in parts},
    }
    place = FileSystems.join(folder, "work", *MERGED.split("/"))
    stage = Stage(place, settings, "tables of all categories")
    counts = stage.finished()
    if counts is not None and all(FileSystems.exists(path) for path in tables.values()):
        tell(f"{stage.people}: done before")
        return counts
    tell(stage.people)
    stage.begin(clear=True)
    rows = {threshold: FileSystems.join(stage.folder, f"{threshold:g}") for threshold in tables}

    def build(pipeline: beam.Pipeline) -> None:
        read = {
            "products": [read_rows(pipeline, c.compared_rows) for c in parts],
            "pictures": [Snapshots(c.downloaded.folder).read(pipeline, "pictures") for c in parts],
        }
        both = {name: of | f"all {name}" >> beam.Flatten() for name, of in read.items()}
        for threshold, place in rows.items():
            _ = (
                both
                | f"rows {threshold:g}" >> TrainingRows(threshold, options.least_pictures)
                | f"write {threshold:g}" >> WriteSortedParts(place, columns=(1, 0))
            )

    counts = run(options.beam, build)
    for threshold, path in tables.items():
        put_together([rows[threshold]], HEADER, path)
        places.clear(rows[threshold])
    return stage.finish(counts)


def _refuse_strangers(folder: str, files: Sequence[str]) -> None:
    """Refuse to write over files that are not of this command, such as the published tables."""
    there = [path for path in files if FileSystems.exists(path)]
    if there and not places.has(FileSystems.join(folder, "work", "**")):
        raise UserError(
            f"{there[0]} is there, but not made here, or its work/ is gone: give --to another "
            "folder, or move it away"
        )


def _exported(run_path: str) -> Model:
    """Return the exported model of a run, after it was loaded once: better fail now than later."""
    from trainer.serving.embedder import Embedder

    # By Beam's file systems: TensorFlow's know fewer of those that workers read.
    path = absolute(run_path)
    if not FileSystems.exists(FileSystems.join(path, "config.json")):
        raise UserError(f"{run_path}: not a run folder (no config.json); train one first")
    path = FileSystems.join(path, "model")
    with places.local_folder(path) as folder:
        return Model(path, Embedder(folder).fingerprint())


@contextlib.contextmanager
def _claimed(folder: str) -> Iterator[Any]:
    if is_remote(folder):
        yield
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror})") from None
    with locked(os.path.join(folder, ".lock"), f"{folder}: another process is working in it"):
        yield

"""One category of the dump: its stages from two files to pictures on the disk."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io import WriteToText
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.parquetio import WriteToParquet

from trainer.config import UserError
from trainer.data.fetch import without_credentials
from trainer.launch.amazon_reviews import downloading, embedding
from trainer.launch.amazon_reviews.comparing import COMPARED, Compare
from trainer.launch.amazon_reviews.downloading import DownloadPictures
from trainer.launch.amazon_reviews.dump import MALFORMED, ReadRecords
from trainer.launch.amazon_reviews.embedding import EmbedPictures
from trainer.launch.amazon_reviews.fetching import WorkOnBatches
from trainer.launch.amazon_reviews.joining import PRODUCT, JoinProducts
from trainer.launch.amazon_reviews.merging import WriteSortedParts
from trainer.launch.amazon_reviews.options import ReviewOptions
from trainer.launch.amazon_reviews.outcomes import LATEST, Pending, Settle, Snapshots, read_rows
from trainer.launch.amazon_reviews.stages import Stage
from trainer.launch.beam import places
from trainer.launch.beam.running import Counts, run

#: Folder of a stage for the addresses without a picture.
UNRESOLVED = "unresolved"
#: Columns of the table of failures; times in UTC.
FAILURES = ("step", "category", "url", "reason", "detail", "attempts", "last_try", "next_try")


@dataclass(frozen=True)
class Model:
    """An exported model: its folder, local or remote, and what tells it from others."""

    folder: str
    fingerprint: str


class Category:
    """The stages of a category, in folders of their own.

    Args:
        name: of the category.
        files: of reviews and of metadata.
        folder: of the data set; the category's is below it.
        model: embeds.
        options: everything else.
        tell: takes a line on what is being done.
    """

    def __init__(
        self,
        name: str,
        files: tuple[str, str],
        folder: str,
        model: Model,
        options: ReviewOptions,
        tell: Callable[[str], object],
    ) -> None:
        self.name = name
        self._files = dict(zip(("reviews", "metadata"), files, strict=True))
        self._folder = folder
        self._model = model
        self._options = options
        self._tell = tell
        self._products = self._stage(
            "products",
            {kind: _identity(path) for kind, path in self._files.items()},
            "products with user pictures",
        )
        self._embedded = self._stage(
            "embedded",
            {"model": model.fingerprint, "reduced": options.reduced},
            "embeddings of all pictures",
        )

    def _stage(self, name: str, settings: dict[str, Any], people: str) -> Stage:
        folder = FileSystems.join(self._folder, "work", self.name, name)
        return Stage(folder, settings, f"{self.name}: {people}")

    @property
    def _compared(self) -> Stage:
        embedded = self._embedded.content("pictures-*.parquet")
        return self._stage("compared", {"embedded": embedded}, "similarities within products")

    @property
    def downloaded(self) -> Stage:
        """The stage of the pictures at full size."""
        settings = {
            "compared": self._compared.content(),
            "threshold": min(self._options.thresholds),
        }
        return self._stage("downloaded", settings, "pictures at full size")

    @property
    def compared_rows(self) -> str:
        """Pattern of the files with rows of `COMPARED`."""
        return FileSystems.join(self._compared.folder, "part-*.parquet")

    @property
    def unresolved(self) -> list[str]:
        """Folders with parts of the table of failures."""
        stages = (self._embedded, self.downloaded)
        return [FileSystems.join(stage.folder, UNRESOLVED) for stage in stages]

    def check(self) -> None:
        """Check that the folder holds no work on other files or with another model.

        Raises:
            UserError: it does.
        """
        for stage in (self._products, self._embedded):
            stage.refuse_others(self._folder)

    def create(self) -> Counts:
        """Do all stages that are not done, and return what was counted in all of them."""
        return {
            **self._once(self._products, self._join, clear=True),
            **self._once(self._embedded, self._embed, clear=False),
            **self._once(self._compared, self._compare, clear=True),
            **self._once(self.downloaded, self._download, clear=False),
        }

    def due(self) -> float | None:
        """Return when the first failure may be tried again, seconds since 1970, if any."""
        states = [self._embedded.state(), self.downloaded.state()]
        return min((state["due"] for state in states if state and state["due"]), default=None)

    def _once(self, stage: Stage, work: Callable[[Stage], Counts], *, clear: bool) -> Counts:
        counts = stage.finished()
        if counts is not None:
            self._tell(f"{stage.people}: done before")
            return counts
        self._tell(stage.people)
        stage.begin(clear=clear)
        return work(stage)

    def _join(self, stage: Stage) -> Counts:
        def build(pipeline: beam.Pipeline) -> None:
            records, faults = {}, []
            for kind, path in self._files.items():
                read = (
                    pipeline
                    | f"{kind} file" >> beam.Create([path], reshuffle=False)
                    | f"read {kind}"
                    >> beam.ParDo(ReadRecords(kind)).with_outputs(MALFORMED, main="records")
                )
                records[kind] = read["records"]
                faults.append(read[MALFORMED])
            _ = (
                faults
                | beam.Flatten()
                | WriteToText(
                    FileSystems.join(stage.folder, "malformed"),
                    file_name_suffix=".txt",
                    shard_name_template="",
                    num_shards=1,
                )
            )
            _ = records | JoinProducts() | _write(stage, PRODUCT)

        counts = run(self._options.beam, build)
        for kind, path in self._files.items():
            self._check_lines(kind, path, counts, stage)
        return stage.finish(counts)

    def _check_lines(self, kind: str, path: str, counts: Counts, stage: Stage) -> None:
        if counts.get(f"{kind}_cut_short"):
            raise UserError(f"{path} ends in the middle: download it again")
        lines, bad = counts.get(f"{kind}_lines", 0), counts.get(f"{kind}_malformed", 0)
        if bad > self._options.most_malformed * lines:
            raise UserError(
                f"{path}: {bad:,} of {lines:,} lines are malformed, more than the share of "
                f"{self._options.most_malformed:g} that --most-malformed allows; the first are in "
                f"{FileSystems.join(stage.folder, 'malformed.txt')}"
            )
        if bad:
            self._tell(f"{path}: {bad:,} of {lines:,} lines are malformed and left out")

    def _embed(self, stage: Stage) -> Counts:
        settings, options = self._options.fetch, self._options
        snapshots = Snapshots(stage.folder)
        return self._fetch(
            stage,
            "embed",
            FileSystems.join(self._products.folder, "part-*.parquet"),
            beam.FlatMap(embedding.wanted),
            EmbedPictures(
                f"{self.name}: embed", snapshots, settings, self._model.folder, options.reduced
            ),
        )

    def _compare(self, stage: Stage) -> Counts:
        def build(pipeline: beam.Pipeline) -> None:
            pictures = Snapshots(self._embedded.folder).read(pipeline, "pictures")
            _ = pictures | Compare() | _write(stage, COMPARED)

        return stage.finish(run(self._options.beam, build))

    def _download(self, stage: Stage) -> Counts:
        return self._fetch(
            stage,
            "download",
            self.compared_rows,
            beam.FlatMap(downloading.wanted, min(self._options.thresholds)),
            DownloadPictures(
                f"{self.name}: download",
                Snapshots(stage.folder),
                self._options.fetch,
                self._folder,
            ),
        )

    def _fetch(
        self,
        stage: Stage,
        step: str,
        products: str,
        wanted: beam.PTransform,
        work: WorkOnBatches,
    ) -> Counts:
        """Work on all addresses that are left to do, and settle what came of all."""
        snapshots = Snapshots(stage.folder)
        size = self._options.fetch.snapshot

        def all_of(pipeline: beam.Pipeline) -> dict[str, Any]:
            return {
                "wanted": read_rows(pipeline, products) | "wanted" >> wanted,
                "done": snapshots.read(pipeline, "pictures", ["url"]),
                "failed": snapshots.read(pipeline, "failures"),
            }

        def fetch(pipeline: beam.Pipeline) -> None:
            _ = (
                all_of(pipeline)
                | Pending(time.time())
                # Without it, some runners would fetch where they have grouped: on few workers.
                | "spread" >> beam.Reshuffle()
                | beam.BatchElements(size, size)
                | "work" >> beam.ParDo(work)
            )

        def settle(pipeline: beam.Pipeline) -> None:
            _ = (
                all_of(pipeline)
                | Settle(step)
                | "cells" >> beam.Map(failure_cells, step, self.name)
                | WriteSortedParts(unresolved, columns=(1, 2, 0, *range(3, len(FAILURES))))
            )

        run(self._options.beam, fetch)
        unresolved = FileSystems.join(stage.folder, UNRESOLVED)
        places.clear(unresolved)
        counts = run(self._options.beam, settle)
        return stage.finish(counts, counts.pop(f"{step}_due", None))


def _identity(path: str) -> list[Any]:
    """Return name and size of a file: it may be moved, but not be another."""
    return [[FileSystems.split(found)[1], size] for found, size in places.sizes(path)]


def _write(stage: Stage, schema: Any) -> WriteToParquet:
    return WriteToParquet(
        FileSystems.join(stage.folder, "part"), schema, file_name_suffix=".parquet"
    )


def failure_cells(row: dict[str, Any], step: str, category: str) -> tuple[str, ...]:
    """Return the cells of a failure in the order url, step, category and those that follow."""
    return (
        without_credentials(row["url"]),
        step,
        category,
        row["reason"],
        row["detail"],
        str(row["attempts"]),
        _utc(row["last_try"]),
        "" if row["next_try"] is None else _utc(row["next_try"]),
    )


def _utc(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(min(seconds, LATEST), datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")

"""Work on addresses in batches, and what came of them in snapshots."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from trainer.data.fetch import Failure, Fetcher
from trainer.launch.amazon_reviews.options import FetchSettings
from trainer.launch.amazon_reviews.outcomes import FAILED, Snapshots, failed_row

log = logging.getLogger(__name__)


class WorkOnBatches(beam.DoFn):
    """Batch of rows of `Pending` -> nothing; pictures and failures are written as snapshots.

    Counters: `STEP_fetched`, `STEP_turned_away` of this start.

    Args:
        step: name for people and in front of the counters.
        snapshots: where rows go.
        schema: of the rows of pictures.
        settings: how to fetch.
    """

    def __init__(
        self, step: str, snapshots: Snapshots, schema: pa.Schema, settings: FetchSettings
    ) -> None:
        self._step = step
        self._snapshots = snapshots
        self._schema = schema
        self._settings = settings
        self._fetched = Metrics.counter("amazon_reviews", f"{step}_fetched")
        self._failed = Metrics.counter("amazon_reviews", f"{step}_turned_away")
        self._so_far = 0

    def outcomes(
        self, batch: list[dict[str, Any]], fetcher: Fetcher, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any] | Failure]]:
        """Yield each work of a batch with its row of a picture, or its failure."""
        raise TypeError("WorkOnBatches is a base: a step says what it does with pictures")

    def process(self, batch: list[dict[str, Any]]) -> None:
        pictures, failures = [], []
        settings = self._settings
        # The fetcher closes first: after an error, or Ctrl-C, no thread waits for servers.
        with ThreadPoolExecutor(settings.threads) as pool, Fetcher(settings.options) as fetcher:
            for work, outcome in self.outcomes(batch, fetcher, pool):
                if isinstance(outcome, Failure):
                    failures.append(failed_row(outcome, work, first=settings.retry_after))
                else:
                    pictures.append(outcome)
        self._snapshots.write("pictures", pictures, self._schema)
        self._snapshots.write("failures", failures, FAILED)
        self._fetched.inc(len(pictures))
        self._failed.inc(len(failures))
        self._so_far += len(pictures)
        log.info(
            "%s: %s pictures, and %d failures among the last %d",
            self._step,
            f"{self._so_far:,}",
            len(failures),
            len(batch),
        )

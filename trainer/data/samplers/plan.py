"""What every sampler promises, and the cache that keeps `batch(step)` cheap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from trainer.config import UserError
from trainer.data.table import ItemTable


class Sampler(Protocol):
    """Chooses the rows of every batch.

    `batch` is a pure function of the table, the seed and the step, so a job that starts again at
    some step sees exactly the batches that it would have seen.
    """

    rows_per_batch: int
    steps_per_epoch: int

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows (rows_per_batch,) of batch number `step`, counted from 0."""


class Epochs:
    """Plans of single epochs, each drawn from its own random stream when first asked for.

    Args:
        draw: makes the plan of one epoch from a random generator.
        seed: any integer; with the number of the epoch it decides the random stream.
    """

    def __init__(self, draw: Callable[[np.random.Generator], np.ndarray], seed: int) -> None:
        def plan(epoch: int) -> np.ndarray:
            sequence = np.random.SeedSequence([seed % 2**64, epoch])
            return draw(np.random.Generator(np.random.Philox(sequence)))

        # A batch may straddle two epochs; more than two plans are never needed at once.
        self._plan = functools.lru_cache(maxsize=2)(plan)

    def __getitem__(self, epoch: int) -> np.ndarray:
        return self._plan(epoch)


class TripletStream:
    """Triplets of one epoch after another without a gap, cut into batches.

    A batch at the end of an epoch goes on with the first triplets of the next, so that none is
    left out however the batch size divides their number.

    Args:
        epochs: plans of equal length, int64 (length, 3).
        length: triplets in an epoch.
        batch_size: triplets in a batch.
    """

    def __init__(self, epochs: Epochs, length: int, batch_size: int) -> None:
        self._epochs, self._length, self._batch_size = epochs, length, batch_size
        self.rows_per_batch = 3 * batch_size
        self.steps_per_epoch = length // batch_size

    def batch(self, step: int) -> np.ndarray:
        """Return int64 rows (3 * batch_size,): anchor, positive, negative, anchor, ..."""
        epoch, begin = divmod(step * self._batch_size, self._length)
        rows = self._epochs[epoch][begin : begin + self._batch_size]
        missing = self._batch_size - len(rows)
        if missing:
            rows = np.concatenate([rows, self._epochs[epoch + 1][:missing]])
        return rows.reshape(-1)


class ClassRows:
    """Rows of a table grouped by class.

    Attributes:
        rows: int64 (N,), rows of the table, those of one class next to each other.
        label: int64 (C,), the label codes that occur, ascending.
        start: int64 (C,), where each class begins in `rows`.
        size: int64 (C,), how many rows each class has.
    """

    def __init__(self, table: ItemTable) -> None:
        self.rows = np.argsort(table.label, kind="stable")
        self.label, self.start, self.size = np.unique(
            table.label[self.rows], return_index=True, return_counts=True
        )
        self._names = table.label_names

    def names(self, chosen: np.ndarray, limit: int = 3) -> str:
        """Return the first `limit` names of the classes in the mask `chosen`, as one would say."""
        labels = self.label[chosen]
        said = ", ".join(repr(self._names[label]) for label in labels[:limit])
        return said + (", ..." if len(labels) > limit else "")


def check_batch_size(batch_size: int, available: int, what: str) -> None:
    """Raise a UserError unless 1 <= batch_size <= available; `what` names what is counted."""
    if not 1 <= batch_size <= available:
        raise UserError(
            f"batch_size={batch_size} {what}, but this split gives {available:,} of them; "
            f"choose 1 to {available:,}"
        )

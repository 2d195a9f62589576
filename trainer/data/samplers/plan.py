"""What every sampler promises, and the cache that keeps `batch(step)` cheap."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np

from trainer.config import UserError
from trainer.data.table import ItemTable

logger = logging.getLogger(__name__)


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


class EpochBatches:
    """Batches of one epoch after another, each epoch planned as a whole.

    Args:
        draw: makes the plan of one epoch, int64 (batches, rows), from a random generator.
        seed: see :class:`Epochs`.
        batches: in an epoch.
        rows: in a batch.
    """

    def __init__(
        self, draw: Callable[[np.random.Generator], np.ndarray], seed: int, batches: int, rows: int
    ) -> None:
        self._epochs = Epochs(draw, seed)
        self.steps_per_epoch, self.rows_per_batch = batches, rows

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows (rows_per_batch,) of batch number `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._epochs[epoch][position]


class ExampleStream:
    """Examples of one epoch after another without a gap, cut into batches.

    A batch at the end of an epoch goes on with the first examples of the next, so that none is
    left out however the batch size divides their number.

    Args:
        epochs: plans of equal length, int64 (length, rows): rows of the table, by example.
        length: examples in an epoch.
        batch_size: examples in a batch, 1 to `length`.
        rows: of the table in an example, such as 3 for triplets.
    """

    def __init__(self, epochs: Epochs, length: int, batch_size: int, rows: int) -> None:
        self._epochs, self._length, self._batch_size = epochs, length, batch_size
        self.rows_per_batch = rows * batch_size
        self.steps_per_epoch = length // batch_size

    def batch(self, step: int) -> np.ndarray:
        """Return int64 rows (rows_per_batch,), those of an example next to each other."""
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


class ClassBatches:
    """Deals classes into batches of different ones, so that each comes about equally often.

    Classes come in a new order every round; where `per_batch` does not divide their number, those
    left out of a round change, so that over an epoch any two classes differ by two appearances at
    most.

    With a `weight`, the classes of a batch are drawn instead, one after another, each with a
    probability in proportion to its weight among those that are not in the batch yet.

    With `category_share`, a batch is of one product category with that probability, or by epoch
    all batches of an epoch are. Such batches are shared out among the categories in proportion to
    their classes (or the weight of these), so that a class comes as often as one of another
    category. Categories with fewer classes than a batch form one category together; if that is
    still too small, it joins the smallest of the others. A class is of the category that most of
    its images have.

    Args:
        table: the training rows.
        label: int64 (C,), the label codes of the classes to deal, ascending.
        per_batch: different classes in a batch, 1 to C.
        batches: batches in an epoch.
        category_share: probability of a batch within a category, 0..1; 0 deals from all classes.
        category_by: "batch" or "epoch": what the probability is drawn for.
        weight: int64 (C,), 1 or more each: how classes are drawn; None, default, deals them.

    Raises:
        ValueError: `category_share` or `category_by` is none of these.
        UserError: with a `category_share`, an image has no category, or no category has
            `per_batch` classes.
    """

    def __init__(
        self,
        table: ItemTable,
        label: np.ndarray,
        per_batch: int,
        batches: int,
        category_share: float,
        category_by: str,
        weight: np.ndarray | None = None,
    ) -> None:
        if not 0 <= category_share <= 1:
            raise ValueError(f"category_share={category_share}: a probability is from 0 to 1")
        if category_by not in ("batch", "epoch"):
            raise ValueError(f"category_by={category_by!r}: must be batch or epoch")
        self._all, self._per_batch, self._batches = np.arange(len(label)), per_batch, batches
        self._share, self._by_epoch = category_share, category_by == "epoch"
        self._weight = weight
        self._pools = _category_pools(table, label, per_batch) if category_share else []
        portions = np.ones(len(label), np.int64) if weight is None else weight
        self._ends = np.cumsum([portions[pool].sum() for pool in self._pools])

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return int64 (batches, per_batch): positions in `label`, those of a row all different."""
        if not self._share:
            return self._from(random, self._all, self._batches)
        within = random.random(1 if self._by_epoch else self._batches) < self._share
        within = np.broadcast_to(within, self._batches)
        plan = np.empty((self._batches, self._per_batch), np.int64)
        mixed = np.flatnonzero(~within)
        plan[mixed] = self._from(random, self._all, len(mixed))
        pool_of = random.permutation(self._share_out(random, self._batches - len(mixed)))
        for number, pool in enumerate(self._pools):
            places = np.flatnonzero(within)[pool_of == number]
            plan[places] = self._from(random, pool, len(places))
        return plan

    def _from(self, random: np.random.Generator, pool: np.ndarray, batches: int) -> np.ndarray:
        """Return int64 (batches, per_batch): members of `pool`, those of a row all different."""
        if self._weight is None:
            return pool[_deal(random, len(pool), self._per_batch, batches)]
        return pool[_draw(random, self._weight[pool], self._per_batch, batches)]

    def _share_out(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Return int64 (count,): numbers of pools, each as often as its share, up to rounding."""
        # One draw places a comb of equal steps over the classes, pool after pool.
        teeth = (np.arange(count) + random.random()) * self._ends[-1] / max(count, 1)
        return np.minimum(np.searchsorted(self._ends, teeth, "right"), len(self._pools) - 1)


def _deal(random: np.random.Generator, count: int, per_batch: int, batches: int) -> np.ndarray:
    """Return int64 (batches, per_batch), numbers below `count`, those of a row all different."""
    slots = batches * per_batch
    left_out = count % per_batch
    rounds = -(-slots // (count - left_out))
    key = random.random((rounds, count))
    # The classes left out move on around a random circle, so each is left out equally often.
    circle = random.permutation(count)
    turn = np.arange(rounds)[:, None] * left_out + np.arange(left_out)
    key[np.arange(rounds)[:, None], circle[turn % count]] = 2.0
    order = np.argsort(key, axis=1)[:, : count - left_out]
    return order.reshape(-1)[:slots].reshape(batches, per_batch)


def _draw(
    random: np.random.Generator, weight: np.ndarray, per_batch: int, batches: int
) -> np.ndarray:
    """Return int64 (batches, per_batch), numbers drawn by `weight`, those of a row all different.

    The numbers of a row are drawn one after another, each among those that are left.
    """
    end = np.cumsum(weight)
    begin = end - weight
    chosen = np.empty((batches, per_batch), np.int64)
    for place in range(per_batch):
        taken = np.sort(chosen[:, :place], axis=1)
        spot = random.integers(end[-1] - weight[taken].sum(axis=1))
        # Spots are counted without the stretches that are taken: stepping over these, from the
        # left, gives the same spot among all.
        for one in taken.T:
            spot += np.where(spot >= begin[one], weight[one], 0)
        chosen[:, place] = np.searchsorted(end, spot, "right")
    return chosen


def _category_pools(table: ItemTable, label: np.ndarray, per_batch: int) -> list[np.ndarray]:
    """Return positions in `label` by category, at least `per_batch` in each."""
    rows = np.flatnonzero(np.isin(table.label, label))
    names, category = np.unique(table.category[rows], return_inverse=True)
    missing = int((table.category[rows] == "").sum())
    if missing:
        raise UserError(
            f"sampler.category_share needs the category of every image, and {missing:,} of "
            f"{len(rows):,} have none; give the data a column category, or set "
            "sampler.category_share=0"
        )
    pairs, images = np.unique(
        np.stack([np.searchsorted(label, table.label[rows]), category]), axis=1, return_counts=True
    )
    # The last of a class is the category of most of its images; of equals, the first by name.
    order = np.lexsort((-pairs[1], images, pairs[0]))
    last = np.searchsorted(pairs[0], np.arange(len(label)), "right") - 1
    category = pairs[1, order][last]
    size = np.bincount(category, minlength=len(names))
    large = size >= per_batch
    if not large.any():
        most = int(np.argmax(size))
        raise UserError(
            f"sampler.category_share: a batch holds {per_batch} classes, and no category of this "
            f"split has as many ({names[most]!r} has {size[most]}); use a smaller batch_size, or "
            "set sampler.category_share=0"
        )
    pools = [np.flatnonzero(category == number) for number in np.flatnonzero(large)]
    rest = np.flatnonzero(~large[category])
    if len(rest):
        logger.warning(
            "%d of %d categories have fewer than the %d classes of a batch, %d classes in all; "
            "they are taken as one category",
            (~large & (size > 0)).sum(),
            (size > 0).sum(),
            per_batch,
            len(rest),
        )
        if len(rest) < per_batch:
            smallest = min(range(len(pools)), key=lambda number: len(pools[number]))
            rest = np.concatenate([pools.pop(smallest), rest])
        pools.append(rest)
    return pools


def nth_appearance(chosen: np.ndarray, count: int) -> np.ndarray:
    """Return of each entry of `chosen` (N,), numbers below `count`, how often it came before."""
    appearances = np.bincount(chosen, minlength=count)
    by_number = np.argsort(chosen, kind="stable")
    nth = np.empty_like(chosen)
    nth[by_number] = np.arange(len(chosen)) - np.repeat(
        np.cumsum(appearances) - appearances, appearances
    )
    return nth


def check_batch_size(batch_size: int, available: int, what: str) -> None:
    """Raise a UserError unless 1 <= batch_size <= available; `what` names what is counted."""
    if not 1 <= batch_size <= available:
        raise UserError(
            f"batch_size={batch_size} {what}, but this split gives {available:,} of them; "
            f"choose 1 to {available:,}"
        )

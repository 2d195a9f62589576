"""Pairs of two pictures of one item, for losses that find their negatives in the batch."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from trainer.config import UserError, register
from trainer.data.samplers.plan import ClassBatches, ClassRows, EpochBatches, nth_appearance
from trainer.data.table import ItemTable

logger = logging.getLogger(__name__)


class _Pool:
    """The rows that may stand on one side of a pair, grouped by item.

    Args:
        item: int64 (N,), the item of each row of the table.
        member: bool (N,), which rows these are.
        count: number of items.
    """

    def __init__(self, item: np.ndarray, member: np.ndarray, count: int) -> None:
        rows = np.flatnonzero(member)
        self.rows = rows[np.argsort(item[rows], kind="stable")]
        self.group = item[self.rows]
        self.size = np.bincount(self.group, minlength=count)
        self.start = np.cumsum(self.size) - self.size
        #: Of each row of the table, where it stands in its group; -1 where it is not in the pool.
        self.place = np.full(len(item), -1)
        self.place[self.rows] = np.arange(len(self.rows)) - self.start[self.group]

    def deal(self, random: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
        """Return a row of each item in `chosen` (M,): all of an item's before any comes again."""
        shuffled = self.rows[np.argsort(self.group + random.random(len(self.group)))]
        turn = nth_appearance(chosen, len(self.size)) % self.size[chosen]
        return shuffled[self.start[chosen] + turn]

    def other(
        self, random: np.random.Generator, chosen: np.ndarray, taken: np.ndarray
    ) -> np.ndarray:
        """Return any row of each item in `chosen` (M,) but the one that is `taken` (M,)."""
        place = self.place[taken]
        drawn = random.integers(0, self.size[chosen] - (place >= 0))
        return self.rows[self.start[chosen] + drawn + ((place >= 0) & (drawn >= place))]


@register("sampler", "pairs", gives="pairs")
class Pairs(EpochBatches):
    """One pair of pictures, query and positive, of each of P items; every item equally often.

    An epoch has as many batches as are needed to see as many images as there are. The items of a
    batch are all different, and over an epoch any two items differ by two appearances at most,
    where `category_share` is 0. The queries of an item are dealt without repetition until it has
    no more; its positive is any other image. With two domains the query is of the one and the
    positive of the other, as customers' and shops' photographs are; `intra_domain` mixes in pairs
    inside either. An item that gives no such pair is left out.

    Args:
        table: the training rows; labels, and where they are asked for domains and categories.
        batch_size: pairs in a batch, P: 2 or more, each of an item of its own.
        seed: decides all draws.
        query_domain: domain of the queries; default "", any.
        positive_domain: domain of the positives; default "", any.
        intra_domain: probability, 0..1, that a pair is of one domain, where the item has two
            images there; which of the two domains is even odds. Default 0; more needs two domains.
        category_share: probability, 0..1, that the items of a batch are of one category, drawn
            in proportion to the categories' items; default 0. Categories of fewer than P items
            are taken together.
        category_by: "batch" (default) draws for every batch, "epoch" once for all of an epoch.

    Raises:
        ValueError: `intra_domain` or `category_share` is no probability, or `intra_domain` is
            above 0 without two different domains.
        UserError: the split lacks a domain, has fewer than P items that give a pair, or with
            `category_share` an image has no category or no category has P items.

    Dodds et al.: Learning embeddings for product visual search with triplet loss and online
    sampling, 2018, arXiv 1810.04652.
    """

    def __init__(
        self,
        table: ItemTable,
        batch_size: int,
        seed: int,
        *,
        query_domain: str = "",
        positive_domain: str = "",
        intra_domain: float = 0.0,
        category_share: float = 0.0,
        category_by: Literal["batch", "epoch"] = "batch",
    ) -> None:
        if not 0 <= intra_domain <= 1:
            raise ValueError(f"intra_domain={intra_domain}: a probability is from 0 to 1")
        if intra_domain and not (query_domain and positive_domain not in ("", query_domain)):
            raise ValueError(
                f"intra_domain={intra_domain}: needs query_domain and positive_domain, two "
                "different ones"
            )
        if batch_size < 2:
            raise UserError(
                f"batch_size={batch_size} pairs: the negatives of a pair are those of other items; "
                "choose 2 or more"
            )
        classes = ClassRows(table)
        item = np.searchsorted(classes.label, table.label)
        query = _in_domain(table, "query_domain", query_domain)
        positive = _in_domain(table, "positive_domain", positive_domain)
        # A query needs a positive besides itself.
        query &= np.bincount(item[positive], minlength=len(classes.label))[item] - positive > 0
        needed = _needed(query_domain, positive_domain)
        usable = np.isin(np.arange(len(classes.label)), item[query])
        if usable.sum() < batch_size:
            without = f", and {(~usable).sum()} without: {classes.names(~usable)}"
            raise UserError(
                f"batch_size={batch_size} pairs needs as many items with {needed}; this split has "
                f"{usable.sum()}{'' if usable.all() else without}; use a smaller batch_size"
            )
        if not usable.all():
            logger.warning(
                "%d of %d items do not have %s and are left out: %s",
                (~usable).sum(),
                len(usable),
                needed,
                classes.names(~usable),
            )
        query, positive = query & usable[item], positive & usable[item]
        # Numbers of the usable items alone; rows of the others are in no pool.
        item = (np.cumsum(usable) - 1)[item]
        count = int(usable.sum())
        self._query, self._positive = (_Pool(item, side, count) for side in (query, positive))
        self._intra = intra_domain
        images = int((query | positive).sum())
        batches = max(1, images // (2 * batch_size))
        self._items = ClassBatches(
            table,
            classes.label[usable],
            batch_size,
            batches,
            category_share,
            category_by,
        )
        super().__init__(self._draw, seed, batches, 2 * batch_size)

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Return int64 (batches, 2 * P), rows of the table: query, positive, query, ..."""
        chosen = self._items.draw(random).reshape(-1)
        pairs = np.empty((len(chosen), 2), np.int64)
        sides = [(self._query, self._positive)]
        kind = np.zeros(len(chosen), np.int64)
        if self._intra:
            # Inside the query's domain, or the positive's; across where there are no two images.
            sides += [(pool, pool) for pool in (self._query, self._positive)]
            inside = random.random(len(chosen)) < self._intra
            able = np.stack([pool.size[chosen] > 1 for pool, _ in sides[1:]])
            kind = np.where(
                able.all(axis=0), 1 + random.integers(0, 2, len(chosen)), able[0] + 2 * able[1]
            )
            kind = np.where(inside, kind, 0)
        for number, (first, second) in enumerate(sides):
            at = np.flatnonzero(kind == number)
            pairs[at, 0] = first.deal(random, chosen[at])
            pairs[at, 1] = second.other(random, chosen[at], pairs[at, 0])
        return pairs.reshape(self.steps_per_epoch, -1)


def _in_domain(table: ItemTable, key: str, domain: str) -> np.ndarray:
    """Return the mask of the rows of a domain, of all for an empty one."""
    if not domain:
        return np.ones(len(table), bool)
    mask = np.asarray(table.domain == domain, bool)
    if not mask.any():
        there = ", ".join(sorted({name for name in table.domain if name})) or "none"
        raise UserError(
            f"sampler.{key}={domain!r}: no image of this split is in it; domains: {there}"
        )
    return mask


def _needed(query_domain: str, positive_domain: str) -> str:
    if not (query_domain or positive_domain):
        return "two images"
    return f"an image of {query_domain or 'any domain'} and another of {positive_domain or 'any'}"

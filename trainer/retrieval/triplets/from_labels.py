"""Triplets of a catalogue whose labels are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from trainer.data.progress import bar
from trainer.data.table import ItemTable
from trainer.retrieval.triplets.draw import LIMIT_STREAM, Drawing, Triplets, outside
from trainer.retrieval.triplets.lists import nearest_lists


def from_labels(
    table: ItemTable,
    rows: np.ndarray,
    *,
    query_domain: str = "",
    gallery_domain: str = "",
    per_anchor: int = 2,
    per_label: int | None = None,
    in_class_share: float = 0.5,
    seed: int = 0,
    hard: Mapping[str, np.ndarray] | None = None,
    depth: int = 100,
) -> Triplets:
    """Return triplets whose positive has the anchor's label and whose negative has another.

    In-class negatives share the anchor's category, the others do not; where the table has no
    categories, negatives are drawn from all other labels, and only those of `hard` lists count as
    in-class. With `gallery_domain` positives and negatives are of that domain. Without it a
    positive of another domain than the anchor comes first, if there is any, and the negative is of
    the positive's domain, so that the domain does not give the answer away.

    Args:
        table: labels, categories, domains.
        rows: (N,) rows of the table to use, each once.
        query_domain: domain of the anchors; empty: any.
        gallery_domain: domain of positives and negatives; empty: any.
        per_anchor: triplets of each anchor, at least 1.
        per_label: at most so many triplets of a label, drawn at random; None: all.
        in_class_share: share of in-class negatives, 0 to 1.
        seed: 0 or more.
        hard: scorers from :func:`.lists.whole_numbers`; in-class negatives are then among the
            first `depth` items of the anchor's lists, where they hold any of another label.
        depth: length of those lists.
    """
    gallery = _of_domain(table, rows, gallery_domain)
    anchors = _of_domain(table, rows, query_domain)
    pools = _Pools(table, gallery)
    if not pools.categorised and hard is None:
        in_class_share = 0.0
    drawing = Drawing(per_anchor, in_class_share, seed)
    with bar("drawing triplets", len(anchors)) as advance:
        for block, near in _blocks(anchors, gallery, hard, depth):
            for anchor in block.tolist():
                _add(drawing, pools, anchor, near.get(anchor), any_domain=not gallery_domain)
            advance(len(block))
    triplets = drawing.triplets()
    return triplets if per_label is None else _limited(triplets, table, per_label, seed)


def _add(
    drawing: Drawing, pools: _Pools, anchor: int, near: np.ndarray | None, *, any_domain: bool
) -> None:
    """Add the triplets of an anchor."""
    random = drawing.random(anchor)
    positives = pools.positives(random, anchor, any_domain=any_domain)

    def negative(positive: int, in_class: bool) -> int | None:
        if in_class and near is not None:
            found = pools.hard(random, anchor, positive, near)
            if found is not None:
                return found
        return pools.negative(random, anchor, positive, in_class)

    drawing.add(random, anchor, positives, negative)


def _of_domain(table: ItemTable, rows: np.ndarray, domain: str) -> np.ndarray:
    rows = np.sort(rows)
    return rows[table.domain[rows] == domain] if domain else rows


def _blocks(
    anchors: np.ndarray,
    gallery: np.ndarray,
    hard: Mapping[str, np.ndarray] | None,
    depth: int,
) -> Iterator[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """Yield the anchors in blocks, with what the lists of each hold, if there are lists."""
    if hard is None:
        yield anchors, {}
        return
    for lists in nearest_lists(hard, anchors, gallery, depth):
        items = (np.unique(lists.items[:, number]) for number in range(len(lists.queries)))
        near = zip(lists.queries.tolist(), items, strict=True)
        yield lists.queries, {anchor: found[found >= 0] for anchor, found in near}


class _Pools:
    """The gallery by domain, category and label, so that a draw takes no search through it."""

    def __init__(self, table: ItemTable, gallery: np.ndarray) -> None:
        self._table = table
        _, category = np.unique(table.category.astype(str), return_inverse=True)
        self._category = category.astype(np.int64)
        self._label = table.label
        #: Without categories nothing is in-class, and any other label will do.
        self.categorised = len(np.unique(self._category[gallery])) > 1
        order = gallery[np.lexsort((gallery, self._category[gallery], self._label[gallery]))]
        starts = np.flatnonzero(np.r_[True, np.diff(self._label[order]) != 0])
        self._by_label = {
            int(self._label[part[0]]): part for part in np.split(order, starts[1:]) if len(part)
        }
        self._by_domain: dict[str, np.ndarray] = {}
        self._categories: dict[str, np.ndarray] = {}
        self._groups: dict[str, dict[int, list[tuple[int, int, int]]]] = {}
        for domain in sorted(set(table.domain[gallery].tolist())):
            part = gallery[table.domain[gallery] == domain]
            part = part[np.lexsort((part, self._label[part], self._category[part]))]
            self._by_domain[domain], self._categories[domain] = part, self._category[part]
            self._groups[domain] = self._runs(part)

    def _runs(self, rows: np.ndarray) -> dict[int, list[tuple[int, int, int]]]:
        """Return for each label its runs in `rows`: first place, place after the last, category."""
        keys = np.stack([self._category[rows], self._label[rows]], axis=1)
        starts = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(axis=1)])
        ends = np.r_[starts[1:], len(rows)]
        runs: dict[int, list[tuple[int, int, int]]] = {}
        for first, end in zip(starts.tolist(), ends.tolist(), strict=True):
            runs.setdefault(int(keys[first, 1]), []).append((first, end, int(keys[first, 0])))
        return runs

    def positives(
        self, random: np.random.Generator, anchor: int, *, any_domain: bool
    ) -> np.ndarray:
        """Return the other gallery rows of the anchor's label, in random order; where any domain
        is allowed, those of other domains first."""
        rows = self._by_label.get(int(self._label[anchor]), np.empty(0, np.int64))
        rows = random.permutation(rows[rows != anchor])
        if any_domain and len(rows):
            same = self._table.domain[rows] == self._table.domain[anchor]
            rows = rows[np.argsort(same, kind="stable")]
        return rows

    def negative(
        self, random: np.random.Generator, anchor: int, positive: int, in_class: bool
    ) -> int | None:
        """Return a random row of the positive's domain with another label than the anchor's, of the
        anchor's category or not."""
        if in_class and not self.categorised:
            return None
        domain = self._table.domain[positive]
        rows = self._by_domain[domain]
        runs = self._groups[domain].get(int(self._label[anchor]), [])
        low, high = 0, len(rows)
        holes = [(first, end) for first, end, _ in runs]
        if self.categorised:
            category = self._category[anchor]
            first, end = np.searchsorted(self._categories[domain], [category, category + 1])
            if in_class:
                low, high = int(first), int(end)
            else:
                kept = [(a, b) for a, b, other in runs if other != category]
                holes = sorted([*kept, (int(first), int(end))])
        place = outside(random, low, high, holes)
        return None if place is None else int(rows[place])

    def hard(
        self, random: np.random.Generator, anchor: int, positive: int, near: np.ndarray
    ) -> int | None:
        """Return a random row of `near` with another label than the anchor's, of its category and
        of the positive's domain."""
        fits = self._label[near] != self._label[anchor]
        fits &= self._table.domain[near] == self._table.domain[positive]
        if self.categorised:
            fits &= self._category[near] == self._category[anchor]
        found = near[fits]
        return int(random.choice(found)) if len(found) else None


def _limited(triplets: Triplets, table: ItemTable, per_label: int, seed: int) -> Triplets:
    """Return the triplets with at most `per_label` of each label."""
    random = np.random.default_rng([seed, LIMIT_STREAM])
    label = table.label[triplets.rows[:, 0]]
    order = np.lexsort((random.random(len(triplets)), label))
    starts = np.r_[0, np.flatnonzero(np.diff(label[order])) + 1]
    lengths = np.diff(np.r_[starts, len(order)])
    number = np.arange(len(order)) - np.repeat(starts, lengths)
    return triplets.select(np.sort(order[number < per_label]))

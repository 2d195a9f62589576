"""Triplets of a catalogue without labels: what several simple scorers agree on is taken as true.

The recipe of RankNet (arXiv 1901.03546) and MILDNet (arXiv 1903.00905) in outline: each scorer
lists the pictures that look most like an anchor; those near the top of several lists are its
positives, those further down are in-class negatives, and pictures from elsewhere out-of-class ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from trainer.config import UserError
from trainer.data.progress import bar
from trainer.retrieval.triplets.draw import DIVIDE_STREAM, TRIES, Drawing, Triplets, outside
from trainer.retrieval.triplets.lists import Lists, nearest_lists

#: Pictures whose neighbours are looked up at once to divide a catalogue.
DIVIDE_AT_ONCE = 256


@dataclass(frozen=True)
class Depths:
    """Which places of the neighbour lists make a positive, and which a negative.

    Args:
        near: a positive is among the first `near` items, default 3, ...
        agree: ... of at least so many scorers, default 2.
        low: an in-class negative is in no scorer's first `low` items, default 20, ...
        high: ... but in the first `high` of some scorer, default 100.

    Raises:
        UserError: not 1 <= near <= low < high, or agree is below 1.
    """

    near: int = 3
    agree: int = 2
    low: int = 20
    high: int = 100

    def __post_init__(self) -> None:
        if self.agree < 1:
            raise UserError(f"agree={self.agree}: at least 1 scorer has to speak for a positive")
        if not 1 <= self.near <= self.low < self.high:
            raise UserError(
                f"positives from the first {self.near} neighbours and in-class negatives from "
                f"{self.low} to {self.high}: the three have to ascend, the first from 1"
            )


def from_likeness(
    scorers: Mapping[str, np.ndarray],
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    members: np.ndarray | None = None,
    categories: np.ndarray | None = None,
    depths: Depths | None = None,
    per_anchor: int = 2,
    in_class_share: float = 0.5,
    seed: int = 0,
    threads: int | None = None,
) -> Triplets:
    """Return triplets made of the neighbour lists of several scorers.

    The positives of an anchor are taken in the order: more scorers agree, then a smaller sum of
    places in the lists (one behind the last place where it is not listed), then the smaller row.
    With categories, lists hold the anchor's category only, and out-of-class negatives are of
    another one; without, they are less similar than everything in any list.

    Args:
        scorers: scorer -> (M, D) float32 from :func:`.lists.whole_numbers`, M above every row.
        queries: (Q,) rows that are anchors, each once.
        gallery: (G,) rows that are listed, each once.
        members: rows of the gallery that may be positives and negatives; default all. Others keep
            their places in the lists, so that a part of a catalogue, such as that for validation,
            is judged by what the whole of it looks like.
        categories: (M,) text; None or all equal: no categories.
        depths: places in the lists; default :class:`Depths`.
        per_anchor: triplets of each anchor, at least 1.
        in_class_share: share of in-class negatives, 0 to 1.
        seed: 0 or more.
        threads: default: the processors of the machine. The result does not depend on it.

    Raises:
        UserError: more scorers have to agree than there are.
    """
    depths = depths or Depths()
    drawing = Drawing(per_anchor, in_class_share, seed)
    member = np.ones(_length(scorers), bool)
    if members is not None:
        member[:] = False
        member[members] = True
    parts = _parts(scorers, queries, gallery, categories, depths, threads, member)
    with bar("drawing triplets", len(queries)) as advance:
        for lists, elsewhere in parts:
            for number in range(len(lists.queries)):
                _add(drawing, lists, number, elsewhere, depths, member)
            advance(len(lists.queries))
    return drawing.triplets()


def held_out(
    scorers: Mapping[str, np.ndarray],
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    share: float,
    categories: np.ndarray | None = None,
    depths: Depths | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> np.ndarray:
    """Return rows to keep for validation: pictures drawn at random, each with its positives.

    Drawn alone, a picture would seldom meet another of its product there, and would be taught
    the next best.

    Args:
        scorers: as in :func:`from_likeness`.
        queries: as there.
        gallery: as there.
        share: of all these rows, above 0 and below 1.
        categories: as there.
        depths: as there.
        seed: 0 or more.
        threads: as there.

    Returns:
        Rows, ascending.

    Raises:
        UserError: more scorers have to agree than there are.
    """
    depths = depths or Depths()
    count = round(share * len(np.union1d(queries, gallery)))
    order = np.random.default_rng([seed, DIVIDE_STREAM]).permutation(np.sort(queries))
    everything = np.ones(_length(scorers), bool)
    taken: dict[int, None] = {}
    for low in range(0, len(order), DIVIDE_AT_ONCE):
        positives: dict[int, np.ndarray] = {}
        some = order[low : low + DIVIDE_AT_ONCE]
        for lists, _ in _parts(scorers, some, gallery, categories, depths, threads, everything):
            for number, row in enumerate(lists.queries.tolist()):
                positives[row] = _candidates(lists.items[:, number], depths)[0]
        for row in some.tolist():
            if len(taken) >= count:
                return np.array(sorted(taken), np.int64)
            if row not in taken:
                taken |= dict.fromkeys([row, *positives[row].tolist()])
    return np.array(sorted(taken), np.int64)


def _length(scorers: Mapping[str, np.ndarray]) -> int:
    return max((len(vectors) for vectors in scorers.values()), default=0)


def _add(
    drawing: Drawing,
    lists: Lists,
    number: int,
    elsewhere: _Elsewhere,
    depths: Depths,
    member: np.ndarray,
) -> None:
    """Add the triplets of the anchor with the given place in `lists`."""
    anchor = int(lists.queries[number])
    random = drawing.random(anchor)
    positives, in_class = (
        rows[member[rows]] for rows in _candidates(lists.items[:, number], depths)
    )

    def negative(positive: int, wanted: bool) -> int | None:
        if not wanted:
            return elsewhere.draw(random, anchor, lists.least[:, number])
        return int(random.choice(in_class)) if len(in_class) else None

    drawing.add(random, anchor, positives, negative)


def _candidates(items: np.ndarray, depths: Depths) -> tuple[np.ndarray, np.ndarray]:
    """Return the positives, best first, and the in-class negatives of lists (S, K)."""
    places = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape)
    listed = items >= 0
    found, number = np.unique(items[listed], return_inverse=True)
    at = places[listed]
    votes = np.bincount(number[at <= depths.near], minlength=len(found))
    # Where a scorer does not list an item, one place behind its last.
    total = np.full(len(found), (depths.high + 1) * len(items))
    np.subtract.at(total, number, depths.high + 1 - at)
    best = np.full(len(found), depths.high + 1)
    np.minimum.at(best, number, at)
    positive = np.flatnonzero(votes >= depths.agree)
    order = positive[np.lexsort((found[positive], total[positive], -votes[positive]))]
    return found[order], found[best > depths.low]


class _Elsewhere:
    """Draws out-of-class negatives."""

    def __init__(
        self, scorers: Mapping[str, np.ndarray], gallery: np.ndarray, hole: tuple[int, int] | None
    ) -> None:
        self._scorers, self._gallery, self._hole = scorers, gallery, hole

    def draw(self, random: np.random.Generator, anchor: int, least: np.ndarray) -> int | None:
        """Return a random row of another category; without categories, one that every scorer
        finds less similar than the last item of its list."""
        if self._hole is not None:
            place = outside(random, 0, len(self._gallery), [self._hole])
            return None if place is None else int(self._gallery[place])
        if np.isneginf(least).any() or not len(self._gallery):
            return None  # a list holds everything, or there is nothing to draw from
        for _ in range(TRIES):
            row = int(random.choice(self._gallery))
            if row != anchor and self._beyond(anchor, np.array([row]), least)[0]:
                return row
        far = self._gallery[self._beyond(anchor, self._gallery, least)]
        far = far[far != anchor]
        return int(random.choice(far)) if len(far) else None

    def _beyond(self, anchor: int, rows: np.ndarray, least: np.ndarray) -> np.ndarray:
        beyond = np.ones(len(rows), bool)
        for vectors, limit in zip(self._scorers.values(), least, strict=True):
            beyond &= vectors[rows] @ vectors[anchor] < limit
        return beyond


def _parts(
    scorers: Mapping[str, np.ndarray],
    queries: np.ndarray,
    gallery: np.ndarray,
    categories: np.ndarray | None,
    depths: Depths,
    threads: int | None,
    member: np.ndarray,
) -> Iterator[tuple[Lists, _Elsewhere]]:
    """Yield the lists of all queries, category by category, and where else to draw from."""
    if depths.agree > len(scorers):
        raise UserError(
            f"{depths.agree} scorers have to agree, and there are {len(scorers)} "
            f"({', '.join(scorers)}): name more, or let fewer agree"
        )
    queries, gallery = np.sort(queries), np.sort(gallery)
    names = np.zeros(0, str) if categories is None else categories.astype(str)
    if categories is None or len(np.unique(names[gallery])) < 2:
        elsewhere = _Elsewhere(scorers, gallery[member[gallery]], None)
        for lists in nearest_lists(scorers, queries, gallery, depths.high, threads=threads):
            yield lists, elsewhere
        return
    drawn = gallery[member[gallery]]
    drawn = drawn[np.argsort(names[drawn], kind="stable")]
    ordered = names[drawn]
    for name in np.unique(names[queries]):
        low, high = (int(np.searchsorted(ordered, name, side)) for side in ("left", "right"))
        elsewhere = _Elsewhere(scorers, drawn, (low, high))
        mine, inside = queries[names[queries] == name], gallery[names[gallery] == name]
        for lists in nearest_lists(scorers, mine, inside, depths.high, threads=threads):
            yield lists, elsewhere

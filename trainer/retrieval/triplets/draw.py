"""Drawn triplets, and the draws that both ways of making them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

#: How often a draw is repeated before it counts as used up.
TRIES = 16

#: Keep the random numbers for different purposes apart.
ANCHOR_STREAM, ORDER_STREAM, LIMIT_STREAM, DIVIDE_STREAM, SHOW_STREAM = range(1, 6)


@dataclass(frozen=True)
class Triplets:
    """Triplets of some anchors, shuffled.

    Attributes:
        rows: (T, 3) int64, rows of a table: anchor, positive, negative; no triplet comes twice.
        in_class: (T,) bool, whether the negative is of the anchor's class: the same category, or,
            without categories, from its neighbour lists.
        anchors: how many anchors were tried.
        skipped: how many of them have no triplet, for want of a positive or of any negative.
        replaced: how many negatives are of the other kind than was drawn, as there was none.
    """

    rows: np.ndarray
    in_class: np.ndarray
    anchors: int
    skipped: int
    replaced: int

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: np.ndarray) -> Triplets:
        """Return the triplets at the places `chosen`, in that order."""
        return Triplets(
            self.rows[chosen], self.in_class[chosen], self.anchors, self.skipped, self.replaced
        )


class Drawing:
    """Collects the triplets of anchors, one anchor after another.

    The random numbers of an anchor depend on the seed and its row only, so that neither blocks nor
    threads nor other anchors change its triplets.

    Args:
        per_anchor: triplets of each anchor, at least 1.
        in_class_share: share of in-class negatives, 0 to 1.
        seed: 0 or more.
    """

    def __init__(self, per_anchor: int, in_class_share: float, seed: int) -> None:
        self._per_anchor, self._share, self._seed = per_anchor, in_class_share, seed
        self._rows: list[tuple[int, int, int]] = []
        self._in_class: list[bool] = []
        self._anchors = self._skipped = self._replaced = 0

    def random(self, anchor: int) -> np.random.Generator:
        """Return the random numbers of an anchor."""
        return np.random.default_rng([self._seed, ANCHOR_STREAM, anchor])

    def add(
        self,
        random: np.random.Generator,
        anchor: int,
        positives: Sequence[int] | np.ndarray,
        negative: Callable[[int, bool], int | None],
    ) -> None:
        """Add the triplets of an anchor.

        Args:
            random: what :meth:`random` gave.
            anchor: its row.
            positives: rows, the best first; they take turns.
            negative: (positive, in class or not) -> a random row, or None if there is none.
        """
        self._anchors += 1
        taken: set[tuple[int, int]] = set()
        # The whole part of the share is certain, the rest is drawn: less scatter than a coin each.
        in_class = int(self._per_anchor * self._share + random.random())
        kinds = random.permutation(np.arange(self._per_anchor) < in_class)
        for number, kind in enumerate(kinds.tolist() if len(positives) else []):
            positive = int(positives[number % len(positives)])
            for wanted in (kind, not kind):
                found = self._new(positive, wanted, negative, taken)
                if found is not None:
                    taken.add((positive, found))
                    self._rows.append((anchor, positive, found))
                    self._in_class.append(wanted)
                    self._replaced += wanted != kind
                    break
        self._skipped += not taken

    def _new(
        self,
        positive: int,
        in_class: bool,
        negative: Callable[[int, bool], int | None],
        taken: set[tuple[int, int]],
    ) -> int | None:
        for _ in range(TRIES):
            found = negative(positive, in_class)
            if found is None or (positive, found) not in taken:
                return found
        return None

    def triplets(self) -> Triplets:
        """Return all triplets, shuffled."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        in_class = np.array(self._in_class, bool)
        order = np.random.default_rng([self._seed, ORDER_STREAM]).permutation(len(rows))
        return Triplets(rows[order], in_class[order], self._anchors, self._skipped, self._replaced)


def outside(
    random: np.random.Generator, low: int, high: int, holes: Sequence[tuple[int, int]]
) -> int | None:
    """Return a random place in low..high-1 that is in none of the holes, None if there is none.

    Args:
        random: where the draw comes from.
        low: first place.
        high: place after the last.
        holes: ascending ranges (first, after the last) that do not overlap.
    """
    holes = [(max(first, low), min(end, high)) for first, end in holes]
    holes = [(first, end) for first, end in holes if first < end]
    free = high - low - sum(end - first for first, end in holes)
    if free <= 0:
        return None
    place = low + int(random.integers(free))
    for first, end in holes:
        if place >= first:
            place += end - first
    return place

"""Which pairs of a labelled batch are positive and which negative, and walks over them."""

from __future__ import annotations

from typing import Any

from keras import ops


def pair_masks(labels: Any) -> tuple[Any, Any]:
    """Return the positive and the negative pairs of a batch as boolean (B, B).

    Pairs are ordered, (i, j) as well as (j, i); an item is not paired with itself.
    """
    same = labels[:, None] == labels[None, :]
    position = ops.arange(ops.shape(labels)[0], dtype="int32")
    return ops.logical_and(same, position[:, None] != position[None, :]), ops.logical_not(same)


class Classmates:
    """The positives of each item, one after another, without a list of all pairs.

    Round `k` of `rounds` gives every item its k-th classmate, so that a loss can go over all
    positive pairs with (B,) of work state a round, in as many rounds as the largest class has
    positives: all shapes are static, as XLA wants them.
    """

    def __init__(self, labels: Any) -> None:
        self._order = ops.argsort(labels)
        ordered = ops.take(labels, self._order)
        self._first = ops.searchsorted(ordered, labels, side="left")
        self._size = ops.searchsorted(ordered, labels, side="right") - self._first
        self._place = ops.argsort(self._order) - self._first
        self.rounds = ops.max(self._size) - 1

    def at(self, k: Any) -> tuple[Any, Any]:
        """Return the batch position (B,) of the k-th classmates, and whether there is one (B,).

        `k` counts from 0. Where there is none, the position is a valid one of no meaning.
        """
        step = ops.mod(self._place + k + 1, self._size)
        return ops.take(self._order, self._first + step), k + 1 < self._size

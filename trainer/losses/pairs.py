"""Which pairs of a labelled batch are positive and which negative, and walks over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops


def pair_masks(labels: Any) -> tuple[Any, Any]:
    """Return the positive and the negative pairs of a batch as boolean (B, B).

    Pairs are ordered, (i, j) as well as (j, i); an item is not paired with itself. An item has no
    negative only if the whole batch is of one class.
    """
    same = labels[:, None] == labels[None, :]
    position = ops.arange(ops.shape(labels)[0], dtype="int32")
    return ops.logical_and(same, position[:, None] != position[None, :]), ops.logical_not(same)


def has_both(positive: Any, negative: Any) -> Any:
    """Return which items have a positive and a negative, as boolean (B, 1), from the two masks."""
    return ops.logical_and(
        ops.any(positive, axis=1, keepdims=True), ops.any(negative, axis=1, keepdims=True)
    )


def at(matrix: Any, columns: Any) -> Any:
    """Read `columns` (B, C) of each row of `matrix` (B, B): (B, C)."""
    return ops.take(ops.reshape(matrix, (-1,)), _flat(matrix, columns))


def closest(away: Any, mask: Any) -> Any:
    """Return the column (B, 1) of the smallest entry of each row of `away` where `mask` holds.

    Where it holds nowhere, the column is a valid one of no meaning.
    """
    infinite = ops.full_like(away, float("inf"))
    column = ops.argmin(ops.where(mask, away, infinite), axis=1, keepdims=True)
    return ops.cast(column, "int32")


def farthest(away: Any, mask: Any) -> Any:
    """Return the column (B, 1) of the largest entry of each row of `away` where `mask` holds.

    Where it holds nowhere, the column is a valid one of no meaning.
    """
    return closest(-away, mask)


def first_above(rows: Any, count: Any, values: Any) -> Any:
    """Return how many of the first `count` (B, 1) entries of ascending `rows` (B, N) are not above.

    By binary search for each of `values` (B, C): the place (B, C) of the first entry that is larger
    than it, or `count` where none is.
    """
    size = ops.shape(rows)[1]
    low, high = ops.zeros_like(values, dtype="int32"), ops.zeros_like(values, dtype="int32") + count
    # Enough halvings for the batch; for a size unknown until it runs, for any that fits in memory.
    for _ in range((size if isinstance(size, int) else 2**16).bit_length()):
        middle = (low + high) // 2
        beyond = at(rows, ops.minimum(middle, size - 1)) > values
        right = ops.logical_and(low < high, ops.logical_not(beyond))
        high = ops.where(ops.logical_and(low < high, beyond), middle, high)
        low = ops.where(right, middle + 1, low)
    return low


def add_at(matrix: Any, columns: Any, values: Any) -> Any:
    """Add `values` (B, C) to `matrix` (B, B) at `columns` (B, C) of each row, repeats included."""
    size = ops.shape(matrix)[0]
    flat = ops.reshape(_flat(matrix, columns), (-1,))
    added = ops.segment_sum(ops.reshape(values, (-1,)), flat, num_segments=size * size)
    return matrix + ops.reshape(added, ops.shape(matrix))


def _flat(matrix: Any, columns: Any) -> Any:
    size = ops.shape(matrix)[0]
    return ops.arange(size, dtype="int32")[:, None] * size + columns


class Classmates:
    """The positives of each item, a few at a time, without a list of all pairs.

    Every item has its classmates numbered 0, 1, ... up to the size of its class less one; `most` is
    how many the largest class gives (a scalar), `count` how many each item has (B,). Losses take
    them in rounds, with a work state of O(B) a round: memory does not depend on class sizes, and
    all shapes are static, as XLA wants them.
    """

    def __init__(self, labels: Any) -> None:
        # The first position of its class stands for a label: only equality of labels is used, so
        # that any integer type will do, and no label is ever rounded.
        same = ops.cast(labels[:, None] == labels[None, :], "int8")
        codes = ops.cast(ops.argmax(same, axis=1), "int32")
        self._order = ops.cast(ops.argsort(codes), "int32")
        ordered = ops.take(codes, self._order)
        self._first = ops.cast(ops.searchsorted(ordered, codes, side="left"), "int32")
        last = ops.cast(ops.searchsorted(ordered, codes, side="right"), "int32")
        self._size = last - self._first
        self._place = ops.cast(ops.argsort(self._order), "int32") - self._first
        self.count = self._size - 1
        self.most = ops.max(self.count)

    def take(self, numbers: Any) -> tuple[Any, Any]:
        """Return the positions in the batch (B, C) of classmates `numbers` of every item.

        Numbers are (C,), the same for every item, or (B, C). The second result (B, C) says where
        there is such a classmate; where there is none, the position is a valid one of no meaning.
        """
        step = (self._place[:, None] + numbers + 1) % self._size[:, None]
        exists = numbers + 1 < self._size[:, None]
        return ops.take(self._order, self._first[:, None] + step), exists

    def fold(self, width: int, body: Callable[..., tuple[Any, ...]], state: tuple[Any, ...]) -> Any:
        """Run `state = body(positions, exists, *state)` over all classmates, `width` at a time."""

        def round_(start: Any, *state: Any) -> tuple[Any, ...]:
            numbers = start + ops.arange(width, dtype="int32")
            return start + width, *body(*self.take(numbers), *state)

        first = ops.zeros((), dtype="int32")
        _, *state_ = ops.while_loop(lambda start, *_: start < self.most, round_, (first, *state))
        return state_

"""Which pairs of a labelled batch are positive and which negative, and walks over them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Pairs:
    """Which references are positives of an anchor, and which are negatives: boolean (B, M) both.

    A reference may be neither. `labels` (B,) are given where the anchors of a batch are their own
    references, as :meth:`of_batch` has them: positives are then found in less time.
    """

    positive: Any
    negative: Any
    labels: Any = None

    @classmethod
    def of_batch(cls, labels: Any) -> Pairs:
        """Return all pairs of a labelled batch."""
        return cls(*pair_masks(labels), labels)

    def in_turn(self) -> InTurn:
        """Return the positives of each anchor, a few at a time."""
        return Marked(self.positive) if self.labels is None else Classmates(self.labels)


def has_both(positive: Any, negative: Any) -> Any:
    """Return which items have a positive and a negative, as boolean (B, 1), from the two masks."""
    return ops.logical_and(
        ops.any(positive, axis=1, keepdims=True), ops.any(negative, axis=1, keepdims=True)
    )


def at(matrix: Any, columns: Any) -> Any:
    """Read `columns` (B, C) of each row of `matrix` (B, M): (B, C)."""
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
    """Add `values` (B, C) to `matrix` (B, M) at `columns` (B, C) of each row, repeats included."""
    rows, width = ops.shape(matrix)
    flat = ops.reshape(_flat(matrix, columns), (-1,))
    added = ops.segment_sum(ops.reshape(values, (-1,)), flat, num_segments=rows * width)
    return matrix + ops.reshape(added, ops.shape(matrix))


def _flat(matrix: Any, columns: Any) -> Any:
    rows, width = ops.shape(matrix)
    return ops.arange(rows, dtype="int32")[:, None] * width + columns


class InTurn(abc.ABC):
    """The positives of each item, a few at a time, without a list of all pairs.

    Every item has its positives numbered from 0 on; `count` (B,) is how many each has, `most` (a
    scalar) how many one has at most. Losses take them in rounds, with a work state of O(B) a round:
    memory does not depend on how many there are, and all shapes are static, as XLA wants them.
    """

    count: Any
    most: Any

    @abc.abstractmethod
    def take(self, numbers: Any) -> tuple[Any, Any]:
        """Return the columns (B, C) of positives `numbers` of every item.

        Numbers are (C,), the same for every item, or (B, C). The second result (B, C) says where
        there is such a positive; where there is none, the column is a valid one of no meaning.
        """

    def fold(self, width: int, body: Callable[..., tuple[Any, ...]], state: tuple[Any, ...]) -> Any:
        """Run `state = body(columns, exists, *state)` over all positives, `width` at a time."""

        def round_(start: Any, *state: Any) -> tuple[Any, ...]:
            numbers = start + ops.arange(width, dtype="int32")
            return start + width, *body(*self.take(numbers), *state)

        first = ops.zeros((), dtype="int32")
        _, *state_ = ops.while_loop(lambda start, *_: start < self.most, round_, (first, *state))
        return state_


class Marked(InTurn):
    """The positives that a mask (B, M) marks."""

    def __init__(self, positive: Any) -> None:
        self._until = ops.cumsum(ops.cast(positive, "int32"), axis=1)
        self.count = self._until[:, -1]
        self.most = ops.max(self.count)

    def take(self, numbers: Any) -> tuple[Any, Any]:
        """Return columns in the mask, in ascending order of the numbers."""
        numbers = ops.zeros_like(self.count)[:, None] + numbers
        width = ops.shape(self._until)[1]
        # Number n stands where the count of marks so far goes above n.
        column = first_above(self._until, width, numbers)
        return ops.minimum(column, width - 1), numbers < self.count[:, None]


class Classmates(InTurn):
    """The positives of each item of a labelled batch: the others of its class."""

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
        """Return positions in the batch."""
        step = (self._place[:, None] + numbers + 1) % self._size[:, None]
        exists = numbers + 1 < self._size[:, None]
        return ops.take(self._order, self._first[:, None] + step), exists

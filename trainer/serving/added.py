"""Items that are added while a catalogue is served: an exact index in memory that only grows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from trainer.retrieval.vectors import Similarity, prepared, similarities
from trainer.serving.changes import Item

Field = Literal["category", "domain", "label"]
FIELDS: tuple[Field, ...] = ("category", "domain", "label")


class AddedItems:
    """Items with their vectors, numbered as they come; nothing that has a number ever changes.

    One thread may append while others read: they look only at the numbers below a count that they
    were given before. Adding costs the same however many there are, on the average.

    Args:
        dim: of the vectors.
        similarity: of the scores.
    """

    def __init__(self, dim: int, similarity: Similarity) -> None:
        self.items: list[Item] = []
        self.similarity: Similarity = similarity
        self._vectors = np.empty((16, dim), np.float32)
        self._codes = np.empty((16, len(FIELDS)), np.int32)
        self._values: dict[Field, dict[str, int]] = {name: {} for name in FIELDS}
        # The last number of each id, and for each number the one that its id had before, or -1.
        self._latest: dict[str, int] = {}
        self._before: list[int] = []

    def append(self, item: Item, vector: np.ndarray) -> None:
        """Add an item with its prepared vector (D,)."""
        number = len(self.items)
        if number == len(self._vectors):
            # Readers hold on to the old arrays, whose rows are the same.
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._codes = np.concatenate([self._codes, np.empty_like(self._codes)])
        self._vectors[number] = vector
        for column, name in enumerate(FIELDS):
            values = self._values[name]
            self._codes[number, column] = values.setdefault(getattr(item, name), len(values))
        self._before.append(self._latest.get(item.id, -1))
        self.items.append(item)
        self._latest[item.id] = number

    def place(self, name: str, count: int) -> int:
        """Return the last of the first `count` numbers that has this id, or -1."""
        number = self._latest.get(name, -1)
        while number >= count:
            number = self._before[number]
        return number

    def vector(self, number: int) -> np.ndarray:
        """Return a vector (D,) as it is compared."""
        return self._vectors[number].copy()

    def having(self, count: int, field: Field, value: str) -> np.ndarray:
        """Return which of the first `count` have this value, bool (count,)."""
        code = self._values[field].get(value, -1)
        return self._codes[:count, FIELDS.index(field)] == code

    def scores(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Return the similarities of queries (Q, D) and the first items, (Q, count)."""
        asked = prepared(queries, self.similarity)
        return similarities(asked, self._vectors[:count], self.similarity)

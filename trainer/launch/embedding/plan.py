"""What is embedded by which model, and which rows of it are whose."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import UserError

#: What a plan is made of, in words for people.
WORDS = {
    "model": "model",
    "catalogue": "catalogue",
    "source": "catalogue",
    "rows": "catalogue",
    "dim": "model",
    "batch": "version of mildnet",
    "shards": "number of shards",
}


@dataclass(frozen=True)
class Plan:
    """A catalogue to embed, and how it is split.

    The rows are split into shards of consecutive batches, as many in one as in another but for one
    batch. So every row goes through the model together with the same others, whatever the number
    of shards: which is what makes the embeddings the same to the bit.

    Attributes:
        model: fingerprint of the exported model.
        catalogue: fingerprint of the table.
        source: folder that all its pictures share, which the fingerprint leaves out.
        rows: of the table.
        dim: numbers of an embedding.
        batch: rows that go through the model together.
        shards: parts.
    """

    model: str
    catalogue: str
    source: str
    rows: int
    dim: int
    batch: int
    shards: int

    def rows_of(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard, counted from 1, and the one behind its last."""
        batches = -(-self.rows // self.batch)
        begin, end = (number * batches // self.shards * self.batch for number in (shard - 1, shard))
        return min(begin, self.rows), min(end, self.rows)

    def refuse_others(self, there: Mapping[str, Any], folder: str) -> None:
        """Check that a folder was begun by the same plan.

        Args:
            there: the plan of the folder, or more that holds it.
            folder: for the message.

        Raises:
            UserError: it was begun by another one.
        """
        mine = dataclasses.asdict(self)
        other = [WORDS[name] for name in mine if there.get(name) != mine[name]]
        if other:
            raise UserError(
                f"{folder} holds embeddings of another {' and '.join(dict.fromkeys(other))}: "
                "choose another folder, or go on with the same"
            )


def parse_shard(text: str) -> tuple[int, int]:
    """Return number and count of `i/n`.

    >>> parse_shard("2/4")
    (2, 4)

    Raises:
        UserError: it is not of that form, or i is not from 1 to n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None:
        raise UserError(f"--shard {text}: give i/n, such as 1/4 for the first of four")
    shard, shards = int(match[1]), int(match[2])
    if not 1 <= shard <= shards:
        raise UserError(f"--shard {text}: shards count from 1 to {shards}, there is no {shard}")
    return shard, shards


def gaps(done: Iterable[tuple[int, int]], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches between `begin` and `end` that no stretch of `done` (in order) covers.

    >>> list(gaps([(2, 4), (4, 5)], 0, 8))
    [(0, 2), (5, 8)]
    """
    for first, behind in done:
        if first > begin:
            yield begin, first
        begin = max(begin, behind)
    if begin < end:
        yield begin, end


def pieces(stretches: Iterable[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches cut to pieces of `most` rows, and what is left of each.

    >>> list(pieces([(0, 2), (5, 8)], 2))
    [(0, 2), (5, 7), (7, 8)]
    """
    for begin, end in stretches:
        for first in range(begin, end, most):
            yield first, min(first + most, end)

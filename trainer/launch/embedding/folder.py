"""A folder that embeddings are being written to: what was begun in it, and what came of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import absolute, is_leftover
from trainer.data.table import ItemTable
from trainer.launch.embedding import parts
from trainer.launch.embedding.blocks import Blocks
from trainer.launch.embedding.plan import Plan
from trainer.launch.run_folder import RunFolder
from trainer.retrieval.embeddings_folder import META, EmbeddingsMeta

#: Folder of what is done of an unfinished shard, and its plan.
BLOCKS, PLAN = "blocks", "blocks/plan.json"
LOCK = ".lock"

_SHARD = re.compile(r"shard-(\d+)-of-(\d+)")


def shard_folders(path: str) -> dict[str, tuple[int, int]]:
    """Return the names of the shards in a folder in order, each with its number and the count."""
    found = {}
    for name in RunFolder(path).names():
        if match := _SHARD.fullmatch(name):
            found[name] = int(match[1]), int(match[2])
    return dict(sorted(found.items(), key=lambda named: named[1][::-1]))


class ShardFolder:
    """Where a shard goes: the folder that is given, or with several shards one of its own in it.

    Args:
        given: folder, local or remote.
        plan: what is embedded.
        shard: which part, from 1.

    Attributes:
        path: of the shard's own folder.
        blocks: what is done of it.
    """

    def __init__(self, given: str, plan: Plan, shard: int) -> None:
        self._given = absolute(given)
        self._plan = plan
        self._shard = shard
        name = f"shard-{shard}-of-{plan.shards}"
        self._own = RunFolder(self._given if plan.shards == 1 else f"{self._given}/{name}")
        self.path = self._own.path
        self.blocks = Blocks(self._own.file(BLOCKS))

    def begin(self) -> None:
        """Take a note of the plan, if there is none.

        Raises:
            UserError: the folder holds something else.
        """
        there = [path for path in (self._given, self.path) if _note(RunFolder(path)) is not None]
        there += [f"{self._given}/{name}" for name in shard_folders(self._given)]
        for path in there:
            if (note := _note(RunFolder(path))) is not None:
                self._plan.refuse_others(note, self._given)
        if _note(self._own) is not None:
            return
        strangers = [name for name in self._own.names() if name not in (LOCK, BLOCKS)]
        inside = RunFolder(self.blocks.path).names()
        # A process may have been killed before it has written the plan.
        strangers += [f"{BLOCKS}/{name}" for name in inside if not is_leftover(name, "plan.json")]
        if strangers:
            raise UserError(
                f"{self.path} holds something else than embeddings ({strangers[0]}): "
                "choose another folder"
            )
        self._own.write_json(PLAN, dataclasses.asdict(self._plan))

    def finished(self) -> EmbeddingsMeta | None:
        """Return what the shard says of itself, if it is finished."""
        if not self._own.exists(META):
            return None
        # A process that was killed just after may have left them.
        self.blocks.clear()
        return EmbeddingsMeta.from_dict(self._own.read_json(META), self._own.file(META))

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes on this machine out of the shard."""
        return self._own.locked()

    def finish(self, items: ItemTable, meta: EmbeddingsMeta) -> EmbeddingsMeta:
        """Put the blocks together, and return what the shard says of itself then.

        Args:
            items: all rows of the catalogue.
            meta: what is known of it: all but the checksums.
        """
        rows: list[np.ndarray] = [np.empty(0, np.int64)]
        # What the reader could not use stands in front, once.
        bad = list(items.problems) if self._shard == 1 else []

        def each() -> Iterator[parts.Arrays]:
            for block in self.blocks.read():
                rows.append(block.rows)
                bad.extend(f"{items.path[row]}: {fault}" for row, fault in block.faults.items())
                yield block.embeddings, block.keys, block.states

        begin, end = self._plan.rows_of(self._shard)
        with parts.written_to(self.path, scratch=self.blocks.path) as folder:
            parts.write_arrays(folder, meta, end - begin, each())
            parts.write_table(folder, items.select(np.concatenate(rows)), bad)
            parts.write_meta(folder, meta)
        self.blocks.clear()
        return EmbeddingsMeta.from_dict(self._own.read_json(META), self._own.file(META))


def _note(folder: RunFolder) -> dict[str, Any] | None:
    """Return by which plan a shard was begun, or what it says of itself; None of anything else."""
    for name in (META, PLAN):
        if folder.exists(name):
            return folder.read_json(name)
    return None

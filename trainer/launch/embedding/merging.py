"""All shards of a catalogue put together: the folder that embedding it in one go makes."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer.config import UserError
from trainer.data.files import absolute, is_remote
from trainer.data.join import join
from trainer.data.table import ItemTable
from trainer.launch.embedding import parts
from trainer.launch.embedding.folder import shard_folders
from trainer.launch.embedding.plan import Plan
from trainer.launch.embedding.walk import Embedded, bad_share
from trainer.launch.run_folder import RunFolder, local_copy
from trainer.retrieval.embedding_cache import WIDTH
from trainer.retrieval.embeddings_folder import (
    BAD,
    FILES,
    META,
    STATES,
    EmbeddingsMeta,
    check_files,
    read_part,
)

#: Rows that are copied at once.
CHUNK = 16_384


def merge(
    folders: Sequence[str],
    to: str,
    *,
    max_bad_share: float | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Embedded:
    """Put the shards of a catalogue together, all or nothing.

    Args:
        folders: shards, or folders that hold some; local or remote.
        to: folder to make.
        max_bad_share: share of the catalogue's rows that may be bad; default: what the shards were
            made with.
        tell: takes a line on what is done.

    Raises:
        UserError: a shard is missing, not finished, there twice, damaged, or of another model or
            catalogue than the first; too many pictures are bad, or `to` holds something.
    """
    found = _in_order([path for given in folders for path in _shards(absolute(given))])
    metas = [meta for _, meta in found]
    whole = _whole(metas, max_bad_share)
    target = absolute(to)
    there = RunFolder(target)
    if there.exists(META):
        before = EmbeddingsMeta.from_dict(there.read_json(META), there.file(META))
        if dataclasses.replace(before, checksums={}) == whole:
            _check_made(target, before, found, whole)
            tell("done before")
            return Embedded(target, before)
    # A merge that was cut short leaves the first files of its own.
    if (names := there.names()) != sorted(FILES[: len(names)]):
        raise UserError(f"{to} holds something else: choose another folder")
    beside = os.path.dirname(target)
    RunFolder(beside).make()
    with parts.written_to(target, scratch=beside) as folder:
        meta = _write(folder, found, whole)
    return Embedded(target, meta)


def _check_made(
    target: str,
    before: EmbeddingsMeta,
    found: list[tuple[str, EmbeddingsMeta]],
    whole: EmbeddingsMeta,
) -> None:
    """Check that a folder is whole, and what its shards make now."""
    with local_copy(target) as folder:
        check_files(folder, before, target)
    # Made again beside it: what it says of itself may not say more than one go would.
    scratch = None if is_remote(target) else Path(target).parent
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".merge-") as made:
        if _write(Path(made), found, whole) != before:
            raise UserError(
                f"{target} was made of these shards before they were embedded again: delete it, "
                "or choose another folder"
            )


def _write(
    folder: Path, found: list[tuple[str, EmbeddingsMeta]], whole: EmbeddingsMeta
) -> EmbeddingsMeta:
    tables: list[ItemTable] = []
    bad: list[str] = []
    parts.write_arrays(folder, whole, whole.rows, _arrays(found, tables, bad))
    parts.write_table(folder, join(tables), bad)
    return parts.write_meta(folder, whole)


def _shards(path: str) -> list[tuple[str, EmbeddingsMeta]]:
    """Return the shards of a folder, which may be one itself, with what they say of themselves."""
    folder = RunFolder(path)
    if folder.exists(META):
        return [(path, EmbeddingsMeta.from_dict(folder.read_json(META), folder.file(META)))]
    names = shard_folders(path)
    if not names:
        raise UserError(f"{path} holds no embeddings that are finished, and no shards of any")
    found = []
    for name, (shard, shards) in names.items():
        if not RunFolder(folder.file(name)).exists(META):
            raise UserError(
                f"{path}: shard {shard} of {shards} is not finished: give its command again"
            )
        found += _shards(folder.file(name))
    return found


def _in_order(
    found: list[tuple[str, EmbeddingsMeta]],
) -> list[tuple[str, EmbeddingsMeta]]:
    """Return the shards in order, after a check that they are all that there are, each once."""
    first, meta = found[0]
    plan = _plan(meta)
    by_number: dict[int, str] = {}
    for path, other in found:
        plan.refuse_others(vars(other), path)
        if other.shard in by_number:
            raise UserError(
                f"shard {other.shard} of {plan.shards} comes twice: {by_number[other.shard]} and "
                f"{path}; give one of them"
            )
        begin, end = plan.rows_of(other.shard)
        if other.items + other.bad != end - begin:
            raise UserError(
                f"{path} speaks of {other.items + other.bad:,} rows of {end - begin:,}: delete it, "
                "and embed it again"
            )
        by_number[other.shard] = path
    missing = [str(n) for n in range(1, plan.shards + 1) if n not in by_number]
    if missing:
        word, verb = ("shard", "is") if len(missing) == 1 else ("shards", "are")
        raise UserError(
            f"{word} {', '.join(missing)} of {plan.shards} {verb} missing beside {first}"
        )
    return sorted(found, key=lambda one: one[1].shard)


def _plan(meta: EmbeddingsMeta) -> Plan:
    return Plan(**{field.name: getattr(meta, field.name) for field in dataclasses.fields(Plan)})


def _whole(metas: list[EmbeddingsMeta], max_bad_share: float | None) -> EmbeddingsMeta:
    """Return what the whole says of itself, but for the checksums."""
    bad, first = sum(meta.bad for meta in metas), metas[0]
    allowed = max(meta.max_bad_share for meta in metas) if max_bad_share is None else max_bad_share
    share = bad_share(bad, first.rows, first.problems)
    if share > allowed:
        raise UserError(
            f"{bad + first.problems} pictures and rows of the catalogue cannot be used, a share of "
            f"{share:.2%} where --max-bad-share allows {allowed:.2%}: see {BAD} of the shards"
        )
    items = sum(meta.items for meta in metas)
    if not items:
        raise UserError(f"no picture can be used: see {BAD} of the shards")
    return dataclasses.replace(
        first, shard=1, shards=1, items=items, bad=bad, max_bad_share=allowed, checksums={}
    )


def _arrays(
    found: list[tuple[str, EmbeddingsMeta]], tables: list[ItemTable], bad: list[str]
) -> Iterator[parts.Arrays]:
    """Yield the arrays of all shards in order; fill in their tables, and what was bad."""
    none = np.empty((0, 2), np.int64)
    for path, meta in found:
        with local_copy(path) as folder:
            check_files(folder, meta, path)
            lines = (folder / BAD).read_bytes().decode("utf-8", "surrogateescape")
            bad += lines.split("\n")[:-1]
            empty = np.empty((0, meta.dim), np.float32), np.empty((0, WIDTH), np.uint8)
            yield *empty, np.load(folder / STATES)
            if not meta.items:
                continue
            part = read_part(folder, meta)
            tables.append(part.items)
            for begin in range(0, meta.items, CHUNK):
                rows = slice(begin, begin + CHUNK)
                yield part.embeddings[rows], part.keys[rows], none

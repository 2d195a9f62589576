"""Keep an index in step with its catalogue: products come, change and go."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import absolute, write_bytes
from trainer.data.table import ItemTable
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import embed_catalogue, exported_model, offered, read_catalogue
from trainer.retrieval.embedding_cache import WIDTH, EmbeddingCache, picture_keys
from trainer.serving.catalogue import (
    MODEL,
    CatalogueIndex,
    changing,
    check_model,
    item_ids,
    load_catalogue,
    write_catalogue,
)
from trainer.serving.changes import Added, Changes
from trainer.serving.live import apply_changes, changes_file
from trainer.serving.public_names import merged_file, merged_folder

#: How the files of pictures begin and end.
ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif"}


@dataclass(frozen=True)
class IndexChange:
    """What a change did to an index, in items."""

    items: int
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0

    def __str__(self) -> str:
        counts = ("added", "replaced", "unchanged", "removed")
        parts = [f"{getattr(self, name)} {name}" for name in counts if getattr(self, name)]
        return ", ".join(parts) or "nothing to do"


def add_to_index(
    run: RunFolder,
    source: str,
    folder: str | os.PathLike[str],
    *,
    model_folder: str | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> IndexChange:
    """Add the items of a catalogue to an index; nothing is trained or built anew.

    A picture is known by its path. One that the index has not is added, with each of its boxes. If
    its content or boxes are others than they were, it takes the place of the old one. If not, it
    stays, and only what the table says of it (label, category, ...) is taken over. Items that the
    catalogue does not name stay. Pictures that can't be decoded are left out, and named in
    `FOLDER.bad_images.log`.

    Args:
        run: the run that the index was built with.
        source: an `items.csv`, a folder with one, or a folder of pictures.
        folder: an index that :func:`trainer.launch.searching.build_index` wrote.
        model_folder: export of the run's model that it was built with; default: the run's own.
        tell: takes a line on what was embedded.

    Raises:
        UserError: no index, one of another model, or no pictures; the index is then as it was.
    """
    config = run.config()
    embedder = exported_model(model_folder or run.file("model"))
    model = embedder.fingerprint()
    items = offered(config, source)
    with changing(folder):
        old = load_catalogue(folder)
        check_model(old, embedder, folder)
        known = EmbeddingCache.load(folder, embedder.dim)
        items, new = embed_catalogue(config, embedder, model, items, known, folder, tell)
        known = known.of(old.ids)
        here, there = _same(old.items, known.keys, items, new.keys)
        enters = np.ones(len(items), bool)
        enters[there] = False
        leaves = _within(old.items.path, items.path[enters])
        names = np.array(item_ids(items), str)[enters]
        old.index.update(
            np.array(old.ids, str)[leaves], new.embeddings[enters], names
        ).notes.setdefault(MODEL, model)
        # Rows of the new index: those that stay, as the catalogue has them now, then the others.
        rows = np.arange(len(old.items))
        rows[here] = len(old.items) + there
        rows = np.concatenate([rows[~leaves], len(old.items) + np.flatnonzero(enters)])
        changed = CatalogueIndex(old.index, _joined(old.items, items).select(rows))
        cache = EmbeddingCache(
            np.concatenate([known.keys, new.keys])[rows],
            np.concatenate([known.embeddings, new.embeddings])[rows],
        )
        write_catalogue(changed, folder, cache)
    replaced = int(_within(items.path[enters], old.items.path).sum())
    return IndexChange(
        items=len(changed.items),
        added=int(enters.sum()) - replaced,
        replaced=replaced,
        unchanged=len(there),
    )


def remove_from_index(
    folder: str | os.PathLike[str],
    ids: Sequence[str] = (),
    *,
    labels: Sequence[str] = (),
    source: str | None = None,
) -> IndexChange:
    """Remove items from an index: all that any of the arguments names.

    Args:
        folder: an index that :func:`trainer.launch.searching.build_index` wrote.
        ids: ids as a search shows them, or paths of pictures from the working folder.
        labels: products.
        source: a catalogue: all items of its pictures.

    Raises:
        UserError: nothing is named, something that the index does not have, or all that it has;
            the index is then as it was.
    """
    if not ids and not labels and source is None:
        raise UserError("say what to remove: ids, --label LABEL or --items ITEMS")
    listed = [] if source is None else read_catalogue(source).path.tolist()
    with changing(folder):
        old = load_catalogue(folder)
        there = set(old.ids)
        named = [name if name in there else absolute(name) for name in ids]
        products = [old.items.label_names[code] for code in old.items.label]
        gone = np.zeros(len(old.items), bool)
        for what, wanted, having in (
            ("item", named, old.ids),
            ("product", labels, products),
            ("picture", listed, old.items.path),
        ):
            strange = set(wanted) - set(having)
            if strange:
                more = f" ({len(strange)} such are named)" if len(strange) > 1 else ""
                raise UserError(f"{folder} has no {what} {min(strange)}{more}: nothing is removed")
            gone |= _within(having, wanted)
        names = np.array(old.ids, str)
        old.index.remove(names[gone])
        left = CatalogueIndex(old.index, old.items.select(~gone))
        known = EmbeddingCache.load(folder, old.index.dim).of(names.tolist())
        cache = EmbeddingCache(known.keys[~gone], known.embeddings[~gone])
        write_catalogue(left, folder, cache)
    return IndexChange(items=len(left.items), removed=int(gone.sum()))


def merge_changes(
    folder: str | os.PathLike[str], *, changes: str | os.PathLike[str] | None = None
) -> IndexChange:
    """Take the products that came and went while an index was served into the index itself.

    Pictures of added items become files in `FOLDER.pictures`, where the items keep their ids. Then
    the index is replaced, all or nothing, and only then the file of changes is removed: whenever
    the process is killed, a server that starts next shows the same products.

    Args:
        folder: an index that :func:`trainer.launch.searching.build_index` wrote.
        changes: file of the changes; default `FOLDER.changes.sqlite`.

    Raises:
        UserError: a server is using them, they are of another model, nothing would be left, or a
            disk refuses; the index is then as it was.
    """
    pictures = merged_folder(folder)
    with changing(folder), contextlib.ExitStack() as stack:
        old = load_catalogue(folder)
        model = old.index.notes.get(MODEL, "")
        path = changes_file(folder) if changes is None else Path(changes)
        if changes is not None and not path.exists():
            raise UserError(f"there is no file of changes {path}")
        file = Changes(path, model=model, dim=old.index.dim, writable=True)
        stack.callback(file.close)
        rows = {name: row for row, name in enumerate(old.public_names(folder))}
        kept, coming = apply_changes(file, old.ids, rows)
        if kept.all() and not coming:
            file.delete()
            return IndexChange(items=len(old.items))
        replaced = sum(not kept[rows[one.item.id]] for one in coming if one.item.id in rows)
        new = _written(coming, file, pictures)
        embeddings = np.array([one.embedding for one in coming], np.float32)
        embeddings = embeddings.reshape(len(coming), old.index.dim)
        known = EmbeddingCache.load(folder, old.index.dim).of(old.ids)
        ids = item_ids(new) if new is not None else []
        old.index.update(np.array(old.ids, str)[~kept], embeddings, ids)
        left = old.items.select(kept)
        items = left if new is None else _joined(left, new)
        keys = np.zeros((len(coming), WIDTH), np.uint8)
        if new is not None and model:
            keys = picture_keys(new, model)
        cache = EmbeddingCache(
            np.concatenate([known.keys[kept], keys]),
            np.concatenate([known.embeddings[kept], embeddings]),
        )
        write_catalogue(CatalogueIndex(old.index, items), folder, cache)
        file.delete()
        # Pictures that an earlier merge wrote, of items that are gone, or before it was killed.
        for picture in set(map(str, pictures.glob("*~*"))) - set(items.path.tolist()):
            os.unlink(picture)
    return IndexChange(
        items=len(items),
        added=len(coming) - replaced,
        replaced=replaced,
        removed=int((~kept).sum()) - replaced,
    )


def _written(coming: Sequence[Added], file: Changes, folder: Path) -> ItemTable | None:
    """Return the items that come, once their pictures are files; None if there are none."""
    if not coming:
        return None
    folder.mkdir(exist_ok=True)
    rows = []
    for one in coming:
        item, content = one.item, file.picture(one.item.id)
        ending = next((end for start, end in ENDINGS.items() if content.startswith(start)), "")
        name = merged_file(item.id, hashlib.sha256(content).hexdigest(), ending)
        if not (folder / name).exists():
            write_bytes(str(folder / name), content)
        row = {"path": str(folder / name), "label": item.label, "category": item.category}
        row |= {"domain": item.domain}
        rows.append(row | dict(zip("xywh", item.box or (), strict=False)))
    return ItemTable.from_rows(rows)


def _same(
    old: ItemTable, old_keys: np.ndarray, new: ItemTable, new_keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both tables that hold the same pictures, whole with all their boxes."""
    before, now = _rows_by_path(old), _rows_by_path(new)
    here: list[int] = []
    there: list[int] = []
    for path, rows in now.items():
        others = before.get(path, [])
        if len(others) == len(rows):
            keys = new_keys[rows]
            if keys.any(axis=1).all() and (keys == old_keys[others]).all():
                here += others
                there += rows
    return np.array(here, np.int64), np.array(there, np.int64)


def _rows_by_path(items: ItemTable) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(items.path.tolist()):
        rows.setdefault(path, []).append(row)
    return rows


def _joined(*tables: ItemTable) -> ItemTable:
    """Return the rows of all tables, one after another; triplets are not kept."""

    def column(name: str) -> list[Any]:
        return [value for table in tables for value in getattr(table, name)]

    return ItemTable.from_columns(
        column("path"),
        [table.label_names[code] for table in tables for code in table.label],
        split=column("split"),
        domain=column("domain"),
        category=column("category"),
        box=np.concatenate([table.box for table in tables]),
    )


def _within(texts: Iterable[str], wanted: Iterable[str]) -> np.ndarray:
    """Return which texts are among those wanted; numpy compares each with each."""
    allowed = set(wanted)
    return np.fromiter((text in allowed for text in texts), bool)

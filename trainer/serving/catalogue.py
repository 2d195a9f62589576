"""A catalogue that can be searched: an index on disk together with the items it is of."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError, get
from trainer.data.files import (
    absolute,
    locked,
    outdated_folder,
    replaced_folder,
    restore_folder,
)
from trainer.data.table import ItemTable
from trainer.retrieval.embedding_cache import EmbeddingCache
from trainer.retrieval.indexes import Index, load_index
from trainer.retrieval.pictures import Picture
from trainer.serving.public_names import common_roots, merged_folder, public_names

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder

#: Note of an index: the fingerprint of the model that its embeddings are of.
MODEL = "model"
#: Note of an index: the folders that public ids are relative to, as JSON.
ROOTS = "roots"


@dataclass(frozen=True)
class CatalogueIndex:
    """An index together with the items it was built from."""

    index: Index
    items: ItemTable

    @classmethod
    def exact(cls, items: ItemTable, embeddings: np.ndarray) -> CatalogueIndex:
        """Return an exact index in memory over rows and their (N, D) float32 embeddings."""
        return cls(get("index", "flat").build().build(embeddings, item_ids(items)), items)

    @property
    def ids(self) -> list[str]:
        """The ids of the items, in the order of their rows."""
        return [str(name) for name in self.index.ids.tolist()]

    def public_names(self, folder: str | os.PathLike[str]) -> list[str]:
        """Return the ids that clients see, of a catalogue that was read from a folder."""
        paths, merged = self.items.path.tolist(), str(merged_folder(folder))
        return public_names(self.ids, paths, merged, json.loads(self.index.notes[ROOTS]))

    def note_roots(self, folder: str | os.PathLike[str]) -> None:
        """Let the index in a folder take a note, if it has none, of what public ids are relative
        to: they stay as they are from then on."""
        if ROOTS not in self.index.notes:
            roots = common_roots(self.items.path.tolist(), str(merged_folder(folder)))
            self.index.notes[ROOTS] = json.dumps(roots)

    def picture(self, row: int) -> Picture:
        """Return the picture of item number `row`."""
        return item_picture(self.items, row)


def item_ids(table: ItemTable) -> list[str]:
    """Return one distinct id per row: the path, and from the second row of a path (several boxes in
    one picture) on `#1`, `#2`, ... behind it, so that other pictures may come and go."""
    paths = table.path.tolist()
    # A path may end like that by itself.
    taken = set(paths)
    numbers: dict[str, int] = {}
    ids = []
    for path in paths:
        number = numbers.get(path, 0)
        name = f"{path}#{number}" if number else path
        while number and name in taken:
            number += 1
            name = f"{path}#{number}"
        taken.add(name)
        numbers[path] = number + 1
        ids.append(name)
    return ids


def load_catalogue(folder: str | os.PathLike[str], **tuned: Any) -> CatalogueIndex:
    """Return what :func:`build_index` wrote.

    Another process may replace the index meanwhile: what comes back is the old one or the new one.

    Raises:
        UserError: it is missing, truncated, or not an index of this library.
    """
    while True:
        before = identity(folder)
        try:
            index = load_index(folder, **tuned)
            items = get("dataset", "items").build(os.fspath(folder))
            catalogue = CatalogueIndex(index, items)
            if not _same_items(catalogue.ids, items):
                raise UserError(
                    f"{folder}: items.csv and the index hold different items: build it again"
                )
            # One that was written without: before its items change.
            catalogue.note_roots(folder)
            return catalogue
        except UserError:
            if before is None and outdated_folder(folder).exists():
                # Another process is just replacing it, or was killed while it did.
                with contextlib.suppress(OSError), _locked(folder, wait=10):
                    restore_folder(folder)
            if identity(folder) == before:
                raise


@contextlib.contextmanager
def changing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes on this machine from changing the index in `folder`.

    Raises:
        UserError: another process does, or the folder holds something else than an index.
    """
    target = Path(absolute(os.fspath(folder)))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        restore_folder(target)
        if target.exists() and not (target / "meta.json").exists() and any(target.iterdir()):
            raise UserError(f"{target} holds something else than an index: choose another folder")
        yield


def write_catalogue(
    catalogue: CatalogueIndex,
    folder: str | os.PathLike[str],
    cache: EmbeddingCache | None = None,
) -> None:
    """Write an index with its items, and the embeddings that are kept, to `folder`, all or nothing.

    Call it within :func:`changing`.
    """
    catalogue.note_roots(folder)
    with replaced_folder(folder, first="meta.json") as part:
        catalogue.index.save(part)
        catalogue.items.to_csv(part / "items.csv")
        if cache is not None and cache.keys.any():
            cache.save(part, catalogue.ids)


def check_model(
    catalogue: CatalogueIndex, embedder: Embedder, folder: str | os.PathLike[str]
) -> None:
    """Check that an index is of embeddings by this very export of a model.

    Raises:
        UserError: another model made them, or another export of it (type, size, views).
    """
    index = catalogue.index
    same = index.dim == embedder.dim
    if not same or index.notes.get(MODEL, "") not in ("", embedder.fingerprint()):
        raise UserError(
            f"{folder} was built with another model than {embedder.folder}: give the run that it "
            "was built with, or the export (--model), or build it again (mildnet index)"
        )


def item_picture(table: ItemTable, row: int) -> Picture:
    """Return the picture of row number `row`, with its label and box, to be drawn."""
    label = table.label_names[int(table.label[row])]
    return Picture(str(table.path[row]), label, table.box[row])


def _same_items(ids: list[str], items: ItemTable) -> bool:
    """Whether the ids are those of the items: numbers of boxes change as others come and go."""
    return len(ids) == len(items) and all(
        name == path or name.startswith(f"{path}#")
        for name, path in zip(ids, items.path, strict=True)
    )


def _locked(folder: str | os.PathLike[str], wait: float = 0) -> AbstractContextManager[None]:
    target = Path(absolute(os.fspath(folder)))
    refusal = f"{folder}: another process is changing this index"
    return locked(target.with_name(f".{target.name}.lock"), refusal, wait=wait)


def identity(folder: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what tells the index in a folder from the next one there; None: there is none."""
    try:
        # Not its number: some mounts give a file another one whenever it is looked at.
        status = os.stat(Path(folder) / "meta.json")
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size

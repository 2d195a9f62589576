"""A catalogue that is searched and changed at the same time."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.config import UserError
from trainer.data.files import absolute
from trainer.data.readers.items import box_fault
from trainer.retrieval.vectors import check_embeddings, prepared
from trainer.serving.added import FIELDS, AddedItems, Field
from trainer.serving.catalogue import MODEL, check_model, identity, load_catalogue
from trainer.serving.changes import Added, Box, Changes, Item
from trainer.serving.public_names import check_new

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder

log = logging.getLogger(__name__)

#: What the items of a search must have; None: anything.
Wanted = dict[Field, str | None]
#: What no text of an item may hold: it would break tables, terminals or encodings.
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
#: What catalogues list the values of.
LISTED: tuple[Field, ...] = ("category", "domain")
#: Filters whose items are remembered.
FILTERS = 64
#: Removed ones among the added items below which they are not sorted out.
LEAST_GONE = 64


@dataclass(frozen=True)
class Neighbour:
    """An item that a search found.

    Attributes:
        item: the item.
        score: similarity, higher is closer; see :class:`trainer.retrieval.indexes.Index`.
        rank: 1 for the nearest.
    """

    item: Item
    score: float
    rank: int


@dataclass(frozen=True)
class _State:
    """The catalogue at one instant; a search works with one from its begin to its end.

    Attributes:
        kept: bool (N,), items of the index that are there; None: all.
        added: items that were added.
        count: how many of them this state knows.
        alive: bool, at least `count`: those that are there.
        size: items in all.
    """

    kept: np.ndarray | None
    added: AddedItems
    count: int
    alive: np.ndarray
    size: int


class LiveCatalogue:
    """An index that stays as it is, with changes on top that are kept in a file of their own.

    A search gives what an index of the catalogue as it is now would give: it looks among the items
    of the index that were not removed, and compares with each of those that were added. Safe in
    threads: many searches at once, and changes one after another, which no search waits for. A
    change that was acknowledged is found again after a crash.

    Args:
        folder: index of a catalogue.
        changes: file of the changes; default `FOLDER.changes.sqlite`. See
            :class:`trainer.serving.changes.Changes`.
        mapped: leave the index in its file, in memory that processes share.
        writable: whether items may be added and removed: by one process at a time.

    Attributes:
        dim: dimensions of the embeddings.

    Raises:
        UserError: no index, or changes that belong to another, are in use or cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        changes: str | os.PathLike[str] | None = None,
        mapped: bool = True,
        writable: bool = True,
    ) -> None:
        file = changes_file(folder) if changes is None else changes
        while True:
            before = identity(folder)
            catalogue = load_catalogue(folder, mapped=mapped)
            index = catalogue.index
            model = index.notes.get(MODEL, "")
            self._changes = Changes(file, model=model, dim=index.dim, writable=writable)
            # The changes may have been merged into the index since that was loaded.
            if identity(folder) == before:
                break
            self._changes.close()
        try:
            self._base, self._items = catalogue, catalogue.items
            self._folder = folder
            self._index = index
            self.dim: int = index.dim
            self._ids = catalogue.ids
            self._names = catalogue.public_names(folder)
            # From here on the rows are what the index knows its items by.
            index.ids = np.arange(len(index))
            self._rows = {name: row for row, name in enumerate(self._names)}
            labels = {name: code for code, name in enumerate(self._items.label_names)}
            self._codes = {
                "category": _coded(self._items.category),
                "domain": _coded(self._items.domain),
                "label": (self._items.label, labels),
            }
            self._matching = lru_cache(FILTERS)(self._find)
            self._writer = threading.Lock()
            self._state = self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file of changes, for other processes."""
        self._changes.close()

    def check_model(self, embedder: Embedder) -> None:
        """Check that the index is of embeddings by this very export of a model.

        Raises:
            UserError: another model made them, or another export of it.
        """
        check_model(self._base, embedder, self._folder)

    def __len__(self) -> int:
        return self._state.size

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories of the items, sorted, without the empty one."""
        return self._listed["category"]

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the items, sorted, without the empty one."""
        return self._listed["domain"]

    def search(
        self,
        embeddings: np.ndarray,
        k: int,
        *,
        category: str | None = None,
        domain: str | None = None,
        label: str | None = None,
        without: Sequence[str] = (),
    ) -> list[list[Neighbour]]:
        """Return the `k` nearest items of each query, nearest first; fewer if fewer there are.

        Of equally near ones those of the index come first, then the others as they were added.

        Args:
            embeddings: (Q, D) float, finite.
            k: neighbours for each, at least 1.
            category: only items of this one; one that no item has gives no neighbours.
            domain: only items of this one.
            label: only items with this one.
            without: ids that are left out.

        Raises:
            UserError: other dimensions, numbers that are not finite, or `k` below 1.
        """
        if k < 1:
            raise UserError(f"k={k}: at least 1 neighbour has to be asked for")
        queries = self._checked(embeddings)
        state = self._state
        wanted: Wanted = {"category": category, "domain": domain, "label": label}
        left_out = {self._place(state, name) for name in without}
        most = k + len(left_out)
        parts = (
            self._among_indexed(state, queries, most, wanted),
            self._among_added(state, queries, most, wanted),
        )
        places, scores = (np.hstack(part) for part in zip(*parts, strict=True))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
        found = []
        for row, best in enumerate(order):
            near = [
                (place, score)
                for place, score in zip(places[row, best].tolist(), scores[row, best], strict=True)
                if score > -np.inf and place not in left_out
            ]
            found.append(
                [
                    Neighbour(self._item(state, place), float(score), rank)
                    for rank, (place, score) in enumerate(near[:k], start=1)
                ]
            )
        return found

    def get(self, name: str) -> Item:
        """Return an item.

        Raises:
            KeyError: there is none with this id.
        """
        state = self._state
        return self._item(state, self._there(state, name))

    def vector(self, name: str) -> np.ndarray:
        """Return the embedding of an item, float32 (D,), as the index holds it.

        Raises:
            KeyError: there is none with this id.
        """
        state = self._state
        place = self._there(state, name)
        if place < len(self._ids):
            return self._index.vectors([place])[0]
        return state.added.vector(place - len(self._ids))

    def picture(self, name: str) -> tuple[bytes | str, Box | None]:
        """Return the picture of an item, to be shown: its content, or where it lies, and its box.

        Raises:
            KeyError: there is none with this id.
        """
        state = self._state
        place = self._there(state, name)
        box = self._item(state, place).box
        if place < len(self._ids):
            return str(self._items.path[place]), box
        return self._changes.picture(name), box

    def picture_mark(self, name: str) -> object:
        """Return an object that stays the same one for as long as an item has its picture.

        Raises:
            KeyError: there is none with this id.
        """
        state = self._state
        place = self._there(state, name)
        if place < len(self._ids):
            return self._names[place]
        return state.added.items[place - len(self._ids)]

    def list(
        self,
        offset: int,
        limit: int,
        category: str | None = None,
        domain: str | None = None,
    ) -> list[Item]:
        """Return items as they come: those of the index, then the others as they were added.

        Args:
            offset: how many to pass over.
            limit: how many at most.
            category: only items of this one.
            domain: only items of this one.
        """
        state = self._state
        wanted: Wanted = {"category": category, "domain": domain, "label": None}
        indexed = self._allowed_indexed(state, wanted)
        rows = np.arange(len(self._ids)) if indexed is None else np.flatnonzero(indexed)
        added = np.flatnonzero(self._allowed_added(state, wanted)) + len(self._ids)
        end = offset + limit
        places = [*rows[offset:end], *added[max(offset - len(rows), 0) : max(end - len(rows), 0)]]
        return [self._item(state, int(place)) for place in places]

    def add(
        self,
        name: str,
        picture: bytes,
        embedding: np.ndarray,
        *,
        label: str,
        category: str = "",
        domain: str = "",
        box: Box | None = None,
        replace: bool = False,
    ) -> Item:
        """Add an item, to be found from now on, once it is safe on disk, and return it.

        Args:
            name: its id: see :func:`trainer.serving.public_names.check_new`.
            picture: content of its file, upright.
            embedding: (D,) of what the box shows of it.
            label: of the product.
            category: may be empty.
            domain: may be empty.
            box: x, y, w, h in pixels of the picture; None: all of it.
            replace: let it take the place of an item with this id.

        Raises:
            UserError: an id that is there already or is not allowed, texts, a box or an embedding
                that cannot be, or a file that cannot be written; nothing has changed then.
        """
        check_new(name)
        texts = {"label": label.strip(), "category": category.strip(), "domain": domain.strip()}
        fault = "" if box is None else box_fault([str(side) for side in box])
        if any(CONTROL.search(text) for text in texts.values()):
            fault = "control characters in a text"
        if fault or not picture or not texts["label"]:
            missing = "no label" if picture else "no picture"
            raise UserError(f"item {name}: {fault or missing}")
        vector = self._checked(np.asarray(embedding)[None])[0]
        item = Item(name, **texts, box=None if box is None else _box(box))
        with self._writer:
            state = self._state
            place = self._place(state, name)
            if place >= 0 and not replace:
                raise UserError(f"there is an item {name} already: replace=True takes its place")
            indexed = self._indexed(name)
            self._changes.add(Added(item, vector, replace), picture, instead_of=indexed)
            self._state = _with(self._less(state, place), item, vector)
            self._count(item, 1)
            if place >= 0:
                self._count(self._item(state, place), -1)
        return item

    def remove(self, name: str) -> None:
        """Remove an item, never to be found again unless it is added anew.

        Raises:
            KeyError: there is none with this id.
            UserError: the file cannot be written; nothing has changed then.
        """
        with self._writer:
            state = self._state
            place = self._there(state, name)
            # Both, for the one that is not shown would be after the next start.
            self._changes.remove(added=name, indexed=self._indexed(name))
            self._state = self._less(state, place)
            self._count(self._item(state, place), -1)

    def _read(self) -> _State:
        """Return the catalogue as the file of changes says."""
        kept, items = apply_changes(self._changes, self._ids, self._rows)
        added = AddedItems(self.dim, self._index.similarity)
        size = int(kept.sum())
        # How many items have each category and domain, and those that some have.
        self._counts: dict[Field, Counter[str]] = {}
        self._listed: dict[Field, tuple[str, ...]] = {}
        for field in LISTED:
            codes, known = self._codes[field]
            there = np.bincount(codes[kept], minlength=len(known)).tolist()
            self._counts[field] = Counter(dict(zip(known, there, strict=True)))
            self._counts[field].update(getattr(one.item, field) for one in items)
            self._list_present(field)
        state = _State(None if kept.all() else kept, added, 0, np.zeros(16, bool), size)
        for one in items:
            state = _with(state, one.item, one.embedding)
        return state

    def _less(self, state: _State, place: int) -> _State:
        """Return a state without an item; -1 stands for none."""
        rows = len(self._ids)
        if place < 0:
            return state
        if place < rows:
            kept = np.ones(rows, bool) if state.kept is None else state.kept.copy()
            kept[place] = False
            return changed(state, kept=kept, size=state.size - 1)
        alive = state.alive.copy()
        alive[place - rows] = False
        left = changed(state, alive=alive, size=state.size - 1)
        there = np.flatnonzero(alive[: state.count])
        if max(LEAST_GONE, len(there)) > state.count - len(there):
            return left
        # Most of them are gone: those that are left begin anew.
        fresh = AddedItems(self.dim, self._index.similarity)
        for number in there.tolist():
            fresh.append(state.added.items[number], state.added.vector(number))
        alive = np.arange(2 * len(there) + 16) < len(there)
        return changed(left, added=fresh, count=len(there), alive=alive)

    def _place(self, state: _State, name: str) -> int:
        """Return where an item is: its row in the index, or behind them its number; or -1."""
        number = state.added.place(name, state.count)
        if number >= 0 and state.alive[number]:
            return len(self._ids) + number
        row = self._rows.get(name, -1)
        return row if row >= 0 and (state.kept is None or state.kept[row]) else -1

    def _indexed(self, name: str) -> str | None:
        """Return what the index calls its own item with this id, shown or not; None: has none."""
        row = self._rows.get(name, -1)
        return self._ids[row] if row >= 0 else None

    def _there(self, state: _State, name: str) -> int:
        place = self._place(state, name)
        if place < 0:
            raise KeyError(name)
        return place

    def _item(self, state: _State, place: int) -> Item:
        if place >= len(self._ids):
            return state.added.items[place - len(self._ids)]
        items = self._items
        return Item(
            self._names[place],
            items.label_names[items.label[place]],
            str(items.category[place]),
            str(items.domain[place]),
            None if np.isnan(items.box[place, 0]) else _box(items.box[place]),
        )

    def _checked(self, embeddings: np.ndarray) -> np.ndarray:
        embeddings = check_embeddings(embeddings)
        if embeddings.shape[1] != self.dim:
            raise UserError(
                f"the embedding has {embeddings.shape[1]} dimensions but the index has {self.dim}:"
                " use the model that it was built with"
            )
        return embeddings

    def _among_indexed(
        self, state: _State, queries: np.ndarray, k: int, wanted: Wanted
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and scores, (Q, K) each; the score of padding is minus infinity."""
        found = self._index.search(queries, k, among=self._allowed_indexed(state, wanted))
        real = np.arange(found.scores.shape[1]) < np.asarray(found.counts)[:, None]
        return found.neighbours, np.where(real, found.scores, -np.inf)

    def _among_added(
        self, state: _State, queries: np.ndarray, k: int, wanted: Wanted
    ) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.flatnonzero(self._allowed_added(state, wanted))
        if not len(numbers):
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        scores = state.added.scores(queries, state.count)[:, numbers]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return numbers[best] + len(self._ids), np.take_along_axis(scores, best, axis=1)

    def _allowed_indexed(self, state: _State, wanted: Wanted) -> np.ndarray | None:
        """Return which items of the index may be found, bool (N,); None: all."""
        if all(value is None for value in wanted.values()):
            return state.kept
        having = self._matching(*(wanted[name] for name in FIELDS))
        return having if state.kept is None else having & state.kept

    def _allowed_added(self, state: _State, wanted: Wanted) -> np.ndarray:
        allowed = state.alive[: state.count]
        for name, value in wanted.items():
            if value is not None:
                allowed = allowed & state.added.having(state.count, name, value)
        return allowed

    def _find(self, *values: str | None) -> np.ndarray:
        having = np.ones(len(self._ids), bool)
        for name, value in zip(FIELDS, values, strict=True):
            if value is not None:
                codes, known = self._codes[name]
                having &= codes == known.get(value, -1)
        having.setflags(write=False)
        return having

    def _count(self, item: Item, more: int) -> None:
        """Take note of an item that came (1) or went (-1)."""
        for field in LISTED:
            counts, value = self._counts[field], getattr(item, field)
            counts[value] += more
            if counts[value] == max(more, 0):  # the first one, or the last
                self._list_present(field)

    def _list_present(self, field: Field) -> None:
        there = (value for value, count in self._counts[field].items() if count and value)
        self._listed[field] = tuple(sorted(there))


def apply_changes(
    changes: Changes, ids: Sequence[str], rows: Mapping[str, int]
) -> tuple[np.ndarray, list[Added]]:
    """Return which items of an index are left, bool (N,), and those that come to them.

    The index may be another one than the changes were made for, of the same model.

    Args:
        changes: of the catalogue.
        ids: of the items in the index.
        rows: row of each public id.
    """
    removed = changes.removed()
    kept = np.fromiter((name not in removed for name in ids), bool, len(ids))
    coming = []
    for one in changes.added():
        row = rows.get(one.item.id, -1)
        if row >= 0 and kept[row]:
            if not one.wins:
                log.warning("%s: the index has it now, what was added is not used", one.item.id)
                continue
            kept[row] = False
        coming.append(one)
    return kept, coming


def changes_file(folder: str | os.PathLike[str]) -> Path:
    """Return where the changes of the index in a folder are kept by default: beside it."""
    target = Path(absolute(os.fspath(folder)))
    return target.with_name(f"{target.name}.changes.sqlite")


def _with(state: _State, item: Item, embedding: np.ndarray) -> _State:
    """Return the next state, with an item more. What older ones look at is left as it is."""
    added, count, alive = state.added, state.count, state.alive
    added.append(item, prepared(embedding[None], added.similarity)[0])
    if count == len(alive):
        alive = np.concatenate([alive, np.zeros_like(alive)])
    alive[count] = True
    return changed(state, count=count + 1, alive=alive, size=state.size + 1)


def _coded(values: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Return a number for each text, and the number of each one that there is."""
    known: dict[str, int] = {}
    codes = np.fromiter(
        (known.setdefault(value, len(known)) for value in values), np.int32, len(values)
    )
    return codes, known


def _box(sides: Sequence[float] | np.ndarray) -> Box:
    x, y, w, h = (float(side) for side in sides)
    return x, y, w, h

"""What all indexes share: checks, ids, the similarity convention, and the folder on disk.

An index folder holds the library's own file, the ids (`ids.npy`, or `ids.json` for strings) and
`meta.json`: format, kind, parameters, size, dimensions, notes, and a SHA-256 of each file. Nothing
in it is executed or unpickled when it is read.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from trainer.config import UserError, get
from trainer.data.files import rename_folder, sha256
from trainer.retrieval.results import RetrievalResults, take
from trainer.retrieval.vectors import (
    CHUNK,
    Similarity,
    check_embeddings,
    check_ids,
    prepared,
    similarities,
)

FORMAT = "mildnet-index-1"


class Index(ABC):
    """A searchable set of embeddings with ids; subclasses fill in the six abstract methods.

    Scores are similarities, higher is closer, and mean the same for every kind of index: `cosine`
    is the cosine in -1..1, `dot` the dot product, `euclidean` the negative squared distance.
    The order of neighbours with equal scores is the index's own.
    """

    kind: ClassVar[str]
    filename: ClassVar[str]
    #: Parameters that a built index does not depend on: they may change when it is loaded.
    tunable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, similarity: Similarity, **parameters: Any) -> None:
        self.similarity = similarity
        self.parameters: dict[str, Any] = {"similarity": similarity, **parameters}
        self.ids = np.empty(0, np.int64)
        self.dim = 0
        #: Texts that are saved with the index, such as which model its embeddings are of.
        self.notes: dict[str, str] = {}
        #: The ids that are sorted, and their order: see :meth:`_places`.
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def build(
        self,
        embeddings: np.ndarray,
        ids: np.ndarray | Sequence[int] | Sequence[str] | None = None,
    ) -> Index:
        """Fill the index, in place of what it held, and return it.

        Args:
            embeddings: (N, D) float, finite.
            ids: (N,) distinct integers or strings. Default: 0..N-1.

        Raises:
            UserError: values or ids that do not fit, or too few vectors to train on.
        """
        embeddings, names = _checked(embeddings, ids)
        self._build(prepared(embeddings, self.similarity))
        self.ids, self.dim = names, embeddings.shape[1]
        return self

    def add(
        self,
        embeddings: np.ndarray,
        ids: np.ndarray | Sequence[int] | Sequence[str],
        *,
        replace: bool = False,
    ) -> Index:
        """Add items behind those that are there, and return the index; nothing is trained anew.

        Args:
            embeddings: (M, D) float, finite, D as in the index.
            ids: (M,) distinct ids, of the kind that the index has.
            replace: let items take the place of those with the same ids.

        Raises:
            UserError: as :meth:`update`; the index is then as it was.
        """
        same: np.ndarray | tuple[()] = ()
        if replace and len(ids):
            same = self.ids[np.isin(self.ids, self._alike(ids))]
        return self.update(same, embeddings, ids)

    def remove(self, ids: np.ndarray | Sequence[int] | Sequence[str]) -> Index:
        """Remove items, and return the index.

        Args:
            ids: (M,) distinct ids, each in the index; not all of them.

        Raises:
            UserError: as :meth:`update`; the index is then as it was.
        """
        return self.update(ids)

    def update(
        self,
        remove: np.ndarray | Sequence[int] | Sequence[str] = (),
        embeddings: np.ndarray | None = None,
        ids: np.ndarray | Sequence[int] | Sequence[str] = (),
    ) -> Index:
        """Remove some items, then add others behind those that stay, and return the index.

        A search gives what it would give if the index had been built from what it holds now, in
        this order: to the digit for `flat` and `annoy`, as near as any two builds of the graph for
        `hnsw`. `ivf_pq` keeps the cells and codes that it learned when it was built, so build it
        anew when the catalogue has become another one.

        Args:
            remove: distinct ids, each in the index.
            embeddings: (M, D) float, finite, D as in the index; none to add nothing.
            ids: (M,) distinct ids of the new items, none of them among those that stay.

        Raises:
            UserError: an empty index, an id that is unknown or there already or of another kind,
                other dimensions, or nothing would be left; the index is then as it was.
        """
        if not len(self):
            raise UserError("the index is empty: build it or load one first")
        gone = self._rows(remove)
        stay = np.delete(self.ids, gone)
        new = np.empty((0, self.dim), np.float32) if embeddings is None else embeddings
        if len(new) or len(ids):
            new, names = _checked(new, ids)
            self._check_dim(new, "embeddings")
            there = np.isin(self._alike(names), stay)
            if there.any():
                raise UserError(
                    f"id {names[there][0]} is in the index already: replace=True lets the new item "
                    "take its place"
                )
            stay = np.concatenate([stay, names])
        if not len(stay):
            raise UserError(
                "nothing would be left in the index, which can't be empty: delete it, or add the "
                "new items first"
            )
        if len(gone) or len(new):
            self._update(gone, prepared(new, self.similarity))
            self.ids = stay
        return self

    def search(
        self,
        queries: np.ndarray,
        k: int,
        query_ids: np.ndarray | Sequence[int] | Sequence[str] | None = None,
        *,
        among: np.ndarray | None = None,
    ) -> RetrievalResults:
        """Return the `k` nearest items of each query, or all there are if the index has fewer.

        Args:
            queries: (Q, D) float, finite.
            k: neighbours for each query, at least 1.
            query_ids: (Q,) ids for the results. Default: 0..Q-1.
            among: (N,) bool in the order of `ids`: only these items may be found, the nearest of
                them, and fewer than `k` if they are fewer. Default: all.

        Raises:
            UserError: an empty index, other dimensions, `k` below 1, or `among` that does not fit.
        """
        if not len(self):
            raise UserError("the index is empty: build it or load one first")
        if k < 1:
            raise UserError(f"k={k}: at least 1 neighbour has to be asked for")
        queries = check_embeddings(queries, "queries")
        self._check_dim(queries, "queries")
        allowed = len(self)
        if among is not None:
            among = np.asarray(among)
            if among.dtype != bool or among.shape != self.ids.shape:
                raise UserError(
                    f"among is {among.dtype} of shape {among.shape}: one bool is needed for each "
                    f"of the {len(self)} items"
                )
            allowed = int(among.sum())
            if allowed == len(self):
                among = None
        k = min(k, allowed)
        positions = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for low in range(0, len(queries) if k else 0, CHUNK):
            part = slice(low, low + CHUNK)
            asked = prepared(queries[part], self.similarity)
            positions[part], scores[part] = self._search(asked, k, among)
        names = np.arange(len(queries)) if query_ids is None else query_ids
        return take(names, self.ids, positions, scores)

    def vectors(self, ids: np.ndarray | Sequence[int] | Sequence[str]) -> np.ndarray:
        """Return the embeddings of some items, float32 (M, D), as the index holds them.

        They have unit length for `cosine`, and those of a compressed index are what its codes mean.

        Args:
            ids: (M,) ids in the index, in any order.

        Raises:
            UserError: an id that the index has not.
        """
        if not len(ids):
            return np.empty((0, self.dim), np.float32)
        return self._vectors(self._places(ids))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index to `folder`, all or nothing; an index that is there is replaced.

        Raises:
            UserError: an empty index, a folder that holds something else, or a disk that refuses.
        """
        if not len(self):
            raise UserError("the index is empty: there is nothing to save")
        target = Path(folder)
        if target.exists() and not (target / "meta.json").exists() and any(target.iterdir()):
            raise UserError(f"{target} holds something else than an index: choose another folder")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                self._write_folder(temporary / "new")
                if target.exists():
                    rename_folder(target, temporary / "old")
                rename_folder(temporary / "new", target, first="meta.json")
            except BaseException:
                if (temporary / "old").exists() and not target.exists():
                    rename_folder(temporary / "old", target)
                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except (OSError, RuntimeError) as error:  # FAISS reports a full disk as RuntimeError
            raise UserError(f"cannot write the index to {target}: {error}") from None

    def _write_folder(self, folder: Path) -> None:
        folder.mkdir()
        self._write(folder / self.filename)
        ids = "ids.json" if self.ids.dtype.kind == "U" else "ids.npy"
        if ids == "ids.json":
            (folder / ids).write_text(json.dumps(self.ids.tolist()), encoding="utf-8")
        else:
            np.save(folder / ids, self.ids, allow_pickle=False)
        meta = {
            "format": FORMAT,
            "kind": self.kind,
            "parameters": self.parameters,
            "count": len(self),
            "dim": self.dim,
            "notes": self.notes,
            "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

    def _check_dim(self, vectors: np.ndarray, name: str) -> None:
        if vectors.shape[1] != self.dim:
            raise UserError(
                f"{name} have {vectors.shape[1]} dimensions but the index has {self.dim}: "
                "use the model that the index was built with"
            )

    def _alike(self, ids: np.ndarray | Sequence[int] | Sequence[str]) -> np.ndarray:
        """Return ids as an array, once it is sure that they are of the index's kind."""
        names = check_ids(ids, "ids")
        if names.dtype.kind != self.ids.dtype.kind:
            kinds = {"U": "strings", "i": "integers"}
            raise UserError(
                f"ids are {kinds[names.dtype.kind]}, those of the index are "
                f"{kinds[self.ids.dtype.kind]}"
            )
        return names

    def _rows(self, ids: np.ndarray | Sequence[int] | Sequence[str]) -> np.ndarray:
        """Return the positions of ids that are in the index, ascending."""
        if not len(ids):
            return np.empty(0, np.int64)
        names = self._alike(ids)
        _check_distinct(names)
        unknown = ~np.isin(names, self.ids)
        if unknown.any():
            more = f" (nor are {unknown.sum() - 1} others)" if unknown.sum() > 1 else ""
            raise UserError(f"id {names[unknown][0]} is not in the index{more}: nothing is removed")
        return np.flatnonzero(np.isin(self.ids, names))

    def _places(self, ids: np.ndarray | Sequence[int] | Sequence[str]) -> np.ndarray:
        """Return the position of each id, in their order; a repeated look-up is fast."""
        names, held = self._alike(ids), self._sorted
        if held is None or held[0] is not self.ids:
            held = self._sorted = self.ids, np.argsort(self.ids)
        order = held[1]
        places = np.searchsorted(self.ids, names, sorter=order)
        found = order[np.minimum(places, len(order) - 1)]
        unknown = self.ids[found] != names
        if unknown.any():
            raise UserError(f"id {names[unknown][0]} is not in the index")
        return found

    def _exact(
        self, queries: np.ndarray, k: int, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what :meth:`_search` does, found by comparing with each of these positions.

        Args:
            queries: as for :meth:`_search`.
            k: at most the number of `rows`.
            rows: ascending.
        """
        positions = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        for low in range(0, len(rows), CHUNK):
            part = rows[low : low + CHUNK]
            near = similarities(queries, self._vectors(part), self.similarity)
            positions = np.hstack([positions, np.broadcast_to(part, near.shape)])
            scores = np.hstack([scores, near])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            positions = np.take_along_axis(positions, best, axis=1)
            scores = np.take_along_axis(scores, best, axis=1)
        return positions, scores

    @abstractmethod
    def _build(self, embeddings: np.ndarray) -> None:
        """Index the (N, D) float32 rows, already normalised for `cosine`."""

    @abstractmethod
    def _update(self, gone: np.ndarray, new: np.ndarray) -> None:
        """Take out the positions `gone`, ascending; those behind them move up. Then append `new`.

        `new` is (M, D) float32 as for :meth:`_build`. Either may be empty, not both, and at least
        one item is left in the end.
        """

    @abstractmethod
    def _search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (-1 where none was found) and scores, (Q, k) each, best first.

        Where `among`, (N,) bool, is given, only these positions may be found; they are at least
        `k`, but not all.
        """

    @abstractmethod
    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return the vectors at these positions, float32 (M, D)."""

    @abstractmethod
    def _write(self, path: Path) -> None:
        """Write the index to a new file, and what else it needs to others beside it."""

    @abstractmethod
    def _read(self, path: Path, dim: int, mapped: bool) -> tuple[int, int]:
        """Read what :meth:`_write` wrote; return the count and dimensions found there.

        With `mapped`, leave vectors and links in the file, where the kind can.
        """


def _checked(
    embeddings: np.ndarray, ids: np.ndarray | Sequence[int] | Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings and their ids (0..N-1 by default) once they are found to fit."""
    embeddings = check_embeddings(embeddings)
    names = np.arange(len(embeddings)) if ids is None else check_ids(ids, "ids")
    if names.shape != (len(embeddings),):
        raise UserError(f"{names.shape} ids for {len(embeddings)} embeddings: one each is needed")
    _check_distinct(names)
    return embeddings, names


def _check_distinct(ids: np.ndarray) -> None:
    names, times = np.unique(ids, return_counts=True)
    if len(names) < len(ids):
        raise UserError(f"id {names[times > 1][0]} is given twice: ids must be distinct")


def load_index(folder: str | os.PathLike[str], *, mapped: bool = False, **tuned: Any) -> Index:
    """Return the index that was saved in `folder`, of whatever kind.

    Args:
        folder: what :meth:`Index.save` wrote.
        mapped: leave it in its file, whose pages are read as a search needs them and shared by all
            processes that have it mapped. A folder may be replaced meanwhile, but a file within it
            must not be written to. A change of the index copies it into memory first.
        **tuned: parameters to use instead of the saved ones, of those that a built index does not
            depend on, e.g. `ef_search` of `hnsw` or `gpu` of `flat`.

    Raises:
        UserError: no index there, or one that is truncated, altered, or not of this library.
    """
    source = Path(folder)
    try:
        meta = json.loads((source / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{source} holds no index (no meta.json): build one there first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {source / 'meta.json'} ({error}): build it again") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{source} is not an index of this version ({FORMAT}): build it again")
    try:
        component = get("index", str(meta["kind"]))
        index = component.build(**{**meta["parameters"], **tuned})
        fixed = set(tuned) - set(index.tunable)
        if fixed:
            raise UserError(
                f"index {index.kind!r} was built with its {', '.join(sorted(fixed))}: only "
                f"{', '.join(index.tunable) or 'nothing'} can be changed when it is loaded"
            )
        ids = "ids.json" if "ids.json" in meta["files"] else "ids.npy"
        for name in {index.filename, ids, *meta["files"]}:
            if sha256(source / name) != meta["files"][name]:
                raise UserError(f"{source / name} is truncated or altered: build the index again")
        if ids == "ids.json":
            index.ids = np.array(json.loads((source / ids).read_text(encoding="utf-8")), str)
        else:
            mode: Literal["r"] | None = "r" if mapped else None
            index.ids = np.asarray(np.load(source / ids, mmap_mode=mode, allow_pickle=False))
        # Folders of before notes were kept are read, too.
        index.notes = dict(meta.get("notes", {}))
        count, index.dim = index._read(source / index.filename, int(meta["dim"]), mapped)
    except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{source} is not a complete index ({reason}): build it again") from None
    if count != len(index.ids) or (count, index.dim) != (meta.get("count"), meta.get("dim")):
        raise UserError(f"{source} has parts of different indexes: build it again")
    return index

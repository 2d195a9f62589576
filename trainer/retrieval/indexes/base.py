"""What all indexes share: checks, ids, the similarity convention, and the folder on disk.

An index folder holds the library's own file, the ids (`ids.npy`, or `ids.json` for strings) and
`meta.json`: format, kind, parameters, size, dimensions, and a SHA-256 of each file. Nothing in it
is executed or unpickled when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainer.config import UserError, get
from trainer.retrieval.ranking import Similarity
from trainer.retrieval.results import RetrievalResults, take
from trainer.retrieval.vectors import CHUNK, check_embeddings, check_ids, normalise

FORMAT = "mildnet-index-1"


class Index(ABC):
    """A searchable set of embeddings with ids; subclasses fill in the four `_` methods.

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
        embeddings = check_embeddings(embeddings)
        kept = np.arange(len(embeddings)) if ids is None else check_ids(ids, "ids")
        if kept.shape != (len(embeddings),):
            raise UserError(
                f"{kept.shape} ids for {len(embeddings)} embeddings: one each is needed"
            )
        names, times = np.unique(kept, return_counts=True)
        if len(names) < len(kept):
            raise UserError(f"id {names[times > 1][0]} is given twice: ids must be distinct")
        self._build(self._prepared(embeddings))
        self.ids, self.dim = kept, embeddings.shape[1]
        return self

    def search(
        self,
        queries: np.ndarray,
        k: int,
        query_ids: np.ndarray | Sequence[int] | Sequence[str] | None = None,
    ) -> RetrievalResults:
        """Return the `k` nearest items of each query, or all there are if the index has fewer.

        Args:
            queries: (Q, D) float, finite.
            k: neighbours for each query, at least 1.
            query_ids: (Q,) ids for the results. Default: 0..Q-1.

        Raises:
            UserError: an empty index, other dimensions, or `k` below 1.
        """
        if not len(self):
            raise UserError("the index is empty: build it or load one first")
        if k < 1:
            raise UserError(f"k={k}: at least 1 neighbour has to be asked for")
        queries = check_embeddings(queries, "queries")
        if queries.shape[1] != self.dim:
            raise UserError(
                f"queries have {queries.shape[1]} dimensions but the index has {self.dim}: "
                "use the model that the index was built with"
            )
        k = min(k, len(self))
        positions = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for low in range(0, len(queries), CHUNK):
            part = slice(low, low + CHUNK)
            positions[part], scores[part] = self._search(self._prepared(queries[part]), k)
        names = np.arange(len(queries)) if query_ids is None else query_ids
        return take(names, self.ids, positions, scores)

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
                    target.rename(temporary / "old")
                (temporary / "new").rename(target)
            except BaseException:
                if (temporary / "old").exists() and not target.exists():
                    (temporary / "old").rename(target)
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
            "files": {name: _sha256(folder / name) for name in (self.filename, ids)},
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

    def _prepared(self, embeddings: np.ndarray) -> np.ndarray:
        if self.similarity != "cosine":
            return embeddings
        embeddings = embeddings.copy()
        normalise(embeddings)
        return embeddings

    @abstractmethod
    def _build(self, embeddings: np.ndarray) -> None:
        """Index the (N, D) float32 rows, already normalised for `cosine`."""

    @abstractmethod
    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (-1 where none was found) and scores, (Q, k) each, best first."""

    @abstractmethod
    def _write(self, path: Path) -> None:
        """Write the index to a new file."""

    @abstractmethod
    def _read(self, path: Path, dim: int) -> tuple[int, int]:
        """Read what :meth:`_write` wrote; return the count and dimensions found there."""


def load_index(folder: str | os.PathLike[str], **tuned: Any) -> Index:
    """Return the index that was saved in `folder`, of whatever kind.

    Args:
        folder: what :meth:`Index.save` wrote.
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
        for name in (index.filename, ids):
            if _sha256(source / name) != meta["files"][name]:
                raise UserError(f"{source / name} is truncated or altered: build the index again")
        if ids == "ids.json":
            index.ids = np.array(json.loads((source / ids).read_text(encoding="utf-8")), str)
        else:
            index.ids = np.load(source / ids, allow_pickle=False)
        count, index.dim = index._read(source / index.filename, int(meta["dim"]))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{source} is not a complete index ({reason}): build it again") from None
    if count != len(index.ids) or (count, index.dim) != (meta.get("count"), meta.get("dim")):
        raise UserError(f"{source} has parts of different indexes: build it again")
    return index


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Milvus: vectors in a database, in a file of one's own or on a cluster that many search."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import weakref
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from trainer.config import UserError, register
from trainer.config.addresses import check_address
from trainer.retrieval.indexes.base import Index
from trainer.retrieval.indexes.faiss import cell_count
from trainer.retrieval.indexes.milvus_server import (
    VARIABLE,
    Lite,
    Remote,
    Server,
    client_package,
    place,
)

#: The most neighbours that Milvus gives for a query, or rows for a list of keys.
MOST = 16_384
#: The most bytes of vectors in one message; a cluster takes 64 MB.
MESSAGE = 16_000_000
#: Queries in one message, and rows of vectors asked for in one.
QUERIES, ROWS = 256, 1000
#: Floats that Milvus Lite may take to compare queries with rows that no index holds.
FLOATS = 2**26
#: Changed rows that Milvus Lite leaves without an index, which it compares one by one.
LOOSE = 10_000
#: With a filter, so many times the neighbours that would do if it left out items evenly.
SPARE = 1.5
#: Share of the rows below which the rows that may be found are listed for the server.
LISTED = 0.125
#: Seconds that a server may index rows without getting on.
PATIENCE = 600.0
#: File beside the index: the keys of its rows, where they are not 0..N-1.
KEYS = "keys.npy"


@register("index", "milvus", address="uri", environment="MILVUS_TOKEN")
class Milvus(Index):
    """Vectors in Milvus: Milvus Lite in the index folder, or a server or cluster by its address.

    https://milvus.io

    By default nothing has to run: an index is built in a folder for temporary files and saved with
    the others' files, and several processes may load it at once. With `uri` the vectors are on that
    Milvus, in a collection of their own for each build, and the index folder holds the ids and the
    address. Saving turns the alias `collection` to what was built, and `collection`_before to what
    it was: who has loaded the index of before goes on with that, until the next is saved. It is the
    same with items that are removed. A token is taken from the environment, MILVUS_TOKEN, and
    written nowhere.

    Args:
        similarity: `cosine`, `dot` or `euclidean`.
        uri: address of a Milvus, such as `http://host:19530`; empty for Milvus Lite.
        collection: alias of what is built on a Milvus at `uri`, one for each index, needed there;
            the names of its collections begin with it: letters, digits and `_`, at most 200.
        database: database of the Milvus at `uri`; empty for the default one.
        index_type: `hnsw` (graph), `flat` (exact), `ivf_flat` (cells) or `ivf_sq8` (cells, one byte
            a dimension).
        m: links of an item in each layer of `hnsw`, 2 to 2048.
        ef_construction: candidates looked at to place an item, for `hnsw`, at least 1.
        ef_search: candidates looked at for a query, for `hnsw`, at least 1 (never fewer than the
            neighbours asked for); more is slower and better.
        nlist: cells of `ivf_flat` and `ivf_sq8`, at least 1; none chooses 4 sqrt(items), as far as
            there are enough items.
        nprobe: cells searched for a query, at least 1; more is slower and better.
        timeout: seconds that a Milvus at `uri` may take to answer, above 0.
    """

    kind = "milvus"
    tunable = ("ef_search", "nprobe", "uri", "timeout")
    filename = "index.milvus"

    def __init__(
        self,
        *,
        similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
        uri: str = "",
        collection: str = "",
        database: str = "",
        index_type: Literal["hnsw", "flat", "ivf_flat", "ivf_sq8"] = "hnsw",
        m: int = 32,
        ef_construction: int = 200,
        ef_search: int = 64,
        nlist: int | None = None,
        nprobe: int = 16,
        timeout: float = 30.0,
    ) -> None:
        try:
            check_address(uri, VARIABLE)
        except ValueError as error:
            raise ValueError(f"uri: {error}") from None
        if uri and not collection:
            raise ValueError("uri needs collection=NAME, a name for this index on that Milvus")
        if collection and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", collection):
            raise ValueError(f"collection={collection!r} is not a name of letters, digits and _")
        if not 2 <= m <= 2048:
            raise ValueError(f"m={m} is not in 2..2048")
        for name, value in (
            ("ef_construction", ef_construction),
            ("ef_search", ef_search),
            ("nlist", nlist),
            ("nprobe", nprobe),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout} is not above 0")
        super().__init__(
            similarity,
            uri=uri,
            collection=collection,
            database=database,
            index_type=index_type,
            m=m,
            ef_construction=ef_construction,
            ef_search=ef_search,
            nlist=nlist,
            nprobe=nprobe,
            timeout=timeout,
        )
        self._server: Server | None = None
        self._name = ""
        #: The key of each row in Milvus, ascending; a position is a place in this list.
        self._keys = np.empty(0, np.int64)
        #: Rows on a server that were removed since the index was saved or loaded, and those that
        #: were removed before that, which nobody needs who has the index as it was then.
        self._gone = self._outdated = np.empty(0, np.int64)
        self._loose = 0
        #: Drops a collection on a server that was never saved.
        self._unsaved: weakref.finalize[..., Milvus] | None = None

    def close(self) -> None:
        """End the connection, and Milvus Lite if that is where the rows are; a search begins it
        again. A collection on a server that was never saved goes."""
        if self._unsaved is not None:
            self._unsaved()
        if self._server is not None:
            self._server.close()

    def discard(self) -> None:
        """Drop the collection on the server that holds this index, and its alias."""
        server = self._at()
        if not isinstance(server, Remote):
            return
        mine = server.call("list_aliases", self._name)["aliases"]
        for alias in self._aliases():
            if alias in mine:
                server.call("drop_alias", alias)
        server.call("drop_collection", self._name)
        self._keep()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index to `folder`, all or nothing; an index that is there is replaced.

        With `uri` the aliases are turned to it then, and what was before the last index that was
        saved is dropped: its collection, or its rows in this one.

        Raises:
            UserError: an empty index, a folder that holds something else, an alias that is somebody
                else's, a disk that refuses, or a server that does.
        """
        server = self._server
        if not isinstance(server, Remote):
            super().save(folder)
            return
        alias, alias_before = self._aliases()
        last, oldest = self._meant(server, alias), self._meant(server, alias_before)
        super().save(folder)
        self._keep()
        if last != self._name:
            if last is not None:
                self._mean(server, alias_before, last, oldest)
            self._mean(server, alias, self._name, last)
            if oldest not in (None, last, self._name):
                server.call("drop_collection", oldest)
        self._delete(server, self._outdated)
        self._outdated, self._gone = self._gone, self._gone[:0]

    def _aliases(self) -> tuple[str, str]:
        """Return the names of the index that was saved last, and of the one before."""
        return self.parameters["collection"], f"{self.parameters['collection']}_before"

    def _meant(self, server: Server, alias: str) -> str | None:
        """Return the collection that an alias stands for, None if there is no such alias.

        Raises:
            UserError: it is a collection, or an alias, of somebody else.
        """
        if not server.has(alias):
            return None
        what = f"a collection {alias!r} of its own"
        if alias in server.call("list_aliases")["aliases"]:
            name = str(server.call("describe_alias", alias)["collection_name"])
            if self._named_here(name):
                return name
            what = f"an alias {alias!r} of another collection, {name!r}"
        raise UserError(f"{server.name} has {what}: choose another name for index.collection")

    def _named_here(self, name: str) -> bool:
        """Return whether a collection has a name that builds of this index give."""
        return re.fullmatch(f"{self.parameters['collection']}_[0-9a-f]{{12}}", name) is not None

    def _mean(self, server: Server, alias: str, name: str, meant: str | None) -> None:
        """Let an alias stand for a collection, where it has `meant` another till now."""
        server.call("create_alias" if meant is None else "alter_alias", name, alias)

    def _keep(self) -> None:
        if self._unsaved is not None:
            self._unsaved.detach()
            self._unsaved = None

    def _build(self, embeddings: np.ndarray) -> None:
        p = self.parameters
        # A folder of its own for each build, so that what was there stays if this one fails.
        server = self._at() if p["uri"] else Lite()
        if p["uri"]:
            for alias in self._aliases():
                self._meant(server, alias)  # refuses before anything is sent
        name = f"{p['collection'] or 'items'}_{secrets.token_hex(6)}"
        keys = np.arange(len(embeddings))
        types, client = client_package().DataType, client_package().MilvusClient
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", types.INT64, is_primary=True)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=embeddings.shape[1])
        # Session: this process finds what it has written, others soon.
        server.call("create_collection", name, schema=schema, consistency_level="Session")
        try:
            self._insert(server, name, keys, embeddings)
            self._index_rows(server, name, len(embeddings))
        except BaseException:
            _drop(server, name)
            raise
        self.close()
        self._server, self._name, self._keys = server, name, keys
        self._gone = self._outdated = np.empty(0, np.int64)
        self._loose = 0
        self._unsaved = weakref.finalize(self, _drop, server, name) if p["uri"] else None

    def _index_rows(self, server: Server, name: str, rows: int) -> None:
        """Index what was inserted, and load it."""
        p, kind = self.parameters, self.parameters["index_type"]
        made: dict[str, Any] = {}
        if kind == "hnsw":
            made = {"M": p["m"], "efConstruction": p["ef_construction"]}
        elif kind != "flat":
            made = {"nlist": min(cell_count(rows, p["nlist"], rows), rows, 65_536)}
        wanted = client_package().MilvusClient.prepare_index_params()
        metric = "L2" if self.similarity == "euclidean" else "IP"
        # Twice `params`: pymilvus 3 sends what is in the first by itself, which Milvus takes as it
        # takes the second, and Milvus Lite ignores.
        wanted.add_index(
            "vector", index_type=kind.upper(), metric_type=metric, params={"params": made}
        )
        long = max(server.timeout, PATIENCE)
        server.call("flush", name, wait=long)
        server.call("create_index", name, wanted, sync=False)
        left, since = -1, time.monotonic()
        while True:
            state = server.call("describe_index", name, "vector")
            if state.get("state") == "Failed":
                raise UserError(f"{server.name} could not index the items: {state}")
            pending = int(state.get("pending_index_rows", 0))
            if state.get("state") == "Finished" and not pending:
                break
            if pending != left:
                left, since = pending, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise UserError(
                    f"{server.name} has indexed nothing for {PATIENCE:g} seconds, {pending} items "
                    "are left: look at its log"
                )
            time.sleep(0.5)
        server.call("load_collection", name, wait=long)

    def _insert(self, server: Server, name: str, keys: np.ndarray, vectors: np.ndarray) -> None:
        step = max(1, min(10_000, MESSAGE // (4 * vectors.shape[1])))
        for low in range(0, len(keys), step):
            rows = [
                {"key": key, "vector": vector}
                for key, vector in zip(
                    keys[low : low + step].tolist(), vectors[low : low + step], strict=True
                )
            ]
            server.call("insert", name, rows)

    def _delete(self, server: Server, keys: np.ndarray) -> None:
        for low in range(0, len(keys), ROWS):
            server.call("delete", self._name, ids=keys[low : low + ROWS].tolist())

    def _update(self, gone: np.ndarray, new: np.ndarray) -> None:
        server = self._at()
        # The time keeps apart what two processes add to one collection.
        first = int(self._keys[-1]) + 1
        if isinstance(server, Remote):
            first = max(first, time.time_ns())
        fresh = first + np.arange(len(new))
        old = self._keys[gone]
        try:
            if len(new):
                self._insert(server, self._name, fresh, new)
            if isinstance(server, Lite):
                self._delete(server, old)
        except UserError:
            with suppress(UserError):  # what is left of it is not among the keys, and not found
                self._delete(server, fresh)
            raise
        if isinstance(server, Remote):
            self._gone = np.concatenate([self._gone, old])
        self._keys = np.concatenate([np.delete(self._keys, gone), fresh])
        self._loose += len(new)
        if isinstance(server, Lite) and self._loose > LOOSE:
            server.call("flush", self._name)
            self._loose = 0

    def _search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if k > MOST:
            raise UserError(f"k={k}: Milvus finds at most {MOST:,} neighbours; use another index")
        rows = len(self._keys) + len(self._gone) + len(self._outdated)
        allowed = len(self._keys) if among is None else int(among.sum())
        if allowed < LISTED * rows:
            keys = (self._keys if among is None else self._keys[among]).tolist()
            # A graph passes rows that may not be found; for as many that may it goes further.
            effort = min(max(self.parameters["ef_search"], k) * rows // allowed, MOST)
            found, scores = self._ask(queries, k, filter=f"key in {keys}", effort=effort)
            positions = self._positions(found, among)
            lacking = (positions < 0).any(axis=1)
        else:
            positions, scores, lacking = self._sifted(queries, k, among, rows / allowed)
        # Those that may be found lie too far from where such a query leads.
        if lacking.any():
            places = np.arange(len(self._keys)) if among is None else np.flatnonzero(among)
            positions[lacking], scores[lacking] = self._exact(queries[lacking], k, places)
        return positions, scores

    def _sifted(
        self, queries: np.ndarray, k: int, among: np.ndarray | None, more: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ask for more neighbours than are wanted, and leave out those that may not be found.

        Returns, beside positions and scores, which queries others took the places of: bool (Q,).
        """
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        lacking = np.zeros(len(queries), bool)
        wanted = k if more == 1 else min(MOST, int(SPARE * more * k) + 1)
        left = np.arange(len(queries))
        while len(left):
            keys, near = self._ask(queries[left], wanted)
            places = self._positions(keys, among)
            order = np.argsort(places < 0, axis=1, kind="stable")[:, :k]
            positions[left] = np.take_along_axis(places, order, axis=1)
            scores[left] = np.take_along_axis(near, order, axis=1)
            few = (places >= 0).sum(axis=1) < k
            # Where nothing was left out, the cells that were looked into just hold no more.
            others = ((places < 0) & (keys >= 0)).any(axis=1)
            lacking[left] = few & (others | (among is not None))
            # Where all that came were rows, there are more of them further away.
            further = few & (keys >= 0).all(axis=1)
            if wanted == MOST:
                break
            left, wanted = left[further], min(MOST, 2 * wanted)
        return positions, scores, lacking

    def _positions(self, keys: np.ndarray, among: np.ndarray | None) -> np.ndarray:
        """Return the positions of keys, -1 for those that are not of this index or not `among`."""
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        there = self._keys[places] == keys
        if among is not None:
            there &= among[places]
        return np.where(there, places, -1)

    def _ask(
        self, queries: np.ndarray, limit: int, *, filter: str = "", effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return keys, -1 where there are no more, and scores of the nearest rows."""
        p = self.parameters
        looked = {"hnsw": {"ef": max(effort or p["ef_search"], limit)}, "flat": {}}
        params = looked.get(p["index_type"], {"nprobe": p["nprobe"]})
        keys = np.full((len(queries), limit), -1, np.int64)
        scores = np.zeros((len(queries), limit), np.float32)
        step = self._queries_at_once()
        for low in range(0, len(queries), step):
            hits = self._at().call(
                "search",
                self._name,
                queries[low : low + step],
                limit=limit,
                filter=filter,
                # Milvus Lite sends the vectors of all that it finds unless told what to send.
                output_fields=["key"],
                search_params={"params": params},
            )
            # Their own items are made when they are asked for, a dictionary each.
            for row, found in enumerate(list.__iter__(hits), low):
                keys[row, : len(found.ids)] = found.ids
                scores[row, : len(found.ids)] = found.distances
        return keys, -scores if self.similarity == "euclidean" else scores

    def _queries_at_once(self) -> int:
        if self.similarity != "euclidean" or self.parameters["uri"]:
            return QUERIES
        # Milvus Lite makes a table of all differences between queries and rows without an index.
        rows = len(self._keys) if self.parameters["index_type"] == "flat" else LOOSE
        return max(1, min(QUERIES, FLOATS // (rows * self.dim)))

    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        wanted = self._keys[positions]
        vectors = np.empty((len(positions), self.dim), np.float32)
        for low in range(0, len(wanted), ROWS):
            keys = wanted[low : low + ROWS]
            rows = self._at().call(
                "query",
                self._name,
                filter=f"key in {np.unique(keys).tolist()}",
                output_fields=["key", "vector"],
            )
            held = {row["key"]: row["vector"] for row in rows}
            if not held.keys() >= set(keys.tolist()):
                raise UserError(
                    f"{self._at().name} has lost items of this index: load it again, or build it"
                )
            vectors[low : low + ROWS] = [held[key] for key in keys.tolist()]
        return vectors

    def _write(self, path: Path) -> None:
        server = self._at()
        address: dict[str, Any] = {"collection": self._name}
        if isinstance(server, Lite):
            server.close()  # its files are whole when it has ended; the next search starts it
            names = server.files()
            address["files"] = {
                name: f"milvus.{number}{PurePosixPath(name).suffix}"
                for number, name in enumerate(names)
            }
            for name, kept in address["files"].items():
                place(server.data / name, path.with_name(kept))
        else:
            address["gone"] = self._gone.tolist()
        path.write_text(json.dumps(address, indent=1), encoding="utf-8")
        if not np.array_equal(self._keys, np.arange(len(self._keys))):
            np.save(path.with_name(KEYS), self._keys, allow_pickle=False)

    def _read(self, path: Path, dim: int, mapped: bool) -> tuple[int, int]:
        address = json.loads(path.read_text(encoding="utf-8"))
        self._name = str(address["collection"])
        self._outdated = np.array(address.get("gone", []), np.int64)
        self._keys = np.arange(len(self.ids))
        if path.with_name(KEYS).exists():
            self._keys = np.load(path.with_name(KEYS), allow_pickle=False)
        if not self.parameters["uri"]:
            if "files" not in address:
                raise UserError(f"{path.parent} holds an index on a server: build it again")
            self._server = lite = Lite(beside=path.parent)
            for name, kept in address["files"].items():
                parts = PurePosixPath(name).parts
                if ".." in parts or name.startswith("/") or Path(kept).name != kept:
                    raise ValueError(f"{name}: not a file of Milvus Lite")
                place(path.with_name(kept), lite.data / name)
        elif "files" in address:
            raise UserError(f"{path.parent} holds its vectors itself: uri cannot be changed")
        elif not self._named_here(self._name):  # which could be changed, or dropped
            raise ValueError(f"{self._name} is not a collection of this index")
        server = self._at()
        if not server.has(self._name):
            raise UserError(
                f"{server.name} has not the collection {self._name} of {path.parent} (any more): "
                "build the index again"
            )
        found = server.call("describe_collection", self._name)
        vector = next(field for field in found["fields"] if field["name"] == "vector")
        server.call("load_collection", self._name, wait=max(server.timeout, PATIENCE))
        # Strong: all that any process has written is counted, and can be found from here on.
        rows = server.call(
            "query", self._name, output_fields=["count(*)"], consistency_level="Strong"
        )[0]["count(*)"]
        # A server may hold rows of a writer that has not saved, or keep some that are removed.
        if isinstance(server, Remote):
            rows = min(rows, len(self._keys))
        return rows, vector["params"]["dim"]

    def _at(self) -> Server:
        """Return the Milvus that holds the rows."""
        if self._server is None:
            p = self.parameters
            self._server = Remote(p["uri"], p["database"], p["timeout"]) if p["uri"] else Lite()
        return self._server


def _drop(server: Server, name: str) -> None:
    """Drop a collection that nothing refers to."""
    with suppress(UserError):
        server.call("drop_collection", name)

"""Indexes of FAISS: exact, graph, and inverted lists with product quantisation."""

from __future__ import annotations

import contextlib
import logging
import threading
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.config import UserError, register
from trainer.retrieval.indexes.base import Index

log = logging.getLogger(__name__)

#: FAISS's own advice: training vectors per centroid below which clusters get poor.
POINTS_PER_CENTROID = 39
#: Share of the nodes of a graph that removed items may hold; past it the graph is built anew.
MOST_REMOVED = 0.25
#: A walk along a graph that met too few items that may be found goes so many times as far.
FURTHER = 4
#: Nodes that such walks bring back at once.
BLOCK = 1 << 20
#: File beside a graph with removed items: the numbers of their nodes.
REMOVED = "removed.npy"


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError(
            "this index needs FAISS: pip install 'mildnet[cpu]', or 'mildnet[gpu]' with a GPU"
        ) from None
    return faiss


def gpus() -> int:
    """Return how many GPUs FAISS can use: 0 where it was made without them, too."""
    faiss = _faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


class _FaissIndex(Index):
    """What FAISS's indexes share; subclasses make an empty, trained one."""

    filename = "index.faiss"
    #: Whether FAISS has a GPU form of this index.
    on_gpu = False
    _mapped = False
    _resources: Any = None
    _turns = threading.Lock()
    #: An index on a GPU, and its form on the CPU.
    _copy: tuple[Any, Any] | None = None

    @abstractmethod
    def _make(self, embeddings: np.ndarray) -> Any:
        """Return an empty FAISS index, trained on the embeddings if it needs that."""

    def _metric(self) -> int:
        faiss = _faiss()
        return faiss.METRIC_L2 if self.similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT

    def _build(self, embeddings: np.ndarray) -> None:
        made = self._make(embeddings)
        made.add(embeddings)
        self._mapped = False
        self._index = self._placed(made)

    def _update(self, gone: np.ndarray, new: np.ndarray) -> None:
        index = self._owned()  # FAISS removes nothing on a GPU
        if len(gone):
            index.remove_ids(gone)
            self._renumber(index, gone)
        if len(new):
            index.add(new)
        self._index = self._placed(index)

    def _renumber(self, index: Any, gone: np.ndarray) -> None:
        """Move positions up after a removal, where FAISS does not do that."""

    def _search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if among is None:
            return self._found(self._index, queries, k)
        # On a GPU FAISS knows no filters.
        return self._found(self._host(), queries, k, sel=_selector(among))

    def _found(
        self, index: Any, queries: np.ndarray, k: int, **parameters: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and scores of a FAISS index, with parameters of this search only."""
        # Set on the index itself, they would be those of other threads' searches, too.
        params = self._parameters(**parameters) if parameters else None
        # Many threads may search an index on a CPU at once, but only one what a GPU holds.
        with self._turns if self._resources is not None else contextlib.nullcontext():
            scores, positions = index.search(queries, k, params=params)
        return positions, -scores if self.similarity == "euclidean" else scores

    def _parameters(self, **parameters: Any) -> Any:
        return _faiss().SearchParameters(**parameters)

    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray(self._host().reconstruct_batch(positions))

    def _host(self) -> Any:
        """Return the index in the memory of the host, kept there from the first call on."""
        if not self._uses_gpu():
            return self._index
        if self._copy is None or self._copy[0] is not self._index:
            log.info("filters and vectors of an index on a GPU need a copy in the host's memory")
            self._copy = self._index, self._on_cpu()
            self._tune(self._copy[1])
        return self._copy[1]

    def _owned(self) -> Any:
        """Return the index on the CPU, out of its file: FAISS ends the process that would change a
        mapped one."""
        faiss = _faiss()
        if not self._mapped:
            return self._on_cpu()
        self._mapped = False
        return faiss.deserialize_index(faiss.serialize_index(self._on_cpu()))

    def _write(self, path: Path) -> None:
        _faiss().write_index(self._on_cpu(), str(path))

    def _read(self, path: Path, dim: int, mapped: bool) -> tuple[int, int]:
        faiss = _faiss()
        # IO_FLAG_MMAP maps inverted lists only, and leaves a file that is no index open.
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        self._tune(index)
        self._mapped = mapped
        found = int(index.ntotal), int(index.d)
        self._index = self._placed(index)
        return found

    def _tune(self, index: Any) -> None:
        """Set what may be chosen anew each time an index is used."""

    def _uses_gpu(self) -> bool:
        wanted = self.parameters.get("gpu", "off")
        if not self.on_gpu or wanted == "off":
            return False
        there = gpus() > 0
        if wanted == "on" and not there:
            raise UserError(
                "gpu=on, but this FAISS sees no GPU: install mildnet[gpu] on a machine with one, "
                "or use gpu=auto"
            )
        return there

    def _on_cpu(self) -> Any:
        return _faiss().index_gpu_to_cpu(self._index) if self._uses_gpu() else self._index

    def _placed(self, index: Any) -> Any:
        if not self._uses_gpu():
            return index
        faiss = _faiss()
        self._resources = faiss.StandardGpuResources()
        return faiss.index_cpu_to_gpu(self._resources, 0, index)


@register("index", "flat")
class Flat(_FaissIndex):
    """Exact search: compares every query with every item (FAISS flat).

    Args:
        similarity: `cosine`, `dot` or `euclidean`.
        gpu: `auto` uses a GPU if FAISS has one, `on` insists, `off` does not.
    """

    kind = "flat"
    tunable = ("gpu",)
    on_gpu = True

    def __init__(
        self,
        *,
        similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
        gpu: Literal["auto", "on", "off"] = "auto",
    ) -> None:
        super().__init__(similarity, gpu=gpu)

    def _make(self, embeddings: np.ndarray) -> Any:
        return _faiss().IndexFlat(embeddings.shape[1], self._metric())


@register("index", "hnsw")
class HNSW(_FaissIndex):
    """Approximate search along a graph of near items: fast on CPUs, more memory (FAISS HNSW).

    Malkov and Yashunin, 2016, https://arxiv.org/abs/1603.09320

    Items join the graph where they belong. Those that are removed stay in it as waypoints that are
    never returned, until they are a quarter of it: then it is built anew from the vectors it keeps.

    Args:
        similarity: `cosine`, `dot` or `euclidean`.
        m: links of an item in each layer, at least 2; more means better recall and more memory
            (8 bytes per link).
        ef_construction: candidates looked at to place an item, at least 1; more builds slower and
            better.
        ef_search: candidates looked at for a query, at least 1 (never fewer than the neighbours
            asked for); more is slower and better.
    """

    kind = "hnsw"
    tunable = ("ef_search",)

    def __init__(
        self,
        *,
        similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
        m: int = 32,
        ef_construction: int = 200,
        ef_search: int = 64,
    ) -> None:
        _at_least(2, m=m)
        _at_least(1, ef_construction=ef_construction, ef_search=ef_search)
        super().__init__(similarity, m=m, ef_construction=ef_construction, ef_search=ef_search)

    def _make(self, embeddings: np.ndarray) -> Any:
        faiss = _faiss()
        index = faiss.IndexHNSWFlat(embeddings.shape[1], self.parameters["m"], self._metric())
        index.hnsw.efConstruction = self.parameters["ef_construction"]
        self._tune(index)
        return index

    def _tune(self, index: Any) -> None:
        index.hnsw.efSearch = self.parameters["ef_search"]

    def _build(self, embeddings: np.ndarray) -> None:
        super()._build(embeddings)
        self._positions = np.arange(len(embeddings))

    def _update(self, gone: np.ndarray, new: np.ndarray) -> None:
        stays = self._positions >= 0
        stays[np.flatnonzero(stays)[gone]] = False
        nodes = len(stays) + len(new)
        if nodes - len(new) - stays.sum() > MOST_REMOVED * nodes:
            held = self._index.storage.reconstruct_n(0, len(stays))
            self._build(np.concatenate([held[stays], new]))
            return
        if len(new):
            self._index = self._owned()
            self._index.add(new)
        self._positions = _positions(np.concatenate([stays, np.ones(len(new), bool)]))

    def _search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if among is not None:
            return self._filtered(queries, k, among)
        nodes = len(self._positions)
        removed = nodes - len(self)
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        rows = np.arange(len(queries))
        wanted = min(nodes, k + -(-k * removed // nodes))
        while len(rows):
            # With fewer candidates than neighbours asked for, the graph walk returns holes.
            look = max(self.parameters["ef_search"], wanted)
            found, values = self._found(self._index, queries[rows], wanted, efSearch=look)
            places = np.where(found >= 0, self._positions[found], -1)
            order = np.argsort(places < 0, axis=1, kind="stable")[:, :k]
            positions[rows] = np.take_along_axis(places, order, axis=1)
            scores[rows] = np.take_along_axis(values, order, axis=1)
            # Where removed items crowd out the others the walk has to go further, unless it has
            # met all that there is.
            lacking = (places >= 0).sum(axis=1) < k
            rows = rows[lacking & (found >= 0).all(axis=1)]
            if not removed or wanted == nodes:
                break
            wanted = min(nodes, 2 * wanted)
        return positions, scores

    def _filtered(
        self, queries: np.ndarray, k: int, among: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search among some items: along the graph, or through all of them where that is less.

        The walk comes to the nearest nodes, whether they may be found or not. Near a query there
        may be fewer that may than elsewhere, or none: then it has to go further.
        """
        nodes, allowed = len(self._positions), int(among.sum())
        chosen = among
        if nodes > len(self):
            chosen = np.zeros(nodes, bool)
            chosen[self._positions >= 0] = among
        found = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        rows = np.arange(len(queries))
        # As many as without a filter, and more than are asked for: the last ones of a walk are the
        # least certain. Half of them will do, for how many there are in a place differs.
        wanted = max(self.parameters["ef_search"], 2 * k)
        look = wanted * nodes // allowed
        # Each step compares with the links of a node.
        while len(rows) and look * self.parameters["m"] < allowed:
            lacking = []
            for block in np.split(rows, range(BLOCK // look or 1, len(rows), BLOCK // look or 1)):
                met, values = self._found(self._index, queries[block], look, efSearch=look)
                good = (met >= 0) & chosen[met]
                order = np.argsort(~good, axis=1, kind="stable")[:, :k]
                found[block] = np.take_along_axis(met, order, axis=1)
                scores[block] = np.take_along_axis(values, order, axis=1)
                lacking.append(block[good.sum(axis=1) < wanted / 2])
            rows = np.concatenate(lacking)
            look *= FURTHER
        if len(rows):
            storage = _faiss().downcast_index(self._index.storage)
            found[rows], scores[rows] = self._found(
                storage, queries[rows], k, sel=_selector(chosen)
            )
        return np.where(found >= 0, self._positions[found], -1), scores

    def _parameters(self, **parameters: Any) -> Any:
        return _faiss().SearchParametersHNSW(**parameters)

    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        nodes = np.flatnonzero(self._positions >= 0)[positions]
        return np.asarray(_faiss().downcast_index(self._index.storage).reconstruct_batch(nodes))

    def _write(self, path: Path) -> None:
        super()._write(path)
        removed = np.flatnonzero(self._positions < 0)
        if len(removed):
            np.save(path.with_name(REMOVED), removed, allow_pickle=False)

    def _read(self, path: Path, dim: int, mapped: bool) -> tuple[int, int]:
        nodes, dim = super()._read(path, dim, mapped)
        stays = np.ones(nodes, bool)
        if path.with_name(REMOVED).exists():
            stays[np.load(path.with_name(REMOVED), allow_pickle=False)] = False
        self._positions = _positions(stays)
        return int(stays.sum()), dim


@register("index", "ivf_pq")
class IVFPQ(_FaissIndex):
    """Approximate search in compressed form: smallest memory, for large catalogues (FAISS IVF-PQ).

    Jegou et al., 2011, https://doi.org/10.1109/TPAMI.2010.57

    Added items are put into the cells and codes that were learned when the index was built.

    Args:
        similarity: `cosine`, `dot` or `euclidean`.
        nlist: cells the catalogue is divided into, at least 1; none chooses 4 sqrt(items), as far
            as the training vectors suffice.
        nprobe: cells searched for a query, at least 1; more is slower and better.
        m: bytes (at 8 bits) an item is compressed to; must divide the dimensions; none chooses
            about 4 dimensions to each.
        bits: bits of each of the m codes, 4 to 12; 2**bits training vectors are needed.
        training_size: items, drawn at random, that cells and codes are learned from, at least 1.
        seed: of that draw.
        gpu: `auto` uses a GPU if FAISS has one, `on` insists, `off` does not.
    """

    kind = "ivf_pq"
    tunable = ("nprobe", "gpu")
    on_gpu = True
    #: An index, and the cell and the place within it of each of its codes.
    _codes_of: tuple[Any, np.ndarray, np.ndarray] | None = None

    def __init__(
        self,
        *,
        similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
        nlist: int | None = None,
        nprobe: int = 16,
        m: int | None = None,
        bits: int = 8,
        training_size: int = 100_000,
        seed: int = 0,
        gpu: Literal["auto", "on", "off"] = "auto",
    ) -> None:
        _at_least(1, nprobe=nprobe, training_size=training_size)
        _at_least(1, **{name: v for name, v in (("nlist", nlist), ("m", m)) if v is not None})
        if not 4 <= bits <= 12:
            raise ValueError(f"bits={bits} is not in 4..12")
        super().__init__(
            similarity,
            nlist=nlist,
            nprobe=nprobe,
            m=m,
            bits=bits,
            training_size=training_size,
            seed=seed,
            gpu=gpu,
        )

    def _make(self, embeddings: np.ndarray) -> Any:
        faiss = _faiss()
        p = self.parameters
        dim = embeddings.shape[1]
        codes = p["m"] or _codes(dim)
        if dim % codes:
            near = [d for d in range(1, dim + 1) if dim % d == 0]
            raise UserError(
                f"index.m={codes} does not divide the {dim} dimensions; nearest that does: "
                f"{min(near, key=lambda d: abs(d - codes))}"
            )
        training = self._training(embeddings)
        cells = cell_count(len(embeddings), p["nlist"], p["training_size"])
        needed = max(cells, 2 ** p["bits"])
        if len(training) < needed:
            raise UserError(
                f"ivf_pq with nlist={cells} and bits={p['bits']} needs at least {needed} vectors "
                f"to train on, there are {len(training)}: use index 'flat' or 'hnsw', or fewer bits"
            )
        if len(training) < POINTS_PER_CENTROID * needed:
            log.warning(
                "ivf_pq trains %d centroids on %d vectors: recall will be poor below %d",
                needed,
                len(training),
                POINTS_PER_CENTROID * needed,
            )
        coarse = faiss.IndexFlat(dim, self._metric())
        index = faiss.IndexIVFPQ(coarse, dim, cells, codes, p["bits"], self._metric())
        # Said above in the log, where it can be seen; FAISS writes it to stderr.
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        self._tune(index)
        index.train(training)
        return index

    def _search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if among is None:
            return super()._search(queries, k, None)
        index, select = self._host(), _selector(among)
        # As many more cells as it takes to compare with as many items as without a filter.
        cells = min(index.nlist, -(-index.nprobe * len(among) // int(among.sum())))
        positions, scores = self._found(index, queries, k, nprobe=cells, sel=select)
        lacking = (positions < 0).any(axis=1)
        if lacking.any() and cells < index.nlist:
            positions[lacking], scores[lacking] = self._found(
                index, queries[lacking], k, nprobe=index.nlist, sel=select
            )
        return positions, scores

    def _parameters(self, **parameters: Any) -> Any:
        return _faiss().SearchParametersIVF(**parameters)

    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        faiss, index = _faiss(), self._host()
        if self._codes_of is None or self._codes_of[0] is not index:
            # FAISS's own map of this kind would forbid removals.
            cell, offset = np.empty((2, index.ntotal), np.int32)
            for number in range(index.nlist):
                size = index.invlists.list_size(number)
                if size:
                    held = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
                    cell[held], offset[held] = number, np.arange(size)
            self._codes_of = index, cell, offset
        _, cell, offset = self._codes_of
        vectors = np.empty((len(positions), self.dim), np.float32)
        for vector, at in zip(vectors, positions.tolist(), strict=True):
            index.reconstruct_from_offset(int(cell[at]), int(offset[at]), faiss.swig_ptr(vector))
        return vectors

    def _update(self, gone: np.ndarray, new: np.ndarray) -> None:
        self._codes_of = None
        super()._update(gone, new)

    def _renumber(self, index: Any, gone: np.ndarray) -> None:
        faiss = _faiss()
        left = np.delete(np.arange(index.ntotal + len(gone)), gone)
        for cell in range(index.nlist):
            size = index.invlists.list_size(cell)
            if size:
                held = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
                held[:] = np.searchsorted(left, held)

    def _training(self, embeddings: np.ndarray) -> np.ndarray:
        size = self.parameters["training_size"]
        if len(embeddings) <= size:
            return embeddings
        random = np.random.default_rng(self.parameters["seed"])
        return embeddings[np.sort(random.choice(len(embeddings), size, replace=False))]

    def _tune(self, index: Any) -> None:
        index.nprobe = min(self.parameters["nprobe"], index.nlist)


def cell_count(items: int, nlist: int | None, training_size: int) -> int:
    """Return how many cells `ivf_pq` with these parameters divides so many items into."""
    most = min(items, training_size) // POINTS_PER_CENTROID
    return nlist or max(1, min(int(4 * items**0.5), most))


def _selector(allowed: np.ndarray) -> Any:
    return _faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _positions(stays: np.ndarray) -> np.ndarray:
    """Return the number of each one that stays among those that do, -1 for the others."""
    return np.where(stays, np.cumsum(stays) - 1, -1)


def _codes(dim: int) -> int:
    """Return the smallest divisor of `dim` that leaves at most 4 dimensions to each code."""
    return next(m for m in range(1, dim + 1) if dim % m == 0 and dim // m <= 4)


def _at_least(lowest: int, **values: int) -> None:
    for name, value in values.items():
        if value < lowest:
            raise ValueError(f"{name}={value} is below {lowest}")

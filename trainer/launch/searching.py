"""From a catalogue to an index in a folder, and from pictures to their neighbours in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError, get
from trainer.config.job import JobConfig
from trainer.data.files import absolute, is_file, join, require_folder, whole_folder
from trainer.data.readers.folder import picture_files
from trainer.data.table import ItemTable
from trainer.launch.run_folder import RunFolder
from trainer.retrieval.indexes import Index, load_index
from trainer.retrieval.pictures import Picture, contact_sheet, sheet_rows
from trainer.retrieval.results import RetrievalResults

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder

#: Queries and neighbours of the picture that a job draws.
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 8, 8


@dataclass(frozen=True)
class CatalogueIndex:
    """An index together with the items it was built from."""

    index: Index
    items: ItemTable

    @classmethod
    def exact(cls, items: ItemTable, embeddings: np.ndarray) -> CatalogueIndex:
        """Return an exact index in memory over rows and their (N, D) float32 embeddings."""
        return cls(get("index", "flat").build().build(embeddings, item_ids(items)), items)

    def picture(self, row: int) -> Picture:
        """Return the picture of item number `row`."""
        return _picture(self.items, row)


def item_ids(table: ItemTable) -> list[str]:
    """Return one distinct id per row: the path, with the row number where a path comes twice
    (several boxes in one picture)."""
    seen: set[str] = set()
    ids = []
    for row, path in enumerate(table.path.tolist()):
        ids.append(f"{path}#{row}" if path in seen else path)
        seen.add(path)
    return ids


def searched(
    config: JobConfig, table: ItemTable, embeddings: np.ndarray
) -> tuple[ItemTable, np.ndarray]:
    """Return the rows that a search may find, and their embeddings: those of the gallery domain,
    or all where the config names none."""
    if not config.gallery_domain:
        return table, embeddings
    is_gallery = table.domain == config.gallery_domain
    return table.select(is_gallery), embeddings[is_gallery]


def build_index(
    config: JobConfig, items: ItemTable, embeddings: np.ndarray, folder: str | os.PathLike[str]
) -> CatalogueIndex:
    """Index `items` with the index that `config` names, and write both to `folder`.

    Args:
        config: its `index` component.
        items: rows to index.
        embeddings: (N, D) float32, one per row.
        folder: an index that is there is replaced once the new one is complete.

    Raises:
        UserError: too few items for the index, or a folder that holds something else.
    """
    index = config.build("index").build(embeddings, item_ids(items))
    target = Path(folder)
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    if target.exists() and not (target / "meta.json").exists() and any(target.iterdir()):
        raise UserError(f"{target} holds something else than an index: choose another folder")
    with whole_folder(fresh) as part:
        index.save(part)
        items.to_csv(part / "items.csv")
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old)
    else:
        fresh.rename(target)
    return CatalogueIndex(index, items)


def load_catalogue(folder: str | os.PathLike[str], **tuned: Any) -> CatalogueIndex:
    """Return what :func:`build_index` wrote.

    Raises:
        UserError: it is missing, truncated, or not an index of this library.
    """
    index = load_index(folder, **tuned)
    items = get("dataset", "items").build(os.fspath(folder))
    if item_ids(items) != index.ids.tolist():
        raise UserError(f"{folder}: items.csv and the index hold different items: build it again")
    return CatalogueIndex(index, items)


def index_catalogue(
    run: RunFolder, source: str, folder: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> int:
    """Embed a catalogue with a run's model, index it, and return how many items it has.

    Where the run searched one domain (`gallery_domain`) and the catalogue names domains, only the
    items of that domain are indexed: customers' pictures are queries, not products on offer.
    Pictures that can't be decoded are left out, and named in `FOLDER.bad_images.log`.

    Args:
        run: a finished run.
        source: an `items.csv`, a folder with one, or a folder of pictures.
        folder: where the index goes.
        overrides: `key=value` texts for the index, such as `index=hnsw`.

    Raises:
        UserError: no model in the run, no pictures, or a folder that holds something else.
    """
    from trainer.data.verify import verify_images
    from trainer.serving.embedder import Embedder

    config = JobConfig.from_mapping(run.config().to_dict(), overrides, source=run.path)
    embedder = Embedder(run.file("model"))
    items = read_catalogue(source)
    if config.gallery_domain and any(items.domain):
        items = items.select(items.domain == config.gallery_domain)
        if not len(items):
            raise UserError(f"{source} has no items of the domain {config.gallery_domain!r}")
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    items = verify_images(
        items,
        max_bad_share=config.max_bad_share,
        log_file=str(target.with_name(f"{target.name}.bad_images.log")),
    )
    build_index(config, items, embed_items(embedder, items), folder)
    return len(items)


def read_catalogue(source: str) -> ItemTable:
    """Return the items of an `items.csv`, of a folder with one, or of a folder of pictures.

    Pictures without a table are products of their own, labelled with their file names.

    Raises:
        UserError: nothing of the kind is there.
    """
    items = get("dataset", "items")
    if is_file(source):
        folder, _, name = absolute(source).rpartition("/")
        return items.build(folder, file=name)
    root = require_folder(source)
    if is_file(join(root, "items.csv")):
        return items.build(root)
    names = picture_files(root)
    return ItemTable.from_columns(path=[join(root, name) for name in names], label=names)


def embed_items(embedder: Embedder, items: ItemTable) -> np.ndarray:
    """Return the (N, D) float32 embeddings of a catalogue, boxes cropped, in row order."""
    from trainer.data.pipeline import eval_batches
    from trainer.retrieval.embed import embed

    batches = eval_batches(items, image_size=embedder.image_size, batch_size=embedder.batch_size)
    return embed(embedder, batches, len(items), dim=embedder.dim, paths=items.path.tolist())


def draw_neighbours(
    config: JobConfig,
    queries: ItemTable,
    embeddings: np.ndarray,
    catalogue: CatalogueIndex,
    path: str,
) -> list[dict[str, Any]]:
    """Search for a few rows of `queries`, draw them with their neighbours, and return the rows.

    The queries are spread over the classes and drawn with the job's seed, so the picture is
    neither the best nor the worst of it. A query does not find itself.

    Args:
        config: its seed and query domain.
        queries: rows to choose from.
        embeddings: (N, D), one per row of `queries`.
        catalogue: what is searched.
        path: PNG file to write.
    """
    rows = np.arange(len(queries))
    if config.query_domain:
        rows = rows[queries.domain == config.query_domain]
    order = np.random.default_rng(config.seed).permutation(rows)
    _, first = np.unique(queries.label[order], return_index=True)
    chosen = order[np.sort(first)[:SHOWN_QUERIES]]
    ids = np.asarray(item_ids(queries), str)[chosen]
    found = catalogue.index.search(embeddings[chosen], SHOWN_NEIGHBOURS + 1, ids)
    found = _without_self(found, SHOWN_NEIGHBOURS)
    _draw(found, [_picture(queries, row) for row in chosen], catalogue, path, config.name)
    return _named(found, catalogue)


def search_images(
    run: RunFolder,
    images: Sequence[str],
    k: int,
    *,
    index_folder: str | None = None,
    picture: str | None = None,
) -> list[dict[str, Any]]:
    """Find the nearest catalogue items of picture files with a run's model and index.

    Args:
        run: a finished run.
        images: picture files.
        k: neighbours for each.
        index_folder: index to search; default: the run's own.
        picture: PNG file to draw queries and neighbours to.

    Returns:
        One row per neighbour: query, rank (from 1), score, id, label, category, domain.

    Raises:
        UserError: no model or index, or a file that is missing or no picture.
    """
    from trainer.serving.embedder import Embedder

    embedder = Embedder(run.file("model"))
    catalogue = load_catalogue(index_folder or run.file("index"))
    if embedder.dim != catalogue.index.dim:
        raise UserError(
            f"the index has {catalogue.index.dim} dimensions, the model of {run.path} gives "
            f"{embedder.dim}: build the index with this run"
        )
    found = catalogue.index.search(embedder.embed_files(images), k, list(images))
    if picture is not None:
        _draw(found, [Picture(path) for path in images], catalogue, picture, "search")
    return _named(found, catalogue)


def _without_self(found: RetrievalResults, k: int) -> RetrievalResults:
    """Return at most `k` neighbours of each query, leaving out the query itself."""
    neighbours = np.full((len(found), k), "", found.neighbours.dtype)
    scores = np.zeros((len(found), k), np.float32)
    counts = np.zeros(len(found), np.int64)
    for number, query in enumerate(found.queries):
        ids, values = found.row(number)
        other = np.flatnonzero(ids != query)[:k]
        counts[number] = len(other)
        neighbours[number, : len(other)], scores[number, : len(other)] = ids[other], values[other]
    return RetrievalResults(found.queries, neighbours, scores, counts)


def _named(found: RetrievalResults, catalogue: CatalogueIndex) -> list[dict[str, Any]]:
    items = catalogue.items
    place = {name: row for row, name in enumerate(item_ids(items))}
    rows = []
    for entry in found.to_rows():
        row = place[entry["id"]]
        extra = {
            "label": items.label_names[items.label[row]],
            "category": str(items.category[row]),
            "domain": str(items.domain[row]),
        }
        rows.append({**entry, **{name: value for name, value in extra.items() if value}})
    return rows


def _draw(
    found: RetrievalResults,
    queries: list[Picture],
    catalogue: CatalogueIndex,
    path: str,
    title: str,
) -> None:
    pictures = {name: catalogue.picture(row) for row, name in enumerate(item_ids(catalogue.items))}
    contact_sheet(sheet_rows(found, queries, pictures, SHOWN_NEIGHBOURS), path, title=title)


def _picture(table: ItemTable, row: int) -> Picture:
    label = table.label_names[int(table.label[row])]
    return Picture(str(table.path[row]), label, table.box[row])

"""From a catalogue to an index in a folder, and from pictures to their neighbours in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError, get
from trainer.config.job import JobConfig
from trainer.data.files import (
    absolute,
    is_file,
    join,
    require_folder,
)
from trainer.data.readers.folder import picture_files
from trainer.data.table import ItemTable
from trainer.launch.run_folder import RunFolder, local_copy
from trainer.retrieval.embedding_cache import EmbeddingCache, picture_keys
from trainer.retrieval.embeddings_folder import read_embeddings_folder
from trainer.retrieval.pictures import Picture, contact_sheet, sheet_rows
from trainer.retrieval.results import RetrievalResults
from trainer.serving.catalogue import (
    MODEL,
    CatalogueIndex,
    changing,
    check_model,
    item_ids,
    item_picture,
    load_catalogue,
    write_catalogue,
)

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder

#: Queries and neighbours of the picture that a job draws.
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 8, 8


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
    config: JobConfig,
    items: ItemTable,
    embeddings: np.ndarray,
    folder: str | os.PathLike[str],
    *,
    model: str = "",
) -> CatalogueIndex:
    """Index `items` with the index that `config` names, and write both to `folder`.

    Args:
        config: its `index` component.
        items: rows to index.
        embeddings: (N, D) float32, one per row.
        folder: an index that is there is replaced once the new one is complete.
        model: fingerprint of the model that made the embeddings, which the index takes a note of.

    Raises:
        UserError: too few items for the index, or a folder that holds something else.
    """
    with changing(folder):
        catalogue = _indexed(config, items, embeddings, model)
        write_catalogue(catalogue, folder)
    return catalogue


def index_catalogue(
    run: RunFolder,
    source: str,
    folder: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    model_folder: str | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> int:
    """Embed a catalogue with a run's model, index it, and return how many items it has.

    Where the run searched one domain (`gallery_domain`) and the catalogue names domains, only the
    items of that domain are indexed: customers' pictures are queries, not products on offer.
    Pictures that can't be decoded are left out, and named in `FOLDER.bad_images.log`. Embeddings
    are kept beside the index: those of pictures that have not changed are used again.

    Args:
        run: a finished run.
        source: an `items.csv`, a folder with one, or a folder of pictures.
        folder: where the index goes.
        overrides: `key=value` texts for the index, such as `index=hnsw`.
        model_folder: an export of the run's model to embed with; default: the run's own.
        tell: takes a line on what was embedded.

    Raises:
        UserError: no model in the run, no pictures, or a folder that holds something else.
    """
    config = JobConfig.from_mapping(run.config().to_dict(), overrides, source=run.path)
    embedder = exported_model(model_folder or run.file("model"))
    model = embedder.fingerprint()
    items = offered(config, source)
    with changing(folder):
        cache = EmbeddingCache.load(folder, embedder.dim)
        items, cache = embed_catalogue(config, embedder, model, items, cache, folder, tell)
        catalogue = _indexed(config, items, cache.embeddings, model)
        write_catalogue(catalogue, folder, cache)
    return len(items)


def index_embeddings(
    run: RunFolder,
    source: str,
    folder: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    model_folder: str | None = None,
) -> int:
    """Index what `mildnet embed` wrote, embedding nothing, and return how many items it has.

    The index is the one that :func:`index_catalogue` makes of the same catalogue, and so are the
    items that it takes and the embeddings that it keeps.

    Args:
        run: the run whose model embedded them.
        source: folder of embeddings of a whole catalogue.
        folder: where the index goes.
        overrides: `key=value` texts for the index, such as `index=hnsw`.
        model_folder: export of the run's model that embedded them; default: the run's own.

    Raises:
        UserError: no such embeddings, those of another model, or a folder that holds something
            else.
    """
    config = JobConfig.from_mapping(run.config().to_dict(), overrides, source=run.path)
    place = model_folder or run.file("model")
    model = exported_model(place).fingerprint()
    stored = read_embeddings_folder(source)
    if model != stored.meta.model:
        raise UserError(
            f"{source} was embedded with another model than {place}: give the run that it was "
            "embedded with, or the export (--model), or embed it again (mildnet embed)"
        )
    items, embeddings, keys = stored.items, stored.embeddings, stored.keys
    if config.gallery_domain and any(items.domain):
        kept = items.domain == config.gallery_domain
        items, embeddings, keys = items.select(kept), embeddings[kept], keys[kept]
        _require_offered(items, config, source)
    with changing(folder):
        catalogue = _indexed(config, items, embeddings, model)
        write_catalogue(catalogue, folder, EmbeddingCache(keys, embeddings))
    return len(items)


def exported_model(folder: str) -> Embedder:
    """Return the exported model of a folder that may be remote.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    from trainer.serving.embedder import Embedder

    with local_copy(folder) as copy:
        embedder = Embedder(copy)
        embedder.fingerprint()  # while its files are there
        return embedder


def offered(config: JobConfig, source: str) -> ItemTable:
    """Return the items of a catalogue that can be found, as :func:`index_catalogue` says.

    Raises:
        UserError: there are none.
    """
    items = read_catalogue(source)
    if config.gallery_domain and any(items.domain):
        items = items.select(items.domain == config.gallery_domain)
        _require_offered(items, config, source)
    return items


def _require_offered(items: ItemTable, config: JobConfig, source: str) -> None:
    if not len(items):
        raise UserError(f"{source} has no items of the domain {config.gallery_domain!r}")


def embed_catalogue(
    config: JobConfig,
    embedder: Embedder,
    model: str,
    items: ItemTable,
    cache: EmbeddingCache,
    folder: str | os.PathLike[str],
    tell: Callable[[str], object],
) -> tuple[ItemTable, EmbeddingCache]:
    """Return the items whose pictures can be used, and their keys and embeddings.

    Only pictures that the cache does not know are checked, decoded and embedded.

    Args:
        config: how many pictures may be bad.
        embedder: makes the embeddings.
        model: its fingerprint.
        items: rows to embed.
        cache: what was embedded before.
        folder: of the index; what is bad is named in `FOLDER.bad_images.log`.
        tell: takes a line on how many were embedded.

    Raises:
        UserError: too many pictures are bad.
    """
    from trainer.data.verify import usable

    keys = picture_keys(items, model)
    known = cache.find(keys)
    target = Path(folder)
    good = usable(
        items,
        max_bad_share=config.max_bad_share,
        log_file=str(target.with_name(f"{target.name}.bad_images.log")),
        trusted=known >= 0,
    )
    items, keys, known = items.select(good), keys[good], known[good]
    embeddings = np.empty((len(items), embedder.dim), np.float32)
    embeddings[known >= 0] = cache.embeddings[known[known >= 0]]
    new = np.flatnonzero(known < 0)
    if len(new):
        fresh = items.select(new)
        embeddings[new] = embed_items(embedder, fresh)
        # A file that was written to meanwhile: nobody knows which content was embedded.
        steady = (picture_keys(fresh, model) == keys[new]).all(axis=1)
        keys[new[~steady]] = 0
    if len(new) < len(items):
        tell(f"embedded {len(new)} of {len(items)} pictures, the others were embedded before")
    return items, EmbeddingCache(keys, embeddings)


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
    _draw(found, [item_picture(queries, row) for row in chosen], catalogue, path, config.name)
    return _named(found, catalogue)


def search_images(
    run: RunFolder,
    images: Sequence[str],
    k: int,
    *,
    index_folder: str | None = None,
    model_folder: str | None = None,
    picture: str | None = None,
) -> list[dict[str, Any]]:
    """Find the nearest catalogue items of picture files with a run's model and index.

    Args:
        run: a finished run.
        images: picture files.
        k: neighbours for each.
        index_folder: index to search; default: the run's own.
        model_folder: export of the run's model that the index was built with; default: the run's
            own.
        picture: PNG file to draw queries and neighbours to.

    Returns:
        One row per neighbour: query, rank (from 1), score, id, label, category, domain.

    Raises:
        UserError: no model or index, an index of another model or another export of it, or a file
            that is missing or no picture.
    """
    embedder = exported_model(model_folder or run.file("model"))
    catalogue = load_catalogue(index_folder or run.file("index"))
    check_model(catalogue, embedder, index_folder or run.file("index"))
    found = catalogue.index.search(embedder.embed_files(images), k, list(images))
    if picture is not None:
        _draw(found, [Picture(path) for path in images], catalogue, picture, "search")
    return _named(found, catalogue)


def _indexed(
    config: JobConfig, items: ItemTable, embeddings: np.ndarray, model: str
) -> CatalogueIndex:
    index = config.build("index").build(embeddings, item_ids(items))
    if model:
        index.notes[MODEL] = model
    return CatalogueIndex(index, items)


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
    place = {name: row for row, name in enumerate(catalogue.ids)}
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
    pictures = {name: catalogue.picture(row) for row, name in enumerate(catalogue.ids)}
    contact_sheet(sheet_rows(found, queries, pictures, SHOWN_NEIGHBOURS), path, title=title)

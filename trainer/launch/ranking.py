"""`mildnet rank`: the items of a gallery for each query, as the product recognition challenge asks.

The lists are the challenge's: `queries.csv` with `img_path`, `bbox_x, bbox_y, bbox_w, bbox_h` and,
if known, `product_id`; `gallery.csv` with `img_path` and, if known, `product_id`.
"""

from __future__ import annotations

import dataclasses
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError
from trainer.data.borders import inner_boxes
from trainer.data.files import absolute, is_file, join, require_folder, write_bytes
from trainer.data.readers.items import read_records
from trainer.data.table import ItemTable
from trainer.launch.searching import embed_items
from trainer.retrieval.rerank.neighbours import Neighbours
from trainer.retrieval.rerank.options import METHODS, PostProcessing, rank
from trainer.retrieval.rerank.quality import Quality, quality

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder

#: Items that the challenge asks for.
FIRST = 1000
PICTURE, PRODUCT = "img_path", "product_id"
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True)
class Ranked:
    """What a ranker found.

    Attributes:
        rows: (queries, K) int64, rows of the gallery's list, best first; K is 1,000, or the size
            of a smaller gallery.
        quality: how good they are, where both lists name the products.
    """

    rows: np.ndarray
    quality: Quality | None

    def to_dict(self) -> dict[str, Any]:
        """Return the quality as plain values for JSON, with the shape of the array."""
        found = {} if self.quality is None else dataclasses.asdict(self.quality)
        return {"shape": list(self.rows.shape), **found}


class ProductRanker:
    """Ranks a gallery for queries, as the challenge's rankers do.

    Args:
        dataset_path: folder that `img_path` is relative to.
        gallery_csv_path: list of the gallery.
        queries_csv_path: list of the queries; pictures are cut to their boxes, where there are any.
        model: run folder, or a folder that `mildnet export` wrote.
        k: items for each query, at least 1.
        post: what is done to the embeddings and neighbours; see :data:`METHODS`.
        borders: whether pictures of the gallery that have no box are cut to what is inside their
            white borders, as the dataset `product_challenge` does.

    Raises:
        UserError: a list that is missing or wrong, a box outside of its picture, or no model.
    """

    def __init__(
        self,
        dataset_path: str | os.PathLike[str],
        gallery_csv_path: str | os.PathLike[str],
        queries_csv_path: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str],
        k: int = FIRST,
        post: PostProcessing = METHODS["none"],
        borders: bool = True,
    ) -> None:
        folder = require_folder(os.fspath(dataset_path))
        self.gallery, self._gallery_known = read_list(os.fspath(gallery_csv_path), folder)
        self.queries, self._queries_known = read_list(os.fspath(queries_csv_path), folder)
        for table in (self.queries, self.gallery):
            _check_boxes(table)
        if borders:
            self.gallery = _without_borders(self.gallery)
        self._k, self._post = k, post
        self._embedder = _embedder(os.fspath(model))

    def predict_product_ranks(self) -> np.ndarray:
        """Return (queries, 1000) int64 rows of the gallery, best first, as the challenge asks."""
        return self.rank().rows

    def rank(self) -> Ranked:
        """Embed all pictures and rank them.

        Raises:
            UserError: pictures that are missing or cannot be decoded.
        """
        queries, gallery = (_embedded(self._embedder, t) for t in (self.queries, self.gallery))
        found: Neighbours = rank(queries, gallery, self._k, self._post)
        if not (self._gallery_known and self._queries_known):
            return Ranked(found.rows, None)
        return Ranked(found.rows, quality(found.rows, *map(_names, (self.queries, self.gallery))))


def read_list(path: str, folder: str) -> tuple[ItemTable, bool]:
    """Read a list of the challenge, every row of it: results are numbers of rows.

    Args:
        path: a CSV with `img_path`, and if wanted `product_id` and all four of `bbox_x, bbox_y,
            bbox_w, bbox_h` (pixels; empty for the whole picture). Other columns are ignored.
        folder: what relative paths are relative to.

    Returns:
        The table, and whether it names the products; if not, every picture is one of its own.

    Raises:
        UserError: the file is missing or no CSV, has no `img_path`, or has a row that cannot be
            used.
    """
    source = absolute(path)
    if not is_file(source):
        raise UserError(f"there is no {path}: a CSV with the column {PICTURE} is needed")
    records = read_records(source)
    _, _, header = next(records, (0, 0, []))
    place = {name.strip(): at for at, name in enumerate(header)} if isinstance(header, list) else {}
    if PICTURE not in place:
        raise UserError(f"{path}:1: the header has no column {PICTURE}")
    known, boxed = PRODUCT in place, BOX[0] in place
    if boxed and not set(BOX) <= set(place):
        raise UserError(f"{path}:1: a box needs all of {', '.join(BOX)}")
    paths, products, boxes = [], [], []
    for line, _, record in records:
        if isinstance(record, str) or len(record) != len(header):
            raise UserError(f"{path}:{line}: not as many fields as the header has")
        values = {name: record[at].strip() for name, at in place.items()}
        if not values[PICTURE]:
            raise UserError(f"{path}:{line}: no {PICTURE}")
        paths.append(join(folder, values[PICTURE]))
        products.append(values[PRODUCT] if known else str(line))
        boxes.append(_box(path, line, [values[name] for name in BOX] if boxed else [""] * 4))
    if not paths:
        raise UserError(f"{path} has no rows")
    return ItemTable.from_columns(paths, products, box=boxes), known


def write_ranks(path: str | os.PathLike[str], rows: np.ndarray) -> None:
    """Write an array as an .npy file, whole or not at all."""
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    write_bytes(os.fspath(path), content.getbuffer())


def _box(path: str, line: int, sides: list[str]) -> list[float]:
    if not any(sides):
        return [float("nan")] * 4
    try:
        box = [float(side) for side in sides]
    except ValueError:
        box = []
    if not (np.isfinite(box).all() and box and min(box[2:]) > 0):
        raise UserError(
            f"{path}:{line}: the box {', '.join(sides)} is not four numbers, the last two above 0"
        )
    return box


def _check_boxes(items: ItemTable) -> None:
    """Refuse a box that reaches out of its picture: what it would be cut to is not what was meant.

    Raises:
        UserError: there is one, or a picture with a box cannot be opened.
    """
    from trainer.data.verify import usable

    boxed = items.select(np.isfinite(items.box[:, 0]))
    if len(boxed):
        usable(boxed, mode="header", max_bad_share=0.0)


def _without_borders(items: ItemTable) -> ItemTable:
    whole = np.isnan(items.box[:, 0])
    box = items.box.copy()
    box[whole] = inner_boxes(items.path[whole].tolist())
    return dataclasses.replace(items, box=box)


def _embedder(model: str) -> Embedder:
    from trainer.launch.run_folder import RunFolder
    from trainer.serving.embedder import Embedder

    run = RunFolder(model)
    return Embedder(run.file("model") if run.exists("config.json") else model)


def _embedded(embedder: Embedder, items: ItemTable) -> np.ndarray:
    """Return the embeddings of a list, (N, D) float32.

    Raises:
        UserError: pictures that cannot be used; the first is named.
    """
    import tensorflow as tf

    from trainer.data.verify import usable

    try:
        return embed_items(embedder, items)
    except tf.errors.OpError:
        # Only now that one is bad, all are looked at for it: who has good ones should not wait.
        usable(items, max_bad_share=0.0)
        raise


def _names(items: ItemTable) -> np.ndarray:
    return np.array(items.label_names, str)[items.label]

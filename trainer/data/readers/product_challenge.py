"""`dataset="product_challenge"`: the development set of the product recognition challenge 2023."""

from __future__ import annotations

import numpy as np

from trainer.config import register
from trainer.data import files
from trainer.data.borders import inner_boxes
from trainer.data.readers.items import box_fault
from trainer.data.readers.published import Listing, pictures_folder, published_root, read_columns
from trainer.data.table import ItemTable

COLUMNS = ("img_path", "product_id")
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
QUERIES, GALLERY = "queries.csv", "gallery.csv"


@register("dataset", "product_challenge")
def product_challenge(
    data_path: str, *, boxes: bool = True, borders: bool = True, tolerance: int = 10
) -> ItemTable:
    """Development set of the Visual Product Recognition Challenge 2023: user and shop photographs.

    `queries.csv` (img_path, product_id, bbox_x, bbox_y, bbox_w, bbox_h) and `gallery.csv`
    (img_path, product_id) are the split `test`, with the domains `query` and `gallery` (set
    `query_domain=query` and `gallery_domain=gallery`). Pictures of the gallery are cut to what is
    inside their white borders: boxes found from the pixels.

    Args:
        data_path: folder `development_test_data` with both lists and the folders `queries` and
            `gallery`, or the one that holds it.
        boxes: whether queries are cut to the boxes of their list, default true.
        borders: whether white borders of the gallery are cut off, default true.
        tolerance: how far below 255 white may be, 0 to 254, default 10, which JPEG needs; 0 cuts
            what is exactly white, as the solution of 2023 does. It counts where `borders` is true.

    Raises:
        UserError: a folder, a list, or all pictures of one are missing, or a list has no row that
            can be used.
        ValueError: `tolerance` is out of range.
    """
    if not 0 <= tolerance <= 254:
        raise ValueError(f"tolerance is {tolerance}, allowed is 0 to 254")
    needed = (QUERIES, GALLERY, "queries", "gallery")
    root = published_root(data_path, "development_test_data", needed)
    queries = _read_queries(files.join(root, QUERIES), boxes)
    gallery = read_columns(files.join(root, GALLERY), COLUMNS, picture=COLUMNS[:1])
    asked, shown = (_paths(root, listing) for listing in (queries, gallery))
    box = np.full((len(asked) + len(shown), 4), np.nan, np.float32)
    if boxes:
        box[: len(asked)] = [[float(side) for side in row[2:]] for row in queries.rows]
    if borders:
        box[len(asked) :] = inner_boxes(shown, tolerance=tolerance)
    return ItemTable.from_columns(
        asked + shown,
        [row[1] for row in queries.rows + gallery.rows],
        split=["test"] * len(box),
        domain=["query"] * len(asked) + ["gallery"] * len(shown),
        box=box,
        problems=queries.problems + gallery.problems,
    )


def _read_queries(path: str, boxes: bool) -> Listing:
    if not boxes:
        return read_columns(path, COLUMNS, picture=COLUMNS)
    return read_columns(
        path,
        COLUMNS + BOX,
        picture=(COLUMNS[0], *BOX),
        fault=lambda values: box_fault([values[side] for side in BOX]),
    )


def _paths(root: str, listing: Listing) -> list[str]:
    """Return where the pictures of a list are; its paths are relative to the data set's folder."""
    names = [row[0] for row in listing.rows]
    folder = pictures_folder(
        root, names, ("",), "unpack the pictures of the development set where its lists are"
    )
    return [files.join(folder, name) for name in names]

"""`dataset="amazon_reviews"`: products with pictures from Amazon's reviews, as a CSV lists them."""

from __future__ import annotations

import logging
from collections import Counter

from trainer.config import UserError, register
from trainer.data import files
from trainer.data.readers.published import (
    class_splits,
    pictures_folder,
    published_root,
    read_columns,
)
from trainer.data.table import ItemTable

log = logging.getLogger(__name__)

COLUMNS = ("image_path", "label")
PICTURES = "images_mean_50k"


@register("dataset", "amazon_reviews")
def amazon_reviews(
    data_path: str,
    *,
    file: str = "amazon_review_mean_06_full_images.csv",
    images: str = "",
    min_images: int = 1,
    val: float = 0,
    val_seed: int = 0,
) -> ItemTable:
    """Products with pictures from Amazon's reviews: a CSV with the columns image_path and label.

    All rows are to train on, but for products that are held out for validation. A picture of
    several products counts for the first that lists it: as a picture of each it would teach that
    they are unlike.

    Args:
        data_path: folder `Amazon-review` of the product recognition solution of 2023 (or the one
            that holds it), or any folder with such a CSV.
        file: name of the CSV below it; default `amazon_review_mean_06_full_images.csv`, the
            published set of pictures whose mean similarity to their product's is above 0.6.
        images: folder below it that the paths in the CSV are relative to; default: the folder
            itself or `images_mean_50k` in it, wherever the pictures are.
        min_images: products with fewer pictures are left out; 1 or more, default 1.
        val: share (below 1) or number of the products that are held out for validation; default
            0, none.
        val_seed: decides which products.

    Raises:
        UserError: the folder, the CSV or all pictures are missing, or no row can be used.
        ValueError: `min_images` is below 1, or `val` leaves nothing to train on.
    """
    if min_images < 1:
        raise ValueError(f"min_images is {min_images}: 1 or more")
    advice = (
        "give the folder with the CSV, or name the CSV with dataset.file; the published ones are "
        "in the repository of the product recognition solution of 2023, in its folder dataset"
    )
    root = published_root(data_path, "Amazon-review", (file,), advice)
    listing = read_columns(files.join(root, file), COLUMNS, picture=COLUMNS)
    first: dict[str, str] = {}
    for path, label in listing.rows:
        first.setdefault(path, label)
    shared = len(listing.rows) - len(first)
    if shared:
        log.info("%s: %d rows are of pictures that an earlier product has", listing.path, shared)
    folder = pictures_folder(
        root,
        list(first),
        (images,) if images else ("", PICTURES),
        f"join images_mean_50k_800.parta* to images_mean_50k_800.tar and unpack it in {root}, or "
        "set dataset.images",
    )
    count = Counter(first.values())
    rows = [row for row in first.items() if count[row[1]] >= min_images]
    if not rows:
        raise UserError(
            f"{listing.path}: no product has min_images={min_images} pictures; the most are "
            f"{max(count.values())}"
        )
    few = sum(number < min_images for number in count.values())
    if few:
        log.info("%s: %d products have fewer than %d pictures", listing.path, few, min_images)
    labels = [label for _, label in rows]
    return ItemTable.from_columns(
        [files.join(folder, path) for path, _ in rows],
        labels,
        split=class_splits(labels, [True] * len(rows), val, val_seed),
        problems=listing.problems,
    )

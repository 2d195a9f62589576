"""`dataset="product10k"`: Products-10K, as published."""

from __future__ import annotations

from typing import Literal

from trainer.config import register
from trainer.data import files
from trainer.data.readers.published import class_splits, published_root, read_columns
from trainer.data.table import ItemTable

TRAIN, TEST = "train.csv", "test_kaggletest.csv"


@register("dataset", "product10k")
def product10k(
    data_path: str,
    *,
    test: Literal["test", "val", "train", "none"] = "test",
    classes: int = 0,
    val: float = 0,
    val_seed: int = 0,
) -> ItemTable:
    """Products-10K: pictures of some ten thousand products as an online shop sells them.

    `train.csv` (name, class, group) lists the pictures in `train`, `test_kaggletest.csv` (name,
    class; others are not looked at) those in `test`, which are of the same products. The group of
    a product is the category, in both.

    Args:
        data_path: folder `Product10K` with both lists and both folders, or the one that holds it.
        test: what the pictures of `test` are for: the split `test` (default) or `val`, or to
            `train` on too, as the product recognition solution of 2023 does; `none` leaves them
            out, and neither list nor folder is needed.
        classes: how many products to train on, those of the lowest numbers; 0, default, for all.
            (That solution's `num_of_classes` is the width of its classifier; here losses count
            the products by themselves.)
        val: share (below 1) or number of the training products whose training pictures are held
            out for validation; default 0, none.
        val_seed: decides which products.

    Raises:
        UserError: a folder or a list is missing, or a list has no row that can be used.
        ValueError: `classes` is negative, or `val` leaves nothing to train on.

    Bai et al.: Products-10K: a large-scale product recognition dataset, 2020, arXiv 2008.10545.
    """
    if classes < 0:
        raise ValueError(f"classes is {classes}: a number of products, or 0 for all")
    needed = (TRAIN, "train") if test == "none" else (TRAIN, "train", TEST, "test")
    root = published_root(data_path, "Product10K", needed)
    train = read_columns(
        files.join(root, TRAIN), ("name", "class"), optional=("group",), picture=("name",)
    )
    group = {label: name for _, label, name in train.rows if name}
    rows = [(f"train/{name}", label, True) for name, label, _ in train.rows]
    problems = list(train.problems)
    if test != "none":
        tested = read_columns(files.join(root, TEST), ("name", "class"), picture=("name",))
        rows += [(f"test/{name}", label, test == "train") for name, label in tested.rows]
        problems += tested.problems
    if classes:
        # Shorter numbers first: they are written without zeros in front.
        known = sorted(
            {label for _, label, here in rows if here}, key=lambda text: (len(text), text)
        )
        chosen = set(known[:classes])
        rows = [row for row in rows if not row[2] or row[1] in chosen]
    labels = [label for _, label, _ in rows]
    splits = class_splits(labels, [here for _, _, here in rows], val, val_seed)
    return ItemTable.from_columns(
        [files.join(root, path) for path, _, _ in rows],
        labels,
        split=[test if split == "test" else split for split in splits],
        category=[group.get(label, "") for label in labels],
        problems=problems,
    )

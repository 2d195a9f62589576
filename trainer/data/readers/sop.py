"""`dataset="sop"`: Stanford Online Products, as published."""

from __future__ import annotations

from trainer.config import register
from trainer.data import files
from trainer.data.readers.published import class_splits, published_root, read_listing
from trainer.data.table import ItemTable

TRAIN, TEST = "Ebay_train.txt", "Ebay_test.txt"


@register("dataset", "sop")
def sop(data_path: str, *, val: float = 2318, val_seed: int = 0) -> ItemTable:
    """Stanford Online Products: 120,053 pictures of 22,634 products that were sold on eBay.

    `Ebay_train.txt` gives the splits `train` and `val`, which share no product, `Ebay_test.txt`
    the split `test` with products of its own. The super class (bicycle, chair, ...) is the
    category.

    Args:
        data_path: folder `Stanford_Online_Products`, or the one that holds it.
        val: share (below 1) or number of the 11,318 training products that are held out for
            validation, 0 for none; default 2318, as in image retrieval with Swin V2.
        val_seed: decides which products.

    Raises:
        UserError: a folder or a list is missing, or a list has no row that can be used.
        ValueError: `val` leaves nothing to train on.

    Song et al.: Deep metric learning via lifted structured feature embedding, 2016, arXiv
    1511.06452.
    """
    root = published_root(data_path, "Stanford_Online_Products", (TRAIN, TEST))
    train = read_listing(files.join(root, TRAIN), 4, header=1)
    test = read_listing(files.join(root, TEST), 4, header=1)
    rows = train.rows + test.rows
    labels = [row[1] for row in rows]
    in_train = [True] * len(train.rows) + [False] * len(test.rows)
    return ItemTable.from_columns(
        [files.join(root, row[3]) for row in rows],
        labels,
        split=class_splits(labels, in_train, val, val_seed),
        category=[row[3].split("/")[0].removesuffix("_final") for row in rows],
        problems=train.problems + test.problems,
    )

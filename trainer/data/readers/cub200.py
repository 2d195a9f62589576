"""`dataset="cub200"`: Caltech-UCSD Birds 200-2011, as published."""

from __future__ import annotations

from typing import Literal

from trainer.config import UserError, register
from trainer.data import files
from trainer.data.readers.published import (
    boxes_of,
    class_splits,
    published_root,
    read_boxes,
    read_listing,
)
from trainer.data.table import ItemTable

PICTURES, LABELS, SPLIT = "images.txt", "image_class_labels.txt", "train_test_split.txt"
CLASSES, BOXES = "classes.txt", "bounding_boxes.txt"


@register("dataset", "cub200")
def cub200(
    data_path: str,
    *,
    split: Literal["classes", "published"] = "classes",
    val: float = 0,
    val_seed: int = 0,
    boxes: bool = False,
) -> ItemTable:
    """Caltech-UCSD Birds 200-2011: 11,788 pictures of 200 kinds of birds.

    Args:
        data_path: folder `CUB_200_2011`, or the one that holds it.
        split: `classes` trains on the first half of the classes (100) and tests on the others, as
            papers on retrieval do; `published` takes `train_test_split.txt`, whose two parts have
            the same classes.
        val: share (below 1) or number of the training classes that are held out for validation;
            default 0, none.
        val_seed: decides which classes.
        boxes: whether pictures are cut to the boxes of `bounding_boxes.txt`, default false.

    Raises:
        UserError: a folder or a list is missing, a list has no row that can be used, or the lists
            speak of different pictures.
        ValueError: `val` leaves nothing to train on.

    Wah et al.: The Caltech-UCSD Birds-200-2011 dataset, 2011.
    """
    needed = [PICTURES, LABELS, CLASSES, "images"]
    needed += [SPLIT] if split == "published" else []
    needed += [BOXES] if boxes else []
    root = published_root(data_path, "CUB_200_2011", needed)
    pictures = dict(read_listing(files.join(root, PICTURES), 2, header=0).rows)
    names = dict(read_listing(files.join(root, CLASSES), 2, header=0).rows)
    classes = _column(root, LABELS, pictures)
    half = sorted(names, key=int)[: len(names) // 2]
    if split == "published":
        in_train = {key: value == "1" for key, value in _column(root, SPLIT, pictures).items()}
    else:
        in_train = {key: value in half for key, value in classes.items()}
    splits = class_splits(
        [classes[key] for key in pictures], [in_train[key] for key in pictures], val, val_seed
    )
    found = {}
    if boxes:
        found = read_boxes(files.join(root, BOXES), 5, header=0, corners=False)
    return ItemTable.from_columns(
        [files.join(root, f"images/{name}") for name in pictures.values()],
        [names.get(classes[key], classes[key]) for key in pictures],
        split=splits,
        box=boxes_of(pictures, found),
    )


def _column(root: str, name: str, pictures: dict[str, str]) -> dict[str, str]:
    """Return picture number -> value, for every picture.

    Raises:
        UserError: a picture has none.
    """
    path = files.join(root, name)
    values = dict(read_listing(path, 2, header=0).rows)
    lost = [number for number in pictures if number not in values]
    if lost:
        raise UserError(f"{path} says nothing of picture {lost[0]} ({pictures[lost[0]]})")
    return values

"""`dataset="inshop"` and `dataset="consumer2shop"`: DeepFashion's two retrieval benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trainer.config import register
from trainer.data import files
from trainer.data.readers.published import (
    boxes_of,
    first_there,
    held_out,
    published_root,
    read_boxes,
    read_listing,
)
from trainer.data.table import ItemTable

PARTITION = "list_eval_partition.txt"


@register("dataset", "inshop")
def inshop(
    data_path: str, *, val: float = 0.1, val_seed: int = 0, boxes: bool = False
) -> ItemTable:
    """DeepFashion In-Shop: 52,712 shop pictures of 7,982 garments, queries and gallery apart.

    The published queries and gallery are the split `test`, with the domains `query` and `gallery`
    (set `query_domain=query` and `gallery_domain=gallery`). Of each garment that is held out for
    validation the first picture is a query. The kind of garment (WOMEN/Dresses) is the category.

    Args:
        data_path: folder that holds `Eval/list_eval_partition.txt` and `Img/img`, as the archive
            `In-shop Clothes Retrieval Benchmark` has them, or both lists and `img` directly.
        val: share (below 1) or number of the 3,997 training garments that are held out for
            validation, 0 for none; default 0.1.
        val_seed: decides which garments.
        boxes: whether pictures are cut to the boxes of `list_bbox_inshop.txt`, default false.

    Raises:
        UserError: a folder or a list is missing, or a list has no row that can be used.
        ValueError: `val` leaves nothing to train on.

    Liu et al.: DeepFashion, CVPR 2016.
    """
    place = _Place.of(data_path, "In-shop Clothes Retrieval Benchmark")
    listing = read_listing(place.partition, 3, header=2)
    kept_apart = held_out(
        (label for _, label, part in listing.rows if part == "train"), val, val_seed
    )
    seen: set[str] = set()
    names, labels, splits, domains, problems = [], [], [], [], list(listing.problems)
    for name, label, part in listing.rows:
        if part not in ("train", "query", "gallery"):
            problems.append(f"{listing.path}: {name}: {part!r} is not train, query or gallery")
            continue
        split, domain = ("train", "") if part == "train" else ("test", part)
        if part == "train" and label in kept_apart:
            split, domain = "val", "gallery" if label in seen else "query"
            seen.add(label)
        names.append(name)
        labels.append(label)
        splits.append(split)
        domains.append(domain)
    return ItemTable.from_columns(
        [files.join(place.pictures, name) for name in names],
        labels,
        split=splits,
        domain=domains,
        category=map(_category, names),
        box=place.boxes("list_bbox_inshop.txt", names) if boxes else None,
        problems=problems,
    )


@register("dataset", "consumer2shop")
def consumer2shop(data_path: str, *, boxes: bool = False) -> ItemTable:
    """DeepFashion Consumer-to-Shop: 239,557 pictures of 33,881 garments, by customers and by shops.

    The published pairs give the splits `train`, `val` and `test` and the domains `street` and
    `shop` (set `query_domain=street` and `gallery_domain=shop`). A picture that is in several
    pairs comes once. The kind of garment (CLOTHING/Blouse) is the category.

    Args:
        data_path: folder that holds `Eval/list_eval_partition.txt` and `Img/img`, as the archive
            `Consumer-to-shop Clothes Retrieval Benchmark` has them, or both directly.
        boxes: whether pictures are cut to the boxes of `list_bbox_consumer2shop.txt`, default
            false.

    Raises:
        UserError: a folder or a list is missing, or a list has no row that can be used.

    Liu et al.: DeepFashion, CVPR 2016.
    """
    place = _Place.of(data_path, "Consumer-to-shop Clothes Retrieval Benchmark")
    listing = read_listing(place.partition, 4, header=2)
    rows: dict[str, tuple[str, str, str]] = {}
    problems = list(listing.problems)
    for street, shop, label, split in listing.rows:
        if split not in ("train", "val", "test"):
            problems.append(f"{listing.path}: {street}: {split!r} is not train, val or test")
            continue
        for name, domain in ((street, "street"), (shop, "shop")):
            if rows.setdefault(name, (label, split, domain)) != (label, split, domain):
                problems.append(f"{listing.path}: {name} comes as two different things")
    return ItemTable.from_columns(
        [files.join(place.pictures, name) for name in rows],
        [label for label, _, _ in rows.values()],
        split=[split for _, split, _ in rows.values()],
        domain=[domain for _, _, domain in rows.values()],
        category=map(_category, rows),
        box=place.boxes("list_bbox_consumer2shop.txt", rows) if boxes else None,
        problems=problems,
    )


@dataclass(frozen=True)
class _Place:
    """Where the parts of a benchmark lie."""

    root: str
    partition: str
    #: Folder that the `img/...` of the lists is relative to.
    pictures: str

    @classmethod
    def of(cls, data_path: str, archive: str) -> _Place:
        needed = (f"Eval/{PARTITION}|{PARTITION}", "Img/img|img")
        root = published_root(data_path, archive, needed)
        pictures = first_there(root, "Img/img", "img").removesuffix("/img")
        return cls(root, first_there(root, f"Eval/{PARTITION}", PARTITION), pictures)

    def boxes(self, name: str, pictures: Iterable[str]) -> np.ndarray:
        return boxes_of(pictures, read_boxes(first_there(self.root, f"Anno/{name}", name), 7))


def _category(name: str) -> str:
    """Return `WOMEN/Dresses` of `img/WOMEN/Dresses/id_00000002/02_1_front.jpg`."""
    return "/".join(name.split("/")[1:-2])

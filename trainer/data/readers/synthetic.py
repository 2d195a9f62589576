"""`dataset="synthetic"`: a catalogue of generated product pictures, written as JPEG files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trainer.config import UserError, register
from trainer.data import files
from trainer.data.progress import bar
from trainer.data.readers.items import read_items
from trainer.data.table import ItemTable

log = logging.getLogger(__name__)

#: Raise it with every change to the drawing, so that pictures of an older one are not taken up.
VERSION = 2


@register("dataset", "synthetic")
def synthetic(
    data_path: str,
    *,
    classes: int = 120,
    views: int = 12,
    size: int = 128,
    street: float = 0.5,
    val: float = 0.15,
    test: float = 0.35,
    boxes: bool = False,
    seed: int = 0,
) -> ItemTable:
    """Generated product pictures: many products, several photographs each, from shop and street.

    Products differ in silhouette, colours, pattern and print; always four share category and
    colours, so that colour alone does not tell them apart. Photographs of the domain `shop` show
    the product on paper in even light; those of `street` turn, tilt and half hide it in clutter
    and coloured light, blurred and noisy. Each product is in one split only. The same parameters
    give the same files; they are made once and taken up again, or not there at all.

    Args:
        data_path: folder below which `synthetic-...` is made; if it is empty, a URL, or cannot be
            written, the cache folder ($MILDNET_CACHE or ~/.cache/mildnet) takes its place.
        classes: products, default 120.
        views: photographs of each, default 12.
        size: side of a photograph in pixels, 16 to 4096, default 128.
        street: share of a product's photographs that is taken on the street, 0 to 1, default 0.5.
        val: share of the products in the split `val`, default 0.15.
        test: share of the products in the split `test`, default 0.35; the others are in `train`.
        boxes: whether the table gives the product's box in each photograph, default false.
        seed: 0 or more; another seed gives another catalogue.

    Raises:
        ValueError: a parameter is out of range, or a split with a share gets no product.
        UserError: no place to write to, or the disk is full.
    """
    _check(classes, views, size, street, val, test, seed)
    arguments = {
        "classes": classes, "views": views, "size": size, "street": street, "val": val,
        "test": test, "seed": seed, "version": VERSION,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:16]
    folder = _place(data_path) / f"synthetic-{digest}"
    if not (folder / "items.csv").is_file():
        log.info("drawing %d pictures into %s", classes * views, folder)
        try:
            with files.whole_folder(folder) as partial:
                _draw(
                    partial, classes, views, size, street, _splits(classes, val, test, seed), seed
                )
                (partial / "parameters.json").write_text(json.dumps(arguments, indent=1) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write the generated catalogue to {folder}: {files.reason(error)}"
            ) from None
    table = read_items(str(folder / "items.csv"))
    if boxes:
        return table
    return dataclasses.replace(table, box=np.full_like(table.box, np.nan))


def _check(
    classes: int, views: int, size: int, street: float, val: float, test: float, seed: int
) -> None:
    for name, value, low, high in (
        ("classes", classes, 1, 1_000_000),
        ("views", views, 1, 100_000),
        ("size", size, 16, 4096),
        ("street", street, 0, 1),
        ("val", val, 0, 1),
        ("test", test, 0, 1),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, allowed is {low} to {high}")
    if val + test > 1:
        raise ValueError(f"val + test is {val + test:g}, allowed is up to 1")
    train, some_val, some_test = _counts(classes, val, test)
    for name, share, count in (
        ("val", val, some_val), ("test", test, some_test), ("train", 1 - val - test, train)
    ):  # fmt: skip
        if share > 1e-9 and not count:
            raise ValueError(f"{classes} classes leave none for {name}: raise classes")


def _counts(classes: int, val: float, test: float) -> tuple[int, int, int]:
    in_val, in_test = round(classes * val), round(classes * test)
    return classes - in_val - in_test, in_val, in_test


def _splits(classes: int, val: float, test: float, seed: int) -> list[str]:
    """Return the split of each product."""
    counts = _counts(classes, val, test)
    names = np.repeat(np.array(["train", "val", "test"], object), counts)
    return list(np.random.default_rng([seed, 0]).permutation(names))


def _place(data_path: str) -> Path:
    """Return the folder that can be written and holds generated catalogues."""
    if data_path and not files.is_remote(data_path):
        wanted = Path(files.absolute(data_path))
        nearest = wanted
        while not nearest.exists():
            nearest = nearest.parent
        if nearest.is_dir() and os.access(nearest, os.W_OK):
            return wanted
        log.warning("%s cannot be written, the cache folder is used", wanted)
    return files.cache_folder()


def _draw(
    folder: Path, classes: int, views: int, size: int, street: float, splits: list[str], seed: int
) -> None:
    from trainer.data.generated.products import product
    from trainer.data.generated.scenes import photograph

    (folder / "images").mkdir()
    in_street = round(views * street)

    def one_class(number: int) -> list[dict[str, object]]:
        # Every picture has random numbers of its own: who draws it, and when, changes nothing.
        drawn = product(number, seed, max(96, size * 3 // 2))
        rows = []
        for view in range(views):
            domain = "street" if view >= views - in_street else "shop"
            photo = photograph(
                drawn.picture, domain, np.random.default_rng([seed, 4, number, view]), size
            )
            name = f"images/{number:05d}-{view:03d}.jpg"
            (folder / name).write_bytes(photo.jpeg)
            rows.append(
                {
                    "path": str(folder / name),
                    "label": f"{drawn.category}-{number:05d}",
                    "split": splits[number],
                    "domain": domain,
                    "category": drawn.category,
                    **dict(zip("xywh", photo.box, strict=True)),
                }
            )
        return rows

    # Threads do: Pillow and numpy work outside the interpreter lock, and no process has to start.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        rows: list[dict[str, object]] = []
        try:
            with bar("drawing pictures", classes * views) as advance:
                for drawn in pool.map(one_class, range(classes)):
                    rows += drawn
                    advance(views)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    ItemTable.from_rows(rows).to_csv(folder / "items.csv")

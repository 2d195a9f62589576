"""`dataset="triplets"`: MILDNet's lists of anchor, positive and negative pictures."""

from __future__ import annotations

import logging

import numpy as np

from trainer.config import UserError, register
from trainer.data import archives, files
from trainer.data.readers.items import read_records
from trainer.data.table import ItemTable

log = logging.getLogger(__name__)

#: Where MILDNet keeps its pictures below the data path.
DEFAULT_IMAGES = "tops.zip"


@register("dataset", "triplets")
def triplets(
    data_path: str,
    *,
    train_csv: str,
    val_csv: str = "",
    images: str = "",
    domains: tuple[str, ...] = (),
) -> ItemTable:
    """Explicit triplets: CSVs without a header, each row anchor, positive and negative picture.

    The table has a row for every picture of a split, in the order of their first mention, and
    `triplets` in the order of the files. Labels are made from the pairs: two pictures of a split
    share a label if a chain of (anchor, positive) pairs joins them, and the label is called after
    the split and the first picture of the chain. Rows that cannot be used or name a file that is
    not there are kept in `problems` of the table.

    Args:
        data_path: folder or URL that holds the files.
        train_csv: triplets of the split `train`, below the data path.
        val_csv: triplets of the split `val`, default none.
        images: folder or zip file with the pictures, below the data path; file names in the CSVs
            are relative to it, or to the one folder in it. Default `tops.zip` or `tops` if there,
            else the data path itself. A zip file is unpacked once, beside it or, if that cannot
            be written, into the cache folder ($MILDNET_CACHE or ~/.cache/mildnet).
        domains: two names, such as `street, shop` for lists like Street2Shop's: the domain of
            pictures that are only anchors, and of those that are offered as positive or negative.
            With `query_domain=street` and `gallery_domain=shop` a job then searches the one with
            the other. Default: no domains.

    Raises:
        ValueError: `domains` are not two different names.
        UserError: a folder or file is missing, the zip file is unsafe or damaged, or a CSV has no
            row that can be used.
    """
    if domains and (len(domains) != 2 or len(set(domains)) != 2 or not all(domains)):
        raise ValueError(f"domains must be two names, of anchors and of the others, not {domains}")
    root = files.require_folder(data_path)
    lists = {"train": train_csv, "val": val_csv}
    sources = {split: files.join(root, name) for split, name in lists.items() if name}
    for split, path in sources.items():
        if not files.is_file(path):
            raise UserError(
                f"there is no {path}: {split}_csv names the list of triplets below the data path"
            )
    folder = _images(root, images)
    present = {
        f"{place}/{name}" if place else name
        for place, names in files.walk(folder)
        for name in names
    }

    paths: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    rows: list[np.ndarray] = []
    problems: list[str] = []
    for split, source in sources.items():
        names, indices, faults = _read(source, folder, present)
        rows.append(indices + len(paths))
        paths += [files.join(folder, name) for name in names]
        splits += [split] * len(names)
        groups = _joined(len(names), indices[:, :2])
        labels += [f"{split}:{names[first]}" for first in groups]
        problems += faults
        log.info(
            "%s: %d triplets of %d pictures in %d groups",
            source, len(indices), len(names), len(set(groups)),
        )  # fmt: skip
    found = np.concatenate(rows)
    domain = None
    if domains:
        offered = np.zeros(len(paths), bool)
        offered[found[:, 1:]] = True
        domain = np.where(offered, domains[1], domains[0])
    return ItemTable.from_columns(
        paths, labels, split=splits, domain=domain, triplets=found, problems=problems
    )


def _images(root: str, images: str) -> str:
    """Return the folder with the pictures, unpacked if need be."""
    path = files.join(root, images or DEFAULT_IMAGES)
    folder = path[: -len(".zip")] if path.lower().endswith(".zip") else path
    if path != folder and files.is_file(path):
        return archives.unpacked(path)
    if files.is_folder(folder):
        return folder
    if images:
        raise UserError(f"there is no {path}: dataset.images names a folder or a zip file")
    return root


def _read(source: str, folder: str, present: set[str]) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the names of a list in the order of first mention, its triplets, and its faults."""
    inner = _inner(present)
    row_of: dict[str, int] = {}
    found: list[list[int]] = []
    problems: list[str] = []
    for first, last, record in read_records(source):
        fault = record if isinstance(record, str) else ""
        names: list[str] = []
        if isinstance(record, list):
            names = [field.strip() for field in record]
            fault = _fault(names)
        if not fault:
            names = [name if name in present else inner + name for name in names]
            lost = [name for name in names if name not in present]
            if lost:
                fault = f"there is no picture {lost[0].removeprefix(inner)} in {folder}"
        if fault:
            problems += [f"{source}:{line}: {fault}" for line in range(first, last + 1)]
            continue
        found.append([row_of.setdefault(name, len(row_of)) for name in names])
    if not found:
        example = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{source} holds no triplet that can be used{example}")
    return list(row_of), np.array(found, np.int64), problems


def _fault(names: list[str]) -> str:
    if len(names) != 3:
        return f"{len(names)} fields, a triplet has 3: anchor, positive, negative"
    if not all(names):
        return "an empty file name"
    if names[2] in names[:2]:
        return "the negative is also the anchor or the positive"
    return ""


def _inner(present: set[str]) -> str:
    """Return `tops/` if all pictures lie in a folder tops, as in an archive of that folder."""
    top = {name.split("/", 1)[0] for name in present}
    nested = all("/" in name for name in present)
    return f"{top.pop()}/" if len(top) == 1 and nested else ""


def _joined(count: int, pairs: np.ndarray) -> list[int]:
    """Return for each of `count` items the smallest item that a chain of pairs joins it to."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for one, other in pairs.tolist():
        one, other = root(one), root(other)
        parent[max(one, other)] = min(one, other)
    return [root(item) for item in range(count)]

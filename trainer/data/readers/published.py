"""What the readers of published data sets share: their lists, their boxes, held-out classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.config import UserError
from trainer.data import files
from trainer.data.readers.items import fields_of, read_records, text_fault

log = logging.getLogger(__name__)

#: Pictures of a list that are looked for, to learn which folder its paths are relative to.
LOOKED_FOR = 20
#: Endings of what published data sets are packed in.
ARCHIVES = (".zip", ".tgz", ".tar.gz", ".tar")


@dataclass
class Listing:
    """The rows of a published list, and what could not be read of it."""

    path: str
    rows: list[list[str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def published_root(
    data_path: str,
    folder: str,
    needed: Sequence[str],
    advice: str = "give the folder that its archive unpacks to",
) -> str:
    """Return the folder that holds a published data set: `data_path`, or `folder` in it.

    Args:
        data_path: what the user gave.
        folder: name that the published archive unpacks to.
        needed: files and folders of it; `a|b` where either will do.
        advice: what the message says to do where nothing is there to be unpacked.

    Raises:
        UserError: no such folder, or something of it is missing; the message says what.
    """
    root = files.require_folder(data_path)
    inner = files.join(root, folder)
    if not missing(root, needed):
        return root
    place = inner if files.is_folder(inner) else root
    lost = missing(place, needed)
    if lost:
        names = [folder, *(name for either in lost for name in either.split("|"))]
        packed = (files.join(place, name + ending) for name in names for ending in ARCHIVES)
        archive = next(filter(files.is_file, packed), None)
        raise UserError(
            f"{place} lacks {', '.join(' or '.join(either.split('|')) for either in lost)} of "
            f"{folder}: {advice if archive is None else f'unpack {archive}'}"
        )
    return place


def missing(root: str, needed: Sequence[str]) -> list[str]:
    """Return what a folder lacks of `needed`, which is as in :func:`published_root`."""
    return [
        names
        for names in needed
        if not any(_is_there(files.join(root, name)) for name in names.split("|"))
    ]


def _is_there(path: str) -> bool:
    return files.is_file(path) or files.is_folder(path)


def first_there(root: str, *names: str) -> str:
    """Return the path of the first of `names` that is in `root`, of the last if none is."""
    paths = [files.join(root, name) for name in names]
    return next((path for path in paths if _is_there(path)), paths[-1])


def read_listing(path: str, fields: int, *, header: int) -> Listing:
    """Read a list of fields between blanks.

    Args:
        path: the text file.
        fields: how many a row has.
        header: lines at the top that are no rows.

    Raises:
        UserError: the file is missing, no text, or has no row that can be used.
    """
    listing = Listing(path)
    for number, line in enumerate(files.read_text(path).splitlines(), start=1):
        row = line.split()
        if number <= header or not row:
            continue
        if len(row) != fields:
            listing.problems.append(f"{path}:{number}: {len(row)} fields, a row has {fields}")
        else:
            listing.rows.append(row)
    if not listing.rows:
        raise UserError(f"{path} holds no row of {fields} fields: it is not the published list")
    return listing


def read_columns(
    path: str,
    columns: Sequence[str],
    *,
    picture: Sequence[str],
    optional: Sequence[str] = (),
    fault: Callable[[Mapping[str, str]], str] = lambda values: "",
) -> Listing:
    """Read columns of a CSV by the names in its header.

    Args:
        path: the CSV file.
        columns: names of those that every row has a value of.
        picture: columns that together name a picture: a row with those of an earlier one is a
            problem.
        optional: names of those that may be empty, or missing altogether.
        fault: says what else is wrong with a row, or `''`.

    Returns:
        Rows of a text for each of `columns`, then for each of `optional`.

    Raises:
        UserError: the file is missing or no text, lacks one of `columns`, or has no row that can
            be used.
    """
    records = read_records(path)
    _, _, header = next(records, (0, 0, ""))
    names = [name.strip().lower() for name in header] if isinstance(header, list) else []
    lost = [name for name in columns if name not in names]
    if lost:
        raise UserError(
            f"{path}:1: the header has no {', '.join(lost)}: it is not the published list"
        )
    place = {name: names.index(name) for name in (*columns, *optional) if name in names}
    listing = Listing(path)
    seen: dict[tuple[str, ...], int] = {}
    for first, last, record in records:
        values, wrong = fields_of(record, place, len(names))
        wrong = wrong or text_fault(values, columns) or fault(values)
        if not wrong:
            line = seen.setdefault(tuple(values[name] for name in picture), first)
            wrong = "" if line == first else f"the same picture as in line {line}"
        if wrong:
            listing.problems += [f"{path}:{line}: {wrong}" for line in range(first, last + 1)]
        else:
            listing.rows.append([values.get(name, "") for name in (*columns, *optional)])
    if not listing.rows:
        example = f"; the first: {listing.problems[0]}" if listing.problems else ""
        raise UserError(f"{path} holds no row that can be used{example}")
    return listing


def pictures_folder(root: str, names: Sequence[str], folders: Sequence[str], advice: str) -> str:
    """Return the folder that the paths of a list are relative to.

    Args:
        root: folder of the data set.
        names: paths of pictures as the list has them, one or more.
        folders: where they may be, below `root`; `''` for itself.
        advice: what the message says to do if they are nowhere.

    Raises:
        UserError: of some pictures that were looked for none is in any of `folders`.
    """
    places = [files.join(root, folder) if folder else root for folder in folders]
    sample = names[:: -(-len(names) // LOOKED_FOR)]
    found = [sum(files.is_file(files.join(place, name)) for name in sample) for place in places]
    if not any(found):
        raise UserError(f"there is no picture {files.join(places[-1], names[0])}: {advice}")
    return places[int(np.argmax(found))]


def read_boxes(
    path: str, fields: int, *, header: int = 2, corners: bool = True
) -> dict[str, tuple[float, ...]]:
    """Return picture -> x, y, w, h of a list of boxes, the last four fields of a row.

    Args:
        path: the text file.
        fields: how many a row has; the first names the picture.
        header: lines at the top that are no rows.
        corners: whether the four are two corners, as DeepFashion has them, or x, y, w, h.

    Raises:
        UserError: the file is missing, or a box is not four numbers.
    """
    boxes: dict[str, tuple[float, ...]] = {}
    listing = read_listing(path, fields, header=header)
    if listing.problems:
        log.warning(
            "%d rows of boxes cannot be used, their pictures are taken whole; the first: %s",
            len(listing.problems),
            listing.problems[0],
        )
    for row in listing.rows:
        try:
            x, y, a, b = (float(value) for value in row[-4:])
        except ValueError:
            raise UserError(f"{path}: the box of {row[0]} is not four numbers") from None
        boxes[row[0]] = (x, y, a - x, b - y) if corners else (x, y, a, b)
    return boxes


def boxes_of(names: Iterable[str], boxes: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Return the boxes of pictures, (N, 4) float32, NaN where there is none or it has no area."""
    none: Sequence[float] = (np.nan,) * 4
    found = np.array([boxes.get(name, none) for name in names], np.float32).reshape(-1, 4)
    flat = ~np.isnan(found).any(axis=1) & ~(found[:, 2:] > 0).all(axis=1)
    if flat.any():
        log.warning("%d boxes have no area: their pictures are taken whole", flat.sum())
        found[flat] = np.nan
    return found


def class_splits(
    labels: Sequence[str], in_train: Sequence[bool], val: float, seed: int
) -> list[str]:
    """Return `train`, `val` or `test` for each row of a data set with two published parts.

    Args:
        labels: class of each row.
        in_train: whether a row is to train on; the others are to test on.
        val: share (below 1) or number of the training classes that are held out for validation.
        seed: decides which.

    Raises:
        ValueError: as :func:`held_out`.
    """
    rows = list(zip(labels, in_train, strict=True))
    kept_apart = held_out((label for label, here in rows if here), val, seed)
    return [("val" if label in kept_apart else "train") if here else "test" for label, here in rows]


def held_out(labels: Iterable[str], val: float, seed: int) -> set[str]:
    """Return classes drawn for validation.

    Args:
        labels: labels of the training rows.
        val: share of the classes if below 1, else their number.
        seed: decides which.

    Raises:
        ValueError: `val` is negative, or leaves fewer than two classes to train on.
    """
    classes = sorted(set(labels))
    count = round(val * len(classes)) if val < 1 else int(val)
    part_of_a_class = val >= 1 and count != val
    if val < 0 or part_of_a_class or (count and len(classes) - count < 2):
        raise ValueError(
            f"val is {val:g}: a share below 1 or a number of the {len(classes)} training classes, "
            "of which two or more are left to train on"
        )
    chosen = np.random.default_rng(seed).permutation(len(classes))[:count]
    return {classes[index] for index in chosen}

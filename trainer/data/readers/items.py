"""`dataset="items"`: a catalogue as a table in an items.csv beside its pictures."""

from __future__ import annotations

import csv
import difflib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trainer.config import UserError, nearest, register
from trainer.data import files
from trainer.data.table import BOX_COLUMNS, COLUMNS, REQUIRED_COLUMNS, ItemTable

log = logging.getLogger(__name__)


@register("dataset", "items")
def items(data_path: str, *, file: str = "items.csv") -> ItemTable:
    """A catalogue of your own: items.csv with columns path and label, and the pictures it names.

    Columns may come in any order: `path` (relative to the folder of the file, absolute, or a
    URL) and `label`, and if wanted `split`, `domain`, `category` and all four of `x, y, w, h`
    (pixels; left, top, width and height of the product; empty for the whole picture). Other
    columns are ignored, unless one looks like a misspelt name. Rows that cannot be used are kept
    in `problems` of the table.

    Args:
        data_path: folder or URL that holds the file.
        file: name of the table below the data path, default `items.csv`; UTF-8, comma-separated.

    Raises:
        UserError: no such folder or file, not UTF-8, a column is missing, misspelt or doubled, a
            quote is never closed, or no row can be used.
    """
    path = files.join(files.require_folder(data_path), file)
    if not files.is_file(path):
        raise UserError(
            f"there is no {path}: dataset 'items' reads a CSV with the columns path,label "
            f"(and if wanted {','.join(COLUMNS[2:])})"
        )
    return read_items(path)


def read_items(path: str, *, labels: bool = True, any_bytes: bool = False) -> ItemTable:
    """Read an items.csv from a local path or URL; see :func:`items`.

    Args:
        path: the file.
        labels: whether it tells the products. If not, a column `label` is neither needed nor looked
            at, and every picture gets its path in the file as a label of its own.
        any_bytes: take names that are not UTF-8 as they are, as in what :meth:`ItemTable.to_csv`
            writes of such files.

    Raises:
        UserError: as :func:`items`.
    """
    folder = path.rsplit("/", 1)[0]
    records = read_records(path, any_bytes=any_bytes)
    _, _, header = next(records, (0, 0, []))
    required = tuple(name for name in REQUIRED_COLUMNS if labels or name != "label")
    place = _columns(path, header, required)

    columns: dict[str, list[str]] = {name: [] for name in place}
    box: list[tuple[float, ...]] = []
    problems: list[str] = []
    seen: dict[tuple[object, ...], int] = {}
    for first, last, row in records:
        values, fault = fields_of(row, place, len(header))
        if not fault:
            fault = text_fault(values, required) or box_fault(
                [values.get(name, "") for name in BOX_COLUMNS]
            )
        if not fault:
            sides = tuple(float(values.get(name) or math.nan) for name in BOX_COLUMNS)
            # By their text: NaN is not equal to itself.
            key = tuple(values[name] for name in place if name not in ("label", "category"))
            if key in seen:
                fault = f"the same picture as in line {seen[key]}"
        if fault:
            # One quote too many swallows the lines up to the next quote: each counts.
            problems += [f"{path}:{line}: {fault}" for line in range(first, last + 1)]
            continue
        seen[key] = first
        box.append(sides)
        for name, value in values.items():
            columns[name].append(value)

    if not box:
        example = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{path} holds no row that can be used{example}")
    return ItemTable.from_columns(
        [files.join(folder, name) for name in columns["path"]],
        columns["label" if labels else "path"],
        split=columns.get("split"),
        domain=columns.get("domain"),
        category=columns.get("category"),
        box=box,
        problems=problems,
    )


def read_records(
    path: str, *, any_bytes: bool = False
) -> Iterator[tuple[int, int, list[str] | str]]:
    """Yield the records of a CSV file: first line, last line, and fields or what is wrong.

    Empty lines are passed over. Lines count from 1.

    Args:
        path: the file.
        any_bytes: see :func:`read_items`.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or a quote is never closed.
    """
    # Not str.splitlines: it also cuts at form feeds and other marks that may stand in a field.
    text = files.read_text(path, any_bytes=any_bytes).replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num >= len(lines):
                raise UserError(
                    f"{path}:{first}: a quote opened here is never closed, so the rest of the "
                    'file cannot be read; write a quote inside a field as ""'
                ) from None
            yield first, reader.line_num, str(error)
            continue
        if row:
            yield first, reader.line_num, row


def _columns(path: str, header: list[str] | str, required: tuple[str, ...]) -> dict[str, int]:
    """Return the place of each known column, after a check of the header."""
    if isinstance(header, str) or not any(header):
        raise UserError(
            f"{path} is empty or has no header; it must begin with: {','.join(required)}"
        )
    names = [name.strip().lower() for name in header]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise UserError(
            f"{path}:1: the header {header[0]!r} has no commas; columns must be separated by commas"
        )
    known = {name: names.index(name) for name in COLUMNS if name in names}
    absent = [name for name in COLUMNS if name not in known]
    strange = [name for name in names if name and name not in COLUMNS]
    for name in required:
        if name in absent:
            close = nearest(name, strange, "it has")
            raise UserError(f"{path}:1: there is no column {name!r}{close}")
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"{path}:1: the column {name!r} comes {names.count(name)} times")
    for name in strange:
        if difflib.get_close_matches(name, absent, n=1, cutoff=0.7):
            raise UserError(
                f"{path}:1: unknown column {name!r}{nearest(name, absent)} "
                "(rename it if it is something else)"
            )
    sides = [name for name in BOX_COLUMNS if name in known]
    if sides and len(sides) < len(BOX_COLUMNS):
        raise UserError(f"{path}:1: a box needs all of x,y,w,h; the header has {','.join(sides)}")
    if strange:
        log.info("%s: columns not used: %s", path, ", ".join(strange))
    return known


def fields_of(
    record: list[str] | str, place: Mapping[str, int], width: int
) -> tuple[dict[str, str], str]:
    """Return the fields of a record by their column's name, and what is wrong with it or `''`.

    Args:
        record: as :func:`read_records` yields it.
        place: column -> its number in the header.
        width: fields of the header.
    """
    if isinstance(record, str):
        return {}, record
    if len(record) != width:
        return {}, f"{len(record)} fields, the header has {width}"
    return {name: record[at].strip() for name, at in place.items()}, ""


def text_fault(values: Mapping[str, str], required: Iterable[str]) -> str:
    """Return what is wrong with the texts of a row, or `''`; those of `required` must be there."""
    for name in required:
        if not values[name]:
            return f"no {name}"
    for name, value in values.items():
        if "\n" in value:
            return f"a line break inside {name}"
        if "\0" in value:
            return f"a zero byte inside {name}"
    return ""


def box_fault(sides: Sequence[str]) -> str:
    """Return what is wrong with a box of four texts x, y, w, h, or `''`; all empty is none."""
    if any(sides):
        try:
            x, y, w, h = map(float, sides)
        except ValueError:
            return f"the box {','.join(sides)} is not four numbers"
        # No picture has 10 million pixels a side; NaN fails every comparison.
        if not (all(abs(side) < 1e7 for side in (x, y, w, h)) and w > 0 and h > 0):
            return f"the box {','.join(sides)} has no area"
    return ""

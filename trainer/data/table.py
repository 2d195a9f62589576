"""ItemTable: the one form that every data set has after its reader."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.files import whole_file

#: Columns of an items.csv, in the order in which they are written.
REQUIRED_COLUMNS = ("path", "label")
TEXT_COLUMNS = ("split", "domain", "category")
BOX_COLUMNS = ("x", "y", "w", "h")
COLUMNS = REQUIRED_COLUMNS + TEXT_COLUMNS + BOX_COLUMNS


def _no_triplets() -> np.ndarray:
    return np.empty((0, 3), np.int64)


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Images with their labels, one row an image; immutable, its arrays are read-only.

    Args:
        path: object array of str (N,): absolute path, or a URL that `tf.io.gfile` reads.
        label: int64 codes (N,), positions in `label_names`.
        label_names: the labels as the source writes them, each once; `select` keeps them all, so
            that a code means the same in every part of a table.
        split: object array of str (N,), such as `train`; empty where the source has none.
        domain: object array of str (N,), such as `street` or `shop`; may be empty.
        category: object array of str (N,); may be empty.
        box: float32 (N, 4): left, top, width, height in pixels of the stored picture; a row of
            NaN stands for the whole picture.
        triplets: int64 (T, 3), rows of this table: anchor, positive, negative; (0, 3) if the
            source lists none.
        problems: rows of the source that its reader could not use, each `file:line: reason`.

    Raises:
        ValueError: lengths differ, a label code or triplet row is out of range, a name of a label
            comes twice, or a box is half given or not larger than nothing.
    """

    path: np.ndarray
    label: np.ndarray
    label_names: tuple[str, ...]
    split: np.ndarray
    domain: np.ndarray
    category: np.ndarray
    box: np.ndarray
    triplets: np.ndarray = field(default_factory=_no_triplets)
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.path)
        for name in ("path", *TEXT_COLUMNS):
            self._keep(name, _strings(getattr(self, name), name))
        for name in ("label", "triplets"):
            values = np.asarray(getattr(self, name))
            # A float would carry labels and rows above 2**24 into their neighbours.
            if values.size and not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"{name} holds {values.dtype}, not integers")
            self._keep(name, values.astype(np.int64))
        self._keep("box", np.array(self.box, np.float32))
        object.__setattr__(self, "label_names", tuple(map(str, self.label_names)))
        object.__setattr__(self, "problems", tuple(map(str, self.problems)))

        for name in ("label", *TEXT_COLUMNS):
            shape = getattr(self, name).shape
            if shape != (count,):
                raise ValueError(f"{name} has shape {shape}, path has {count} rows")
        if self.box.shape != (count, 4):
            raise ValueError(f"box has shape {self.box.shape}, not ({count}, 4)")
        if self.triplets.ndim != 2 or self.triplets.shape[1] != 3:
            raise ValueError(f"triplets has shape {self.triplets.shape}, not (T, 3)")
        if len(set(self.label_names)) != len(self.label_names):
            raise ValueError("a name comes twice in label_names")
        _check_range("label", self.label, len(self.label_names))
        _check_range("triplets", self.triplets, count)
        given = np.isfinite(self.box)
        wrong = ~np.where(
            given.any(axis=1),
            given.all(axis=1) & (self.box[:, 2:] > 0).all(axis=1),
            np.isnan(self.box).all(axis=1),
        )
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"box {self.box[row].tolist()} in row {row}: x, y, w, h must be four numbers with "
                "w and h above 0, or all NaN"
            )

    def _keep(self, name: str, values: np.ndarray) -> None:
        values.setflags(write=False)
        object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.path)

    @property
    def classes(self) -> np.ndarray:
        """The label codes that occur, int64, ascending."""
        return np.unique(self.label)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that occur, ascending; `''` for rows without one."""
        return tuple(sorted(set(self.split)))

    @classmethod
    def from_columns(
        cls,
        path: Iterable[str | os.PathLike[str]],
        label: Iterable[object],
        *,
        split: Iterable[str] | None = None,
        domain: Iterable[str] | None = None,
        category: Iterable[str] | None = None,
        box: Any = None,
        triplets: Any = None,
        problems: Iterable[str] = (),
    ) -> ItemTable:
        """Build a table from columns, with labels as the source writes them.

        Label codes follow the alphabetical order of the labels' text, so they do not depend on
        the order of the rows.

        Args:
            path: paths of the pictures, N.
            label: labels, N; anything whose text tells them apart.
            split: N texts, default all empty.
            domain: N texts, default all empty.
            category: N texts, default all empty.
            box: (N, 4) pixels, NaN for none; default no boxes.
            triplets: (T, 3) rows, default none.
            problems: what the reader could not use.

        Raises:
            ValueError: the columns do not form a valid table.
        """
        paths = [os.fspath(p) for p in path]
        texts = [str(value) for value in label]
        names = tuple(sorted(set(texts)))
        code = {name: i for i, name in enumerate(names)}
        count = len(paths)

        def column(values: Iterable[str] | None) -> np.ndarray:
            return _strings([""] * count if values is None else list(values), "column")

        return cls(
            path=_strings(paths, "path"),
            label=np.fromiter((code[text] for text in texts), np.int64, len(texts)),
            label_names=names,
            split=column(split),
            domain=column(domain),
            category=column(category),
            box=np.full((count, 4), np.nan, np.float32) if box is None else np.asarray(box),
            triplets=_no_triplets() if triplets is None else np.asarray(triplets),
            problems=tuple(problems),
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Any]],
        *,
        triplets: Any = None,
        problems: Iterable[str] = (),
    ) -> ItemTable:
        """Build a table from one mapping a row: `path`, `label` and any other column of COLUMNS.

        Args:
            rows: mappings; a missing or empty optional column is an empty text or no box.
            triplets: (T, 3) rows, default none.
            problems: what the reader could not use.

        Raises:
            ValueError: a column is unknown or missing, or the rows do not form a valid table.
        """
        rows = list(rows)
        for row in rows:
            unknown = row.keys() - set(COLUMNS)
            missing = set(REQUIRED_COLUMNS) - row.keys()
            if unknown or missing:
                raise ValueError(
                    f"a row has columns {sorted(row)}; path and label are needed, "
                    f"possible are {', '.join(COLUMNS)}"
                )
        box = [[_number(row.get(name)) for name in BOX_COLUMNS] for row in rows]
        return cls.from_columns(
            [row["path"] for row in rows],
            [row["label"] for row in rows],
            split=[row.get("split") or "" for row in rows],
            domain=[row.get("domain") or "" for row in rows],
            category=[row.get("category") or "" for row in rows],
            box=np.array(box, np.float32).reshape(len(rows), 4),
            triplets=triplets,
            problems=problems,
        )

    def select(self, mask_or_rows: Any) -> ItemTable:
        """Return the rows that a mask (N,) marks, or those listed, in the order listed.

        Triplets are renumbered; a triplet that lost a member is dropped. Label codes and
        `label_names` stay as they are.

        Args:
            mask_or_rows: bool (N,), integers (any number, negative ones count from the end), or
                a slice.

        Raises:
            IndexError: a row is out of range, or a mask has another length.
            ValueError: the table has triplets and a row is listed twice.
        """
        if not isinstance(mask_or_rows, slice):
            mask_or_rows = np.asarray(mask_or_rows)
            if not mask_or_rows.size and mask_or_rows.dtype != bool:
                mask_or_rows = mask_or_rows.astype(np.int64)
        rows = np.arange(len(self))[mask_or_rows]
        triplets = self.triplets
        if len(triplets):
            new_row = np.full(len(self), -1, np.int64)
            new_row[rows] = np.arange(len(rows))
            if np.count_nonzero(new_row >= 0) != len(rows):
                raise ValueError("a row is listed twice: its triplets could mean either copy")
            triplets = new_row[triplets]
            triplets = triplets[(triplets >= 0).all(axis=1)]
        return ItemTable(
            path=self.path[rows],
            label=self.label[rows],
            label_names=self.label_names,
            split=self.split[rows],
            domain=self.domain[rows],
            category=self.category[rows],
            box=self.box[rows],
            triplets=triplets,
            problems=self.problems,
        )

    def in_split(self, *names: str) -> ItemTable:
        """Return the rows of the splits named; a name may itself be a comma list."""
        wanted = {part.strip() for name in names for part in name.split(",")}
        return self.select(np.fromiter((s in wanted for s in self.split), bool, len(self)))

    def fingerprint(self) -> str:
        """Return the SHA-256 (64 hex digits) of the content: rows, labels, boxes and triplets.

        Paths count from their common folder, so that a data set keeps its fingerprint when it is
        moved as a whole. The pictures themselves are not read.
        """
        digest = hashlib.sha256()
        columns = [below_common_folder(self.path), self.label_names]
        columns += [getattr(self, name) for name in TEXT_COLUMNS]
        for column in columns:
            encoded = [text.encode("utf-8", "surrogateescape") for text in column]
            # With the lengths, no two different columns join to the same bytes.
            digest.update(np.fromiter(map(len, encoded), "<i8", len(encoded)).tobytes())
            digest.update(b"".join(encoded))
        for array, kind in ((self.label, "<i8"), (self.box, "<f4"), (self.triplets, "<i8")):
            digest.update(repr(array.shape).encode())
            digest.update(array.astype(kind).tobytes())
        return digest.hexdigest()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as an `items.csv`, whole or not at all.

        Paths below the folder of the file are written relative to it. Optional columns without a
        value are left out. The format has no place for `triplets` and `problems`.

        Args:
            path: the local file; replaced if it is there.

        Raises:
            OSError: it cannot be written; a file that was there is then still whole.
        """
        target = Path(os.path.abspath(path))
        has_box = not np.isnan(self.box).all()
        text = [name for name in TEXT_COLUMNS if any(getattr(self, name))]
        header = [*REQUIRED_COLUMNS, *text, *(BOX_COLUMNS if has_box else ())]
        columns: list[Sequence[str]] = [
            [_relative(p, str(target.parent)) for p in self.path],
            [self.label_names[code] for code in self.label],
            *(getattr(self, name) for name in text),
        ]
        if has_box:
            columns += [[_text(value) for value in side] for side in self.box.T]
        with whole_file(target) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(zip(*columns, strict=True))


def _strings(values: Any, name: str) -> np.ndarray:
    """Return a new object array of str: numpy's own text type pads every path to the longest."""
    array = np.empty(len(values), object)
    array[:] = list(values)
    if not all(issubclass(kind, str) for kind in set(map(type, array))):
        raise ValueError(f"{name} holds something other than text")
    return array


def _check_range(name: str, values: np.ndarray, end: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= end):
        raise ValueError(
            f"{name} holds {int(values.min())}..{int(values.max())}, allowed is 0..{end - 1}"
        )


def _number(value: Any) -> float:
    return np.nan if value is None or value == "" else float(value)


def _text(value: np.float32) -> str:
    """The shortest text that reads back as the same float32; empty for NaN."""
    return "" if np.isnan(value) else np.format_float_positional(value, trim="-")


def _relative(path: str, folder: str) -> str:
    inside = folder.rstrip(os.sep) + os.sep
    return path[len(inside) :] if path.startswith(inside) else path


def below_common_folder(paths: Sequence[str] | np.ndarray) -> list[str]:
    """Return each path relative to the longest folder that all of them share."""
    if not len(paths):
        return []
    start = len(common_folder(paths))
    return [path[start:] for path in paths]


def common_folder(paths: Sequence[str] | np.ndarray) -> str:
    """Return the longest folder that all paths share, with its last slash; at least one path."""
    # The common prefix of all is that of the two extremes.
    low, high = min(paths), max(paths)
    same = 0
    while same < min(len(low), len(high)) and low[same] == high[same]:
        same += 1
    return low[: low.rfind("/", 0, same) + 1]

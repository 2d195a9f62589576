"""`dataset="concat"`: several data sets as one, each read by its own reader."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.config import Component, UserError, get, register
from trainer.config.spelling import parse_arguments
from trainer.data import files
from trainer.data.join import join
from trainer.data.table import ItemTable

HEAD = re.compile(r"\s*(?:([\w.-]+)\s*=\s*)?(\w+)\s*")
#: A folder goes up to the next comma, unless it is in quotes.
FOLDER = re.compile(r"""\s*(?::\s*(?:'([^']*)'|"([^"]*)"|(?!\s*['"])([^,]*)))?\s*(,|$)""")


@dataclass(frozen=True)
class Part:
    """One data set of several.

    Attributes:
        name: goes before its labels.
        component: its reader.
        parameters: those of the reader, checked and complete.
        folder: its data path, relative to that of the whole; empty for the same.
    """

    name: str
    component: Component
    parameters: dict[str, Any]
    folder: str


@register("dataset", "concat")
def concat(data_path: str, *, parts: str, train_only: tuple[str, ...] = ()) -> ItemTable:
    """Several data sets one after another, of which no two share a label.

    A label is called after its part, `product10k:513`. Splits, domains, categories, boxes, and
    rows that cannot be used are those of the parts.

    Args:
        data_path: folder that the folders of the parts are relative to.
        parts: comma list of `READER:FOLDER`, with parameters of the reader in parentheses after
            its name, and a name of the part in front where a reader comes twice:
            `product10k(test='train'):Product10K, amazon_reviews:Amazon-review,
            own=items:shop, older=items(file='2019.csv'):shop`. Without `:FOLDER` a part is read
            from the data path itself; a folder with a comma goes in quotes. All are checked before
            the first is read.
        train_only: names of the parts that only count for training: of these, the split `train` is
            kept, or everything, where they have no splits. Default none.

    Raises:
        ValueError: `parts` cannot be read, a reader or a parameter does not exist, a name comes
            twice, `train_only` names no part, or a reader refuses a value.
        UserError: a part cannot be read, has nothing to train on though it is in `train_only`, or
            has no splits where others have.
    """
    found = parse_parts(parts)
    unknown = set(train_only) - {part.name for part in found}
    if unknown:
        raise ValueError(
            f"train_only: {', '.join(sorted(unknown))} is no part; there are "
            f"{', '.join(part.name for part in found)}"
        )
    tables = [_read(data_path, part, part.name in train_only) for part in found]
    without = [
        part.name for part, table in zip(found, tables, strict=True) if set(table.splits) == {""}
    ]
    if 0 < len(without) < len(found):
        raise UserError(
            f"part {without[0]!r} of dataset.parts has no splits, and others have: its pictures "
            f"would be in none; set dataset.train_only={without[0]}, or divide them by a column "
            "split or by folders"
        )
    return join(tables, [part.name for part in found])


def parse_parts(text: str) -> tuple[Part, ...]:
    """Read the parts as a config writes them, and check their parameters; no data is touched.

    Args:
        text: as :func:`concat` says.

    Raises:
        ValueError: text of another form, no such reader or parameter, a parameter that is missing,
            or a name that comes twice.
    """
    parts: list[Part] = []
    rest = text
    while rest.strip() or not parts:
        part, rest = _parse_part(rest)
        if any(part.name == other.name for other in parts):
            raise ValueError(
                f"two parts are called {part.name!r}; write NAME={part.component.name}:FOLDER to "
                "give one of them another name"
            )
        parts.append(part)
    return tuple(parts)


def _parse_part(text: str) -> tuple[Part, str]:
    """Read the first part of a list, and return it with what follows its comma."""
    unreadable = ValueError(
        f"{text.strip()!r} cannot be read: parts are READER:FOLDER, READER(parameter=value, ...)"
        ":FOLDER with texts in quotes, or NAME=READER:FOLDER, with commas between them"
    )
    head = HEAD.match(text)
    if head is None:
        raise unreadable
    end = head.end()
    arguments = ""
    if text[end : end + 1] == "(":
        end = _closing(text, end)
        arguments = text[head.end() : end]
    tail = FOLDER.match(text, end)
    if tail is None:
        raise unreadable
    name, reader = head.groups()
    try:
        component = get("dataset", reader)
        parameters = component.check(parse_arguments(arguments) if arguments else {})
    except (UserError, ValueError) as error:
        raise ValueError(f"of the parts, {name or reader}: {error}") from None
    folder = next((found for found in tail.groups()[:3] if found), "").strip()
    return Part(name or reader, component, parameters, folder), text[tail.end() :]


def _closing(text: str, start: int) -> int:
    """Return the place after the parenthesis that closes the one at `start`, or the end."""
    depth, quote, skip = 0, "", False
    for place in range(start, len(text)):
        mark = text[place]
        if skip:
            skip = False
        elif quote:
            skip = mark == "\\"
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        else:
            depth += (mark in "([{") - (mark in ")]}")
            if not depth:
                return place + 1
    return len(text)


def _read(data_path: str, part: Part, train_only: bool) -> ItemTable:
    place = files.join(data_path, part.folder) if part.folder else data_path
    try:
        table: ItemTable = part.component.call(place, **part.parameters)
    except ValueError as error:
        raise ValueError(f"of the parts, {part.name}: {error}") from error
    if not train_only:
        return table
    rows = table.in_split("train" if "train" in table.splits else "")
    if not len(rows):
        raise UserError(
            f"part {part.name!r} of dataset.parts is in dataset.train_only and has no split train; "
            f"it has {', '.join(table.splits)}"
        )
    return dataclasses.replace(rows, split=np.full(len(rows), "train", object))

"""Ids that may be shown to anyone: what a catalogue calls its items once they are served."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from trainer.config import UserError
from trainer.data.files import is_remote
from trainer.data.table import below_common_folder

#: Most characters of the id of an added item.
MOST = 200
NEW = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
#: File of a merged picture: its id, `+` for each slash, and the first digits of its SHA-256.
MERGED = re.compile(r"([A-Za-z0-9._+-]+)~[0-9a-f]{16}(\.[a-z]+)?")


def check_new(name: str) -> str:
    """Return an id that an added item may have.

    Raises:
        UserError: it is too long, or has other characters or parts than are allowed.
    """
    if not (len(name) <= MOST and NEW.fullmatch(name)) or {".", ".."} & set(name.split("/")):
        raise UserError(
            f"the id {name[: MOST + 1]!r} is not allowed: 1 to {MOST} of the characters A-Z a-z "
            "0-9 . _ - and / between parts, no part . or .."
        )
    return name


def merged_file(name: str, digest: str, ending: str) -> str:
    """Return the name of the file for the picture of an added item, from which
    :func:`public_names` reads the id again.

    Args:
        name: an id that :func:`check_new` lets pass.
        digest: SHA-256 of the picture, in hex digits. It makes a new picture another file.
        ending: such as `.jpg`.
    """
    return f"{name.replace('/', '+')}~{digest[:16]}{ending}"


def public_names(ids: Sequence[str], paths: Sequence[str], merged: str) -> list[str]:
    """Return an id for each item that tells nothing of where its picture lies.

    Paths are named relative to the longest folder that they share: all local ones one, and all of
    a scheme such as gs:// one. What follows the path in an id (`#3`) stays. A picture of an item
    that was once added has the id that it was added with. Where that would give one id twice, the
    later ones end in `~2`, `~3`, ...

    Args:
        ids: distinct; each is the path, or the path and more.
        paths: of the pictures.
        merged: folder of the pictures of items that were added.
    """
    named: list[str] = [""] * len(ids)
    alike: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        folder, _, file = path.rpartition("/")
        own = MERGED.fullmatch(file) if folder == merged else None
        if own:
            named[row] = own[1].replace("+", "/")
        else:
            alike.setdefault(path.partition("://")[0] if is_remote(path) else "", []).append(row)
    for scheme, rows in alike.items():
        whole = [paths[row] if scheme else os.path.normpath(paths[row]) for row in rows]
        for row, relative in zip(rows, below_common_folder(whole), strict=True):
            # Browsers would take such parts of an address for something else.
            parts = ("_" if part in ("", ".", "..") else part for part in relative.split("/"))
            named[row] = "/".join(parts)
    seen: set[str] = set()
    for row, name in enumerate(named):
        name = first = name + ids[row][len(paths[row]) :]
        number = 1
        while name in seen:
            number += 1
            name = f"{first}~{number}"
        seen.add(name)
        named[row] = name
    return named

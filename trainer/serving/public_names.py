"""Ids that may be shown to anyone: what a catalogue calls its items once they are served."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.config import UserError
from trainer.data.files import absolute, is_remote
from trainer.data.table import below_common_folder

#: Most characters of the id of an added item.
MOST = 200
#: Its parts, none of which begins with a dot: browsers take some of those for something else.
NEW = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
#: File of a merged picture: its id, `+` for each slash, and the first digits of its SHA-256.
MERGED = re.compile(r"([A-Za-z0-9._+-]+)~[0-9a-f]{16}(\.[a-z]+)?")


def check_new(name: str) -> str:
    """Return an id that an added item may have.

    Raises:
        UserError: it is too long, or has other characters or parts than are allowed.
    """
    if len(name) > MOST or not NEW.fullmatch(name):
        raise UserError(
            f"the id {name[: MOST + 1]!r} is not allowed: 1 to {MOST} of the characters A-Z a-z "
            "0-9 . _ - and / between parts, none of which begins with a dot"
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


def merged_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder for pictures of items that were added to the index in a folder."""
    target = Path(absolute(os.fspath(folder)))
    return target.with_name(f"{target.name}.pictures")


def common_roots(paths: Sequence[str], merged: str) -> dict[str, str]:
    """Return the longest folder that all local paths share, with its slash, under "", and that of
    each scheme such as gs:// under the scheme.

    Args:
        paths: of the pictures of a catalogue.
        merged: folder of the pictures of items that were added, which do not count.
    """
    alike: dict[str, list[str]] = {}
    for path in paths:
        if _merged_name(path, merged) is None:
            scheme, whole = _placed(path)
            alike.setdefault(scheme, []).append(whole)
    return {
        scheme: wholes[0].removesuffix(below_common_folder(wholes)[0])
        for scheme, wholes in alike.items()
    }


def public_names(
    ids: Sequence[str], paths: Sequence[str], merged: str, roots: Mapping[str, str]
) -> list[str]:
    """Return an id for each item that tells nothing of where its picture lies.

    Paths are named relative to their root; those elsewhere by their file, in a folder that stands
    for theirs. What follows the path in an id (`#3`) stays. A picture of an item that was once
    added has the id that it was added with. Where that would give one id twice, the later ones end
    in `~2`, `~3`, ...

    Args:
        ids: distinct; each is the path, or the path and more.
        paths: of the pictures.
        merged: folder of the pictures of items that were added.
        roots: as :func:`common_roots` gave them once: ids stay when other items come and go.
    """
    named: list[str] = []
    for path in paths:
        name = _merged_name(path, merged)
        if name is None:
            scheme, whole = _placed(path)
            root = roots.get(scheme)
            if root is not None and whole.startswith(root):
                relative = whole[len(root) :]
            else:
                folder, _, file = whole.rpartition("/")
                mark = hashlib.sha256(folder.encode("utf-8", "surrogatepass")).hexdigest()[:10]
                relative = f"{mark}/{file}"
            # Browsers would take such parts of an address for something else.
            parts = ("_" if part in ("", ".", "..") else part for part in relative.split("/"))
            name = "/".join(parts)
        named.append(name)
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


def _merged_name(path: str, merged: str) -> str | None:
    """Return the id that an item was added with; None if its picture is not one of those."""
    folder, _, file = path.rpartition("/")
    own = MERGED.fullmatch(file) if folder == merged else None
    return own[1].replace("+", "/") if own else None


def _placed(path: str) -> tuple[str, str]:
    """Return the scheme of a path, empty for a local one, and the path without detours."""
    if is_remote(path):
        return path.partition("://")[0], path
    return "", os.path.normpath(path)

"""`dataset="folder"`: pictures sorted into one folder per label."""

from __future__ import annotations

import logging
from typing import Literal

from trainer.config import UserError, register
from trainer.data import files
from trainer.data.table import ItemTable

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
#: Endings taken for pictures. Files without any ending are, too: many catalogues name by hash.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", "")
#: What file managers leave behind.
CLUTTER = ("thumbs.db", "desktop.ini")


@register("dataset", "folder")
def folder(data_path: str, *, splits: Literal["auto", "yes", "no"] = "auto") -> ItemTable:
    """Pictures in a folder per label: LABEL/picture.jpg, or train/LABEL/picture.jpg.

    Pictures in folders inside a label's folder belong to that label. Hidden files are ignored;
    files whose ending is not that of a picture are kept in `problems` of the table.

    Args:
        data_path: folder or URL that holds the folders.
        splits: whether the top folders are `train`, `val` and `test`: `yes`, `no`, or `auto`,
            default, which looks.

    Raises:
        UserError: no such folder, `auto` cannot tell, or there is no picture in a label's folder.
    """
    root = files.require_folder(data_path)
    found = list(files.walk(root))
    has_splits = splits == "yes" or (splits == "auto" and _looks_split(root, found))
    depth = 1 if has_splits else 0

    path, label, split, problems = [], [], [], []
    for place, names in found:
        parts = place.split("/") if place else []
        if has_splits and parts and parts[0] not in SPLITS:
            log.info("%s/%s is none of %s: left out", root, place, ", ".join(SPLITS))
            continue
        for name in names:
            full = files.join(root, f"{place}/{name}" if place else name)
            ending = name[name.rfind(".") :].lower() if "." in name else ""
            if name.lower() in CLUTTER:
                continue
            if ending not in ENDINGS:
                problems.append(f"{full}:0: its ending is not that of a picture")
            elif len(parts) <= depth:
                problems.append(f"{full}:0: it is not in the folder of a label")
            else:
                path.append(full)
                label.append(parts[depth])
                split.append(parts[0] if has_splits else "")
    if not path:
        layout = "train/LABEL/picture.jpg" if has_splits else "LABEL/picture.jpg"
        raise UserError(f"{root} holds no pictures laid out as {layout}")
    return ItemTable.from_columns(path, label, split=split, problems=problems)


def picture_files(root: str) -> list[str]:
    """Return the names of all files below a folder that end as pictures do, relative to it.

    Raises:
        UserError: there is none.
    """
    names = [
        f"{place}/{name}" if place else name
        for place, found in files.walk(root)
        for name in found
        if name.lower().endswith(ENDINGS[:-1])
    ]
    if not names:
        raise UserError(f"{root} holds neither an items.csv nor pictures")
    return names


def _looks_split(root: str, found: list[tuple[str, list[str]]]) -> bool:
    top = {place.split("/")[0] for place, _ in found if place}
    named = top & set(SPLITS)
    if not named:
        return False
    # The folder of a split holds folders; that of a label that is called "train", pictures.
    holds_folders = {place.split("/")[0] for place, _ in found if "/" in place}
    if named == top and named <= holds_folders:
        return True
    if not named & holds_folders:
        return False
    raise UserError(
        f"{root} holds {', '.join(sorted(named))} and other folders or files beside folders of "
        "labels: set dataset.splits=yes if they are splits, dataset.splits=no if they are labels"
    )

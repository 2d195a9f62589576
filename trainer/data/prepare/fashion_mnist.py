"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) as `items` data sets."""

from __future__ import annotations

import gzip
import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from trainer.config import UserError
from trainer.data import files
from trainer.data.prepare.made import is_made, save_pictures, write_items, write_note

log = logging.getLogger(__name__)

#: Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
LABELS = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
#: Classes below this one are trained on in the open-set split, the others are tested on.
FIRST_UNSEEN = 5
SIDE = 28
#: Parts of the data set as published: name of the files -> name of the folder of pictures.
PARTS = {"train": "train", "t10k": "test"}
NOTE = "fashion_mnist.json"


def prepare(
    to: str,
    source: str | None = None,
    *,
    limit: int | None = None,
    val_per_class: int = 200,
) -> None:
    """Make a folder with Fashion-MNIST as PNG files and two tables over them.

    `open/items.csv` is an open-set split, for products never seen in training: `train` holds
    classes 0-4 of the published training part, `val` some of classes 0-4 of the published test
    part, and `test` classes 5-9 of that. `closed/items.csv` is the split as published: all
    classes in `train` and in `test`. The folder appears when it is complete; one that this
    function made before is replaced, or kept if it was made with the same arguments.

    Args:
        to: local folder to make.
        source: folder with the four IDX files, plain or `.gz`; default: Debian's folder of the
            package dataset-fashion-mnist if it is there, else the download of Keras.
        limit: at most this many pictures of each class from each part, the first ones; default
            all (6,000 and 1,000).
        val_per_class: pictures of each class in `val` of the open-set split, default 200.

    Raises:
        UserError: there is no source, a file is missing, truncated or of another kind, or the
            folder holds something else or cannot be written.
    """
    target = Path(files.absolute(to))
    arguments = {"limit": limit, "val_per_class": val_per_class}
    if is_made(target, NOTE, ("images", "open", "closed"), arguments):
        log.info("%s is already there", target)
        return
    data = _read(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replaced_folder(target) as partial:
            _write(partial, data, limit, val_per_class)
            write_note(partial / NOTE, arguments)
    except OSError as error:
        raise UserError(f"cannot write {target}: {files.reason(error)}") from None


def _write(
    folder: Path,
    data: dict[str, tuple[np.ndarray, np.ndarray]],
    limit: int | None,
    val_per_class: int,
) -> None:
    rows: dict[str, list[tuple[str, str, str, str]]] = {"open": [], "closed": []}
    chosen: list[tuple[Path, np.ndarray]] = []
    for part, (images, labels) in data.items():
        (folder / "images" / part).mkdir(parents=True)
        count = np.zeros(len(LABELS), np.int64)
        for number, code in enumerate(labels.tolist()):
            if limit is not None and count[code] >= limit:
                continue
            name = f"images/{part}/{number:05d}.png"
            chosen.append((folder / name, images[number]))
            row = (f"../{name}", LABELS[code])
            rows["closed"].append((*row, part, LABELS[code]))
            if part == "train" and code < FIRST_UNSEEN:
                rows["open"].append((*row, "train", LABELS[code]))
            elif part == "test" and code >= FIRST_UNSEEN:
                rows["open"].append((*row, "test", LABELS[code]))
            elif part == "test" and count[code] < val_per_class:
                rows["open"].append((*row, "val", LABELS[code]))
            count[code] += 1

    save_pictures(chosen)
    for name, table in rows.items():
        (folder / name).mkdir()
        write_items(folder / name, ("path", "label", "split", "category"), table)


def _read(source: str | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images (n, 28, 28) and labels (n,), uint8, of both parts."""
    if source is None and not os.path.isdir(DEBIAN_FOLDER):
        return _download()
    folder = source or DEBIAN_FOLDER
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}: give the one that holds the IDX files")
    data = {}
    for name, part in PARTS.items():
        images = _idx(_find(folder, f"{name}-images", 3), 3)
        labels = _idx(_find(folder, f"{name}-labels", 1), 1)
        data[part] = _checked(folder, name, images, labels)
    return data


def _checked(
    place: str, name: str, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels) or not len(labels):
        raise UserError(
            f"{place}: {name} has images of shape {images.shape} and {len(labels)} labels, "
            f"Fashion-MNIST has as many labels as images of {SIDE} x {SIDE}"
        )
    if labels.max() >= len(LABELS):
        raise UserError(f"{place}: {name} has a label {labels.max()}, Fashion-MNIST has 0 to 9")
    return images, labels


def _find(folder: str, stem: str, dimensions: int) -> str:
    names = [f"{stem}{mark}idx{dimensions}-ubyte" for mark in "-."]
    for name in names:
        for ending in (".gz", ""):
            if os.path.isfile(os.path.join(folder, name + ending)):
                return os.path.join(folder, name + ending)
    raise UserError(f"there is no {names[0]}.gz or {names[0]} in {folder}")


def _idx(path: str, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes: a magic number, the sizes, the values.

    Raises:
        UserError: it is truncated, goes on after its end, or is of another kind.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as stream:
            return _idx_values(stream, path, dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path} is damaged or truncated: copy or download it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {files.reason(error)}") from None


def _idx_values(stream: io.BufferedIOBase, path: str, dimensions: int) -> np.ndarray:
    head = stream.read(4 + 4 * dimensions)
    if head[:4] != struct.pack(">HBB", 0, 8, dimensions)[: len(head)]:
        raise UserError(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
    if len(head) < 4 + 4 * dimensions:
        raise UserError(f"{path} is damaged or truncated: copy or download it again")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    wanted = int(np.prod(shape, dtype=object))
    # A header from elsewhere could ask for any amount of memory.
    if wanted > 2**30:
        raise UserError(f"{path} says that it holds {wanted:,} bytes: not Fashion-MNIST")
    values = stream.read(wanted + 1)
    if len(values) != wanted:
        state = "is truncated" if len(values) < wanted else "goes on after its end"
        raise UserError(f"{path} {state}: copy or download it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _download() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from keras.datasets import fashion_mnist

    try:
        train, test = fashion_mnist.load_data()
    except Exception as error:
        text = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"Fashion-MNIST could not be downloaded ({text}): go online, or get its four IDX "
            "files (Debian: apt install dataset-fashion-mnist) and name their folder as the source"
        ) from None
    return {
        part: _checked("Keras's download", part, *arrays)
        for part, arrays in (("train", train), ("test", test))
    }

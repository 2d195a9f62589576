"""White borders around products, as shops' pictures have them, and the boxes without them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainer.data import files
from trainer.data.open_image import open_image
from trainer.data.progress import bar

log = logging.getLogger(__name__)

#: Raise it with every change to what a border is, so that boxes of an older one are not taken up.
VERSION = 1
#: Pictures that a thread takes at a time.
CHUNK = 32


def inner_boxes(paths: Sequence[str], *, tolerance: int = 10) -> np.ndarray:
    """Return the boxes of pictures without their white borders.

    Boxes of local files are kept in the cache folder ($MILDNET_CACHE or ~/.cache/mildnet), and
    found anew for files that have changed in size or time since.

    Args:
        paths: N local files or URLs.
        tolerance: as in :func:`inner_box`.

    Returns:
        float32 (N, 4): x, y, w, h in pixels; NaN for pictures that have no border, are all white,
        or cannot be read.
    """
    stamps = [_stamp(path) for path in paths]
    key = json.dumps([VERSION, tolerance, sorted({os.path.dirname(path) for path in paths})])
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    cache = files.cache_folder() / f"white_borders-{digest}.json"
    known = _read(str(cache))
    boxes: dict[str, list[int]] = {}
    for path, stamp in zip(paths, stamps, strict=True):
        if stamp and known.get(path, [])[:2] == stamp:
            boxes[path] = known[path][2:]
    unknown = [path for path in dict.fromkeys(paths) if path not in boxes]
    if unknown:
        boxes.update(_look(unknown, tolerance))
        # What could not be opened may be another time; other lists of the folder keep their boxes.
        kept = {
            path: [*stamp, *boxes[path]]
            for path, stamp in zip(paths, stamps, strict=True)
            if stamp and path in boxes
        }
        _write(str(cache), {**known, **kept})
    found = np.full((len(paths), 4), np.nan, np.float32)
    for row, path in enumerate(paths):
        if boxes.get(path):
            found[row] = boxes[path]
    return found


def inner_box(pixels: np.ndarray, *, tolerance: int = 10) -> list[int]:
    """Return x, y, w, h of a picture without its white border; empty where there is none.

    A border is what rows and columns that are white from side to side leave out at the edges. A
    pixel is white if all its channels are 255 - `tolerance` or more. One that is not, but has only
    white ones around it, is taken for noise, unless `tolerance` is 0.

    Args:
        pixels: uint8 (H, W, 3).
        tolerance: 0 to 254, what JPEG compression may take away from white; default 10.
    """
    drawn: np.ndarray = np.any(pixels < 255 - tolerance, axis=-1)
    if tolerance:
        drawn = drawn & _has_neighbour(drawn)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if not len(rows):
        return []
    x, y = int(columns[0]), int(rows[0])
    w, h = int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
    return [] if (h, w) == drawn.shape else [x, y, w, h]


def _has_neighbour(drawn: np.ndarray) -> np.ndarray:
    """Return which pixels have a drawn one among the eight around them, bool (H, W)."""
    height, width = drawn.shape
    framed = np.pad(drawn, 1)
    found = np.zeros_like(drawn)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                found |= framed[down : down + height, right : right + width]
    return found


def _look(paths: list[str], tolerance: int) -> dict[str, list[int]]:
    """Return the boxes of those pictures that can be read."""
    from PIL import Image

    def look(path: str) -> list[int] | None:
        try:
            return inner_box(np.asarray(open_image(path)), tolerance=tolerance)
        except (OSError, ValueError):
            # What is wrong with it, the check of all pictures says.
            return None

    def look_at(chunk: list[str]) -> list[list[int] | None]:
        return [look(path) for path in chunk]

    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    found: dict[str, list[int]] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with bar("looking for white borders", len(paths)) as advance:
                for chunk, boxes in zip(chunks, pool.map(look_at, chunks), strict=True):
                    pairs = zip(chunk, boxes, strict=True)
                    found.update((path, box) for path, box in pairs if box is not None)
                    advance(len(chunk))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _stamp(path: str) -> list[int]:
    """Return what changes when a local file does; empty for others."""
    if files.is_remote(path):
        return []
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _read(cache: str) -> dict[str, list[int]]:
    try:
        known = json.loads(files.read_bytes(cache))
        return {path: [int(value) for value in values] for path, values in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(cache: str, boxes: dict[str, list[int]]) -> None:
    try:
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        with files.whole_file(cache) as stream:
            json.dump(boxes, stream)
    except OSError as error:
        log.info("boxes are not kept: cannot write %s: %s", cache, files.reason(error))

"""Every picture is looked at before training starts, so that none can stop it half way."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from trainer.config import UserError
from trainer.data import files
from trainer.data.progress import bar
from trainer.data.table import ItemTable

log = logging.getLogger(__name__)

#: Pictures that a thread takes at a time.
CHUNK = 32
#: A box may reach out of its picture by this share of a side (and by a pixel): annotations do.
BOX_SLACK = 0.01
#: Most pixels of a picture, unless something else is asked for.
MAX_PIXELS = 100_000_000
#: How a JPEG file begins, and the mark of its end.
JPEG_BEGIN, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
#: What is said of a picture that the decoder refuses, with its kind.
CUT_OFF = "{} that cannot be decoded: cut off, damaged, or of a rare kind"


def verify_images(
    table: ItemTable,
    *,
    mode: Literal["full", "header", "none"] = "full",
    max_bad_share: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    log_file: str | os.PathLike[str] | None = None,
) -> ItemTable:
    """Return the table without the rows whose pictures cannot be used, as :func:`usable` says.

    Args:
        table: rows to check.
        mode: how closely.
        max_bad_share: largest share that may be bad, 0 to 1.
        max_pixels: most pixels of a picture.
        log_file: local file for what is bad.

    Returns:
        The good rows in their order; triplets that lost a picture are gone.

    Raises:
        UserError: more is bad than allowed, nothing is left, or the log file cannot be written.
    """
    good = usable(
        table, mode=mode, max_bad_share=max_bad_share, max_pixels=max_pixels, log_file=log_file
    )
    return table if good.all() else table.select(good)


def usable(
    table: ItemTable,
    *,
    mode: Literal["full", "header", "none"] = "full",
    max_bad_share: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    log_file: str | os.PathLike[str] | None = None,
    trusted: np.ndarray | None = None,
) -> np.ndarray:
    """Return which rows have pictures that can be used, (N,) bool.

    What training would fail on is found with the decoder that training uses. Each bad picture and
    each problem of the reader is named with its reason in the log file. Files are only read.

    Args:
        table: rows to check; a file that several rows name is read once.
        mode: `full` decodes every picture; `header` reads its kind and size only, which misses
            pictures that are cut off or damaged inside; `none` looks at no picture, and only the
            problems of the reader count.
        max_bad_share: largest share that may be bad, 0 to 1: that of the rows with a bad picture
            plus that of the rows (or triplets) that the reader could not use; default 0.01.
        max_pixels: most pixels of a picture by its header; checked before it is decoded, so that
            a small file cannot fill the memory; default 100 million.
        log_file: local file for what is bad, `path: reason` each; none by default. It is written
            whole, and only if something is bad (one that is there is emptied).
        trusted: (N,) bool, rows that are known to be good and are not looked at; none by default.

    Raises:
        UserError: more is bad than allowed, nothing is left, or the log file cannot be written.
    """
    looked_at = np.flatnonzero(np.ones(len(table), bool) if trusted is None else ~trusted)
    reasons = {}
    if mode != "none" and len(looked_at):
        found = _bad_files(table.select(looked_at), mode, max_pixels)
        reasons = {int(looked_at[row]): why for row, why in found.items()}
    bad_rows = np.fromiter(reasons, np.int64, len(reasons))
    faults = [*table.problems, *(f"{table.path[row]}: {why}" for row, why in reasons.items())]
    if log_file is not None and (faults or os.path.exists(log_file)):
        try:
            with files.whole_file(log_file) as stream:
                stream.writelines(f"{fault}\n" for fault in faults)
        except OSError as error:
            raise UserError(f"cannot write {log_file}: {files.reason(error)}") from None
    good = np.ones(len(table), bool)
    if not faults:
        return good

    listed = len(table.triplets) or len(table)
    share = len(bad_rows) / max(len(table), 1)
    share += len(table.problems) / (len(table.problems) + listed)
    told = f"; all of them are in {log_file}" if log_file is not None else ""
    if share > max_bad_share:
        raise UserError(
            f"{len(faults)} pictures and rows cannot be used, a share of {share:.2%} where "
            f"max_bad_share allows {max_bad_share:.2%}; the first: {faults[0]}{told}"
        )
    good[bad_rows] = False
    if not good.any():
        raise UserError(f"no picture can be used; the first: {faults[0]}{told}")
    log.warning(
        "%d pictures and rows are left out (%.2f%%); the first: %s%s",
        len(faults), 100 * share, faults[0], told,
    )  # fmt: skip
    return good


def require_split(table: ItemTable, names: str, key: str = "split") -> ItemTable:
    """Return the rows of some splits, of which there must be any.

    Args:
        table: rows to choose from.
        names: comma list of splits.
        key: what the message calls the list, such as `train_split`.

    Raises:
        UserError: the table is empty, or has no row of these splits; the message names those
            that it has.
    """
    if not len(table):
        raise UserError("the data set holds no pictures")
    rows = table.in_split(names)
    if not len(rows):
        known = ", ".join(name for name in table.splits if name)
        raise UserError(
            f"{key}={names!r} has no pictures; "
            + (f"the data set has the splits {known}" if known else "the data set has no splits")
        )
    return rows


def _bad_files(
    table: ItemTable,
    mode: Literal["full", "header"],
    max_pixels: int,
) -> dict[int, str]:
    """Return the rows that cannot be used, each with its reason, in order."""
    from PIL import Image

    decode = _decoder() if mode == "full" else None
    paths = list(dict.fromkeys(table.path))
    found: dict[str, tuple[int, int] | str] = {}

    def check(chunk: list[str]) -> list[tuple[int, int] | str]:
        return [_check(path, max_pixels, decode) for path in chunk]

    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    # Pillow warns of pictures above a limit of its own; here `max_pixels` decides.
    with warnings.catch_warnings(), ThreadPoolExecutor((os.cpu_count() or 1) + 2) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with bar("checking pictures", len(paths)) as advance:
                for chunk, results in zip(chunks, pool.map(check, chunks), strict=True):
                    found.update(zip(chunk, results, strict=True))
                    advance(len(chunk))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return dict(_bad_rows(table, found))


def _bad_rows(
    table: ItemTable, found: dict[str, tuple[int, int] | str]
) -> Iterator[tuple[int, str]]:
    has_box = ~np.isnan(table.box[:, 0])
    for row, path in enumerate(table.path):
        result = found[path]
        if isinstance(result, str):
            yield row, result
        elif has_box[row] and (fault := _box_fault(table.box[row], result)):
            yield row, fault


def _box_fault(box: np.ndarray, size: tuple[int, int]) -> str:
    """Return how a box fails to be in a picture of a width and height, or `''`."""
    x, y, w, h = box.tolist()
    width, height = size
    slack_x, slack_y = (max(1, BOX_SLACK * side) for side in size)
    if min(x + slack_x, y + slack_y, width + slack_x - x - w, height + slack_y - y - h) >= 0:
        return ""
    reason = f"the box {x:g},{y:g},{w:g},{h:g} reaches out of the picture of "
    return f"{reason}{width} x {height} pixels"


def read_picture(path: str) -> tuple[bytes, str]:
    """Return the content of a picture file, and why there is none or `''`."""
    try:
        contents = files.read_bytes(path)
    except OSError as error:
        return b"", files.reason(error)
    except Exception as error:  # Remote files fail in ways of their own.
        return b"", f"cannot be read: {_first_line(error)}"
    return contents, "" if contents else "the file is empty"


def fault_before_decoding(contents: bytes, box: np.ndarray, *, max_pixels: int = MAX_PIXELS) -> str:
    """Return what :func:`usable` finds wrong with a picture without decoding it, or `''`.

    Args:
        contents: of its file.
        box: float32 (4,) as in an :class:`ItemTable`.
        max_pixels: most pixels by its header.
    """
    header = _header(io.BytesIO(contents), max_pixels)
    if isinstance(header, str):
        return header
    if contents.startswith(JPEG_BEGIN) and contents.rfind(JPEG_END) < 0:
        return CUT_OFF.format(header[2])
    return "" if np.isnan(box[0]) else _box_fault(box, header[:2])


def fault_of_kind(contents: bytes) -> str:
    """Return what to say of a picture with a good header that the decoder refuses."""
    header = _header(io.BytesIO(contents), MAX_PIXELS)
    return header if isinstance(header, str) else CUT_OFF.format(header[2])


def _check(
    path: str, max_pixels: int, decode: Callable[[bytes], Any] | None
) -> tuple[int, int] | str:
    """Return width and height of a good picture, or why it is not one."""
    contents = b""
    if files.is_remote(path):
        contents, fault = read_picture(path)
        if fault:
            return fault
    else:
        try:
            if not os.path.getsize(path):
                return "the file is empty"
        except OSError as error:
            return files.reason(error)
    header = _header(io.BytesIO(contents) if contents else path, max_pixels)
    if isinstance(header, str):
        return header
    width, height, kind = header
    if decode is not None:
        try:
            decode(contents or files.read_bytes(path))
        except MemoryError:
            return f"{width} x {height} pixels do not fit into memory"
        except Exception:  # Whatever the decoder raises would have stopped training.
            return CUT_OFF.format(kind)
    return width, height


def _header(source: str | io.BytesIO, max_pixels: int) -> tuple[int, int, str | None] | str:
    """Return width, height and kind of a picture by its header, or why it is none."""
    from PIL import Image

    try:
        with Image.open(source) as picture:
            width, height = picture.size
            kind = picture.format
    except Image.DecompressionBombError:
        return f"far more pixels than the {max_pixels:,} allowed"
    except Image.UnidentifiedImageError:
        return "not a picture of a known kind"
    except Exception as error:  # A header may be damaged in any way.
        # What the system says (a folder, no permission) comes with a number.
        if isinstance(error, OSError) and error.errno:
            return files.reason(error)
        return f"not a picture, or its header is damaged ({_first_line(error)})"
    if width * height > max_pixels:
        return f"{width} x {height} pixels, more than the {max_pixels:,} allowed"
    return width, height, kind


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _decoder() -> Callable[[bytes], Any]:
    """Return what raises for the pictures that :func:`trainer.data.decode.load` raises for."""
    import tensorflow as tf

    from trainer.data.decode import load

    def decode(contents: bytes) -> None:
        with tf.device("CPU:0"):
            if contents.startswith(JPEG_BEGIN):
                # The decoder refuses it, too, but each time with a line on the terminal.
                if contents.rfind(JPEG_END) < 0:
                    raise ValueError("cut off: the mark of the end is missing")
                # An eighth of the size: the whole file is read and unpacked, and only then does
                # work fall away. A crop would stop reading at its last line.
                tf.io.decode_jpeg(contents, channels=3, ratio=8)
            elif contents.startswith(b"\x89PNG"):
                # What follows in `load` cannot fail, and takes ten times longer.
                tf.io.decode_png(contents, channels=4)
            else:
                load(tf.constant(contents), 32, pillow=True)

    return decode

"""Contact sheets: queries and what was found for them, as one PNG to look at."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import write_bytes
from trainer.data.open_image import open_image
from trainer.retrieval.results import RetrievalResults

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, PLATE = "#1f2328", "#6a737d", "#ffffff", "#f1f3f5"
# A green and a red of different brightness, told apart by the mark as well as the colour.
RIGHT, WRONG = "#12855a", "#d1442f"
PADDING, FRAME = 10, 4


@dataclass(frozen=True)
class Picture:
    """One picture of a sheet.

    Attributes:
        path: local file or URL.
        label: shown below it; a neighbour with the query's label is right. None: not known.
        box: x, y, w, h in pixels of the file, the part to show; None or NaN: all of it.
    """

    path: str
    label: str | None = None
    box: Sequence[float] | np.ndarray | None = None


@dataclass(frozen=True)
class SheetRow:
    """A query and its neighbours, nearest first, with their scores, or words in their place."""

    query: Picture
    neighbours: Sequence[Picture]
    scores: Sequence[float | str]


def sheet_rows(
    results: RetrievalResults,
    queries: Sequence[Picture],
    items: Mapping[Any, Picture],
    limit: int = 8,
) -> list[SheetRow]:
    """Return one row per query of `results`.

    Args:
        results: what a search returned.
        queries: the picture of each query, in the order of the results.
        items: id -> picture, for every id that was found.
        limit: neighbours shown at most.
    """
    rows = []
    for number, query in enumerate(queries):
        ids, scores = (part[:limit].tolist() for part in results.row(number))
        rows.append(SheetRow(query, [items[name] for name in ids], scores))
    return rows


def contact_sheet(
    rows: Sequence[SheetRow],
    out: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
    cell: int = 160,
    columns: Sequence[str] = (),
    marks: bool = True,
) -> Image.Image:
    """Draw queries on the left, their neighbours to the right, and return the sheet.

    Where both labels are known, right neighbours have a green frame and a tick, wrong ones a red
    frame and a cross. Pictures keep their aspect ratio; one that cannot be read is shown as such.

    Args:
        rows: at least one.
        out: a PNG file to write, complete or not at all.
        title: a line above the sheet.
        cell: side of a picture, in pixels, at least 48.
        columns: what stands above the columns, the query's first; default `query`, 1, 2, ...
        marks: whether labels tell right from wrong; if not, they only stand below the pictures.

    Raises:
        UserError: no rows, or a disk that refuses.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows:
        raise UserError("there is no query to show")
    cell = max(cell, 48)
    text = max(12, cell // 12)
    font, bold = ImageFont.load_default(text), ImageFont.load_default(text + 2)
    line = math.ceil(text * 1.35)
    width = max(len(row.neighbours) for row in rows)
    head = (PADDING + 2 * line if title else PADDING) + line
    step_x, step_y = cell + PADDING, cell + 2 * line + 2 * PADDING
    gap = 2 * PADDING  # sets the queries apart
    size = (PADDING + step_x + gap + width * step_x, head + len(rows) * step_y + PADDING)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((PADDING, PADDING), _fit(draw, title, bold, size[0] - 2 * PADDING), INK, bold)

    def left(column: int) -> int:
        return PADDING + (0 if column == 0 else gap) + column * step_x

    names = columns or ["query", *(str(number) for number in range(1, width + 1))]
    for column, name in enumerate(names):
        draw.text((left(column) + cell // 2, head - line), name, FAINT, font, anchor="ma")
    divider = PADDING + step_x + gap // 2 - PADDING // 2
    draw.line((divider, head - line, divider, size[1] - PADDING), "#d0d7de", 2)

    for number, row in enumerate(rows):
        top = head + PADDING // 2 + number * step_y
        if number:
            draw.line((PADDING, top - PADDING, size[0] - PADDING - 1, top - PADDING), PLATE)
        _paste(sheet, draw, row.query, (left(0), top), cell, font)
        _captions(draw, (left(0), top + cell + 3), cell, line, font, row.query.label, "")
        for column, (item, score) in enumerate(
            zip(row.neighbours, row.scores, strict=True), start=1
        ):
            place = (left(column), top)
            _paste(sheet, draw, item, place, cell, font)
            if marks and item.label is not None and row.query.label is not None:
                _mark(draw, place, cell, right=item.label == row.query.label)
            below = (place[0], top + cell + 3)
            words = score if isinstance(score, str) else f"{score:.3f}"
            _captions(draw, below, cell, line, font, item.label, words)
    if out is not None:
        _save(sheet, out)
    return sheet


def side_by_side(sheets: Sequence[Image.Image], out: str | os.PathLike[str]) -> Image.Image:
    """Write sheets next to each other as one PNG file, complete or not at all, and return it.

    Raises:
        UserError: a disk that refuses.
    """
    from PIL import Image

    size = (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets))
    whole = Image.new("RGB", size, PAPER)
    left = 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width
    _save(whole, out)
    return whole


def _save(sheet: Image.Image, out: str | os.PathLike[str]) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(os.fspath(out), buffer.getvalue())


def thumbnail(picture: Picture, side: int) -> Image.Image:
    """Return a picture, cut to its box, whose longer side has `side` pixels.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no picture, or one too large to be honest.
    """
    from PIL.Image import Resampling

    image = open_image(picture.path, picture.box, side=side)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Resampling.LANCZOS if scale < 1 else Resampling.BILINEAR)


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Picture,
    place: tuple[int, int],
    cell: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    x, y = place
    draw.rectangle((x, y, x + cell - 1, y + cell - 1), PLATE)
    try:
        image = thumbnail(picture, cell)
    except (OSError, ValueError):
        draw.line((x, y, x + cell - 1, y + cell - 1), "#d0d7de", 1)
        draw.line((x, y + cell - 1, x + cell - 1, y), "#d0d7de", 1)
        lines = ("cannot be read", os.path.basename(picture.path))
        for number, words in enumerate(lines):
            fitted = _fit(draw, words, font, cell - 12)
            middle = (x + cell // 2, y + cell // 2 + (number * 2 - 1) * cell // 12)
            ends = draw.textbbox(middle, fitted, font, anchor="mm")
            draw.rectangle((ends[0] - 3, ends[1] - 2, ends[2] + 3, ends[3] + 2), PLATE)
            draw.text(middle, fitted, FAINT, font, anchor="mm")
        return
    sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))


def _mark(draw: ImageDraw.ImageDraw, place: tuple[int, int], cell: int, *, right: bool) -> None:
    x, y = place
    colour = RIGHT if right else WRONG
    draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=colour, width=FRAME)
    r = max(8, cell // 14)
    cx, cy = x + FRAME + r + 1, y + FRAME + r + 1
    draw.ellipse((cx - r, cy - r, cx + r, cy + r), colour, PAPER, width=2)
    a, width = r * 0.45, max(2, r // 5)
    if right:
        tick = [(cx - a, cy), (cx - a * 0.25, cy + a * 0.8), (cx + a, cy - a * 0.8)]
        draw.line(tick, PAPER, width, joint="curve")
    else:
        draw.line((cx - a, cy - a, cx + a, cy + a), PAPER, width)
        draw.line((cx - a, cy + a, cx + a, cy - a), PAPER, width)


def _captions(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    cell: int,
    line: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    label: str | None,
    score: str,
) -> None:
    words = [word for word in (label, score) if word]
    for number, word in enumerate(words):
        colour = INK if number == 0 else FAINT
        at = (place[0], place[1] + number * line)
        draw.text(at, _fit(draw, word, font, cell), colour, font)


def _fit(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    width: int,
) -> str:
    """Return `text` on one line, shortened with an ellipsis where it is wider than `width`."""
    text = " ".join(text.split())
    if draw.textlength(text, font) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if draw.textlength(text[:middle] + "…", font) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"

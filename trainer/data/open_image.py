"""A picture file opened with Pillow, as the model gets it before resizing."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.files import read_bytes

if TYPE_CHECKING:
    from PIL import Image

#: What transparent pictures are laid on.
PAPER = "#ffffff"


def open_image(
    source: str | bytes, box: Sequence[float] | np.ndarray | None = None, side: int | None = None
) -> Image.Image:
    """Return a picture as RGB, cut to its box.

    Transparent pictures are laid on white, 16-bit values lose their low byte, animations give
    their first frame, and orientation tags are ignored.

    Args:
        source: local file or URL, or the content of a file.
        box: x, y, w, h in pixels of the file; None or NaN: all of it.
        side: if no detail below this is needed, in pixels: large JPEG files then open faster.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no picture, or one too large to be honest.
    """
    from PIL import Image

    content = source if isinstance(source, bytes) else read_bytes(source)
    try:
        with Image.open(io.BytesIO(content)) as image:
            whole = box is None or bool(np.isnan(np.asarray(box)).any())
            if side is not None and whole:
                image.draft(None, (side, side))
            opened = to_rgb(image)
    except (Image.DecompressionBombError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(str(error)) from None
    return opened if whole or box is None else opened.crop(_window(box, opened.size))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an opened picture as RGB; see :func:`open_image`."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        front = image.convert("RGBA")
        back = Image.new("RGBA", front.size, PAPER)
        return Image.alpha_composite(back, front).convert("RGB")
    return image.convert("RGB")


def _window(box: Sequence[float] | np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box in whole pixels, never empty, inside a picture of `size`."""
    x, y, w, h = (float(value) for value in box)
    left = min(max(math.floor(x), 0), size[0] - 1)
    top = min(max(math.floor(y), 0), size[1] - 1)
    right = min(max(math.ceil(x + w), left + 1), size[0])
    bottom = min(max(math.ceil(y + h), top + 1), size[1])
    return left, top, right, bottom

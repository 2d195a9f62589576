"""What clients send as pictures: looked at before anything is decoded, cut and turned upright."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.fetch import FORMATS
from trainer.data.fetch.pictures import BEGINNINGS, ENDS
from trainer.data.open_image import to_rgb
from trainer.serving.api.errors import Refusal
from trainer.serving.api.gif import first_frame

if TYPE_CHECKING:
    from PIL import Image

#: Left, top, right, bottom in whole pixels.
Box = tuple[int, int, int, int]
#: The bytes of a picture, and a box in pixels as stored (None: all of it).
Part = tuple[bytes, Box | None]
#: From parts of pictures to their pixels, uint8 (H, W, 3) each, as the model wants them.
Decode = Callable[[Sequence[Part]], Sequence[np.ndarray]]

#: Scans of a progressive JPEG file: usual ones have ten.
MOST_SCANS = 100
#: Pixels of all scans together: each costs as much as a whole picture.
MOST_SCANNED = 600_000_000
#: Pixels of a side of a JPEG file that Pillow writes.
LONGEST_JPEG = 65_500

_NUMBER = r"-?[0-9]{1,6}(\.[0-9]{1,6})?"
BOX = rf"^({_NUMBER}(,{_NUMBER}){{3}})?$"


@dataclass(frozen=True)
class Looked:
    """A picture by its header.

    Attributes:
        content: the file; of a moving picture the first frame.
        width: pixels, as stored.
        height: pixels, as stored.
        orientation: EXIF's, 1 to 8: 1 if it is stored upright.
    """

    content: bytes
    width: int
    height: int
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels, turned upright."""
        size = self.width, self.height
        return size if self.orientation < 5 else size[::-1]


def look(content: bytes, most_pixels: int) -> Looked:
    """Return a picture by its header.

    Args:
        content: the file.
        most_pixels: most that it may have.

    Raises:
        Refusal: 415 if it is no picture of a kind in FORMATS, 422 if it is damaged, has more
            pixels than allowed, or is made to keep decoders busy.
    """
    from PIL import Image

    if not content:
        raise Refusal(415, "the picture is an empty file")
    if content.startswith(b"GIF8"):
        content = first_frame(content)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            orientation = _orientation(picture)
            kind = picture.format
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(most_pixels) from None
    except Image.UnidentifiedImageError:
        sound = content.startswith(b"RIFF") and content[8:12] != b"WEBP"
        if content.startswith(BEGINNINGS) and not sound:
            raise Refusal(422, "the picture is damaged: its header cannot be read") from None
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise Refusal(415, f"not a picture that can be searched with: send {kinds}") from None
    except Exception:  # A damaged header can upset its reader in any way.
        raise Refusal(422, "the picture is damaged: its header cannot be read") from None
    if width * height > most_pixels:
        raise _too_large(most_pixels)
    if not width * height:
        raise Refusal(422, "the picture has no pixels")
    if content.rfind(ENDS.get(kind or "", b"")) < 0:
        raise Refusal(422, "the picture is cut off: the mark of its end is missing")
    if kind in ("JPEG", "MPO"):
        scans = content.count(b"\xff\xda")
        if scans > MOST_SCANS or scans * width * height > MOST_SCANNED:
            raise Refusal(422, "the picture has more scans than any camera writes")
    return Looked(content, width, height, orientation)


def box_of(text: str, size: tuple[int, int]) -> Box | None:
    """Return a box in whole pixels, inside a picture; None for all of it.

    Args:
        text: `x,y,w,h` in pixels of the upright picture, or empty: as :data:`BOX` says.
        size: width and height of the upright picture.

    Raises:
        Refusal: 422 if it shows nothing of the picture.
    """
    if not text:
        return None
    x, y, w, h = (float(value) for value in text.split(","))
    left, top = max(math.floor(x), 0), max(math.floor(y), 0)
    right, bottom = min(math.ceil(x + w), size[0]), min(math.ceil(y + h), size[1])
    if w <= 0 or h <= 0 or left >= right or top >= bottom:
        raise Refusal(422, f"box: shows nothing of the picture of {size[0]} x {size[1]} pixels")
    return left, top, right, bottom


def sides(box: Box) -> tuple[int, int, int, int]:
    """Return x, y, width and height of a box."""
    left, top, right, bottom = box
    return left, top, right - left, bottom - top


def pixels_of(pictures: Sequence[tuple[Looked, Box | None]], decode: Decode) -> list[np.ndarray]:
    """Return what the model sees of pictures, upright, uint8 (H, W, 3) each.

    Args:
        pictures: as :func:`look` returns them, and boxes in pixels of the upright pictures; None
            for all of it.
        decode: does the work, on the pictures as they are stored.

    Raises:
        Refusal: 422 if one of them cannot be decoded.
    """
    parts = [
        (picture.content, None if box is None else _as_stored(box, picture))
        for picture, box in pictures
    ]
    try:
        stored = decode(parts)
    except Exception:  # Whatever upsets a decoder is the picture's doing: memory is bounded.
        raise Refusal(422, "the picture is damaged or cut off: it cannot be decoded") from None
    return [
        _turned(pixels, picture.orientation)
        for pixels, (picture, _) in zip(stored, pictures, strict=True)
    ]


def decode_plainly(parts: Sequence[Part]) -> list[np.ndarray]:
    """Decode with Pillow, in full size: what serves a model that takes any size."""
    from PIL import Image

    pixels = []
    for content, box in parts:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            pixels.append(np.asarray(to_rgb(picture).crop(box)))
    return pixels


def upright_file(picture: Looked) -> bytes:
    """Return a picture as a file that is stored upright, so that readers of any kind agree.

    Raises:
        Refusal: 422 if it cannot be decoded.
    """
    from PIL import Image

    if picture.orientation == 1:
        return picture.content
    if max(picture.width, picture.height) > LONGEST_JPEG:
        raise Refusal(422, f"the picture has a side of more than {LONGEST_JPEG:,} pixels")
    [pixels] = pixels_of([(picture, None)], decode_plainly)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _too_large(most: int) -> Refusal:
    return Refusal(422, f"the picture has more than the {most:,} pixels allowed")


def _orientation(picture: Image.Image) -> int:
    """Return EXIF's orientation, 1 where there is none that can be read."""
    from PIL import Image

    # Pillow would decode a whole PNG file to look for what may stand behind the pixels.
    if "exif" not in picture.info:
        return 1
    exif = Image.Exif()
    try:
        exif.load(picture.info["exif"])
        value = int(exif.get(0x0112, 1))
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def _as_stored(box: Box, picture: Looked) -> Box:
    """Return a box of the upright picture in pixels of the stored one."""
    left, top, right, bottom = box
    if picture.orientation >= 5:  # Rows are columns.
        left, top, right, bottom = top, left, bottom, right
    if picture.orientation in (2, 3, 7, 8):
        left, right = picture.width - right, picture.width - left
    if picture.orientation in (3, 4, 6, 7):
        top, bottom = picture.height - bottom, picture.height - top
    return left, top, right, bottom


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels (H, W, 3) as they are seen upright."""
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if orientation >= 5 else pixels)

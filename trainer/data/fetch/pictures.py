"""Whether some bytes are a picture that training can use."""

from __future__ import annotations

import io

from trainer.data.fetch.results import FORMATS, Fault

#: How the files of the kinds in FORMATS begin.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM")

#: What stands at the end of a file; TensorFlow, unlike Pillow, takes none without.
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def check(
    content: bytes, content_type: str, *, most_pixels: int, least_side: int
) -> tuple[str, int, int]:
    """Decode a picture to its end, the first frame if it moves.

    Args:
        content: the file.
        content_type: what the server calls it; for the words of the error only.
        most_pixels: most pixels by the header, looked at before anything is decoded.
        least_side: pixels that both sides must have.

    Returns:
        Format, one of FORMATS; width and height in pixels.

    Raises:
        Fault: `wrong_type`, `damaged`, `too_many_pixels` or `too_small`.
    """
    from PIL import Image

    if not content:
        raise Fault("wrong_type", "an empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            kind = picture.format or ""
            width, height = picture.size
            if width * height > most_pixels:
                raise Fault(
                    "too_many_pixels",
                    f"{width} x {height} pixels, more than the {most_pixels:,} allowed",
                )
            if min(width, height) < least_side:
                raise Fault(
                    "too_small",
                    f"{width} x {height} pixels, where a side of {least_side} is the least allowed",
                )
            if kind == "PNG":
                # The sums over the chunks, which decoding alone does not look at.
                picture.verify()
        if content.rfind(ENDS.get(kind, b"")) < 0:
            raise Fault("damaged", f"{kind}: the mark of the end is missing")
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            # A JPEG file is read and unpacked to its end, and only then does work fall away.
            picture.draft(None, (1, 1))
            picture.load()
    except Fault:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        words = f"far more pixels than the {most_pixels:,} allowed"
        raise Fault("too_many_pixels", words) from None
    except Image.UnidentifiedImageError:
        if content.startswith(BEGINNINGS):
            raise Fault("damaged", "the header of the picture is damaged") from None
        begins = content[:24].decode("ascii", "replace")
        words = f"not a picture: {content_type or 'no content type'}, begins with {begins!r}"
        raise Fault("wrong_type", words) from None
    except Exception as error:  # A damaged file can upset its decoder in any way.
        raise Fault("damaged", f"{error or type(error).__name__}") from None
    # Phones put several pictures into one JPEG file, of which every decoder takes the first.
    return "JPEG" if kind == "MPO" else kind, width, height

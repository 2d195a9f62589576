"""The first frame of a GIF file. Decoders unpack all of them, whatever they would come to."""

from __future__ import annotations

from trainer.serving.api.errors import Refusal

_IMAGE, _EXTENSION, _END = 0x2C, 0x21, 0x3B


def first_frame(content: bytes) -> bytes:
    """Return a GIF file that ends after the first frame of `content`.

    Raises:
        Refusal: 422 if there is none, or the file is damaged before its end.
    """
    try:
        end = _end_of_first(content)
    except IndexError:
        raise Refusal(422, "the picture is damaged or cut off: a GIF without a frame") from None
    return content[:end] + bytes([_END])


def _end_of_first(content: bytes) -> int:
    place = 13 + _table(content[10])
    while content[place] == _EXTENSION:
        place = _behind_blocks(content, place + 2)
    if content[place] != _IMAGE:
        raise IndexError
    # Behind the descriptor and its colours, a byte says how many bits the codes begin with.
    return _behind_blocks(content, place + 10 + _table(content[place + 9]) + 1)


def _table(flags: int) -> int:
    """Return the length in bytes of the table of colours that flags tell of."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_blocks(content: bytes, place: int) -> int:
    """Return where a chain of blocks ends: each begins with its length, the last has none."""
    while length := content[place]:
        place += 1 + length
    return place + 1

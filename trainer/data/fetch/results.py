"""What becomes of a URL: a picture, or a failure with one of a closed list of reasons."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

#: Kinds of pictures that are taken, as Pillow names them: all are read by `trainer.data.decode`.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")

#: Every reason of a failure, and whether it may pass: whether another try can end otherwise.
REASONS = {
    "timeout": True,  # no connection, or no byte, for so long; or status 408
    "deadline": True,  # bytes came, but the whole took too long
    "connection": True,  # refused, reset, broken TLS, not HTTP; a resolver that is out of order
    "truncated": True,  # fewer bytes than announced, or a picture cut off where nothing was
    "busy": True,  # status 425 or 429, or a host that is left in peace and was not asked
    "server_error": True,  # status 500 to 599
    "bad_url": False,  # not http or https, no host, malformed, or with user name and password
    "refused": False,  # a host or an address that the options do not allow
    "unknown_host": False,  # there is no such name
    "certificate": False,  # the server cannot prove its name
    "redirect": False,  # too many, in a circle, without aim, or to where one may not go
    "not_found": False,  # status 404
    "gone": False,  # status 410
    "denied": False,  # status 401, 403, 407 or 451
    "status": False,  # any other status than 200
    "too_large": False,  # more bytes than allowed
    "wrong_type": False,  # not a picture of a kind in FORMATS, such as a page with an excuse
    "damaged": False,  # a picture that cannot be decoded
    "too_many_pixels": False,  # more pixels than allowed
    "too_small": False,  # a placeholder: a side shorter than allowed
}

#: Longest detail, characters.
DETAIL = 200


@dataclass(frozen=True)
class Fetched:
    """A picture that came whole and was decoded to its end.

    Attributes:
        url: as asked for.
        final_url: where it came from after all redirects; equal to `url` without any.
        content: the file, byte by byte as the server keeps it.
        format: one of :data:`FORMATS`; told by the content, whatever the server calls it.
        width: pixels, of the first frame if it moves.
        height: pixels.
        attempts: how often it was asked for, from 1.
    """

    url: str
    final_url: str
    content: bytes
    format: str
    width: int
    height: int
    attempts: int = 1

    @property
    def sha256(self) -> str:
        """64 hex digits over `content`: equal for copies of one file at several URLs."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def suffix(self) -> str:
        """Usual end of a file name for this kind, such as `.jpg`."""
        return "." + {"JPEG": "jpg"}.get(self.format, self.format.lower())


@dataclass(frozen=True)
class Failure:
    """Why there is no picture.

    Attributes:
        url: as asked for, but for user name and password: see :func:`without_credentials`.
        reason: one of :data:`REASONS`.
        detail: what happened, one line of at most 200 characters without any password.
        attempts: how often one set out to ask for it; 0 if it was turned away before.
        retry: whether another run may try again: `REASONS[reason]`.
        wait: seconds for which the host is to be left in peace, as it asked by
            Retry-After, a day at most, or because it is out of order; else 0. Another run that
            comes sooner does so in vain.
    """

    url: str
    reason: str
    detail: str
    attempts: int
    retry: bool
    wait: float = 0.0


class Fault(Exception):
    """Ends an attempt, within this package; :meth:`Fetcher.fetch` turns it into a failure.

    Args:
        reason: a key of :data:`REASONS`.
        detail: what happened, in any words.
        wait: seconds for which the server asked to be left in peace.
    """

    def __init__(self, reason: str, detail: str, wait: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.wait = reason, detail, wait


def failure(url: str, reason: str, detail: str, *, attempts: int, wait: float = 0.0) -> Failure:
    """Return a failure whose words are fit for a log.

    Args:
        url: as asked for.
        reason: a key of :data:`REASONS`.
        detail: what happened, in any words.
        attempts: how often it was asked for.
        wait: seconds for which the server asked to be left in peace.
    """
    line = " ".join(without_credentials(detail).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return Failure(
        url=without_credentials(url),
        reason=reason,
        detail=line if len(line) <= DETAIL else line[: DETAIL - 3] + "...",
        attempts=attempts,
        retry=REASONS[reason],
        wait=wait,
    )


def without_credentials(text: str) -> str:
    """Return `text` with user names and passwords of the URLs in it as `***`."""
    return re.sub(r"//[^/?#\s]*@", "//***@", text)

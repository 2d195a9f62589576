"""Addresses of the dump's pictures: full size, reduced, and where a record has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

#: Fields of a metadata record that hold addresses. They name the same pictures at several sizes;
#: older files of the dump have `image` alone.
PRODUCT_FIELDS = ("imageURLHighRes", "imageURL", "image")
#: Field of a review.
USER_FIELDS = ("image",)

#: A file name as Amazon's servers take it: what is shown, how large, which format.
_NAME = re.compile(r"(?P<stem>[^.]+)(?P<tags>(?:\.+_[^.]*)*)\.+(?P<suffix>[A-Za-z]{3,4})")


def full_size(url: str) -> str:
    """Return the address of a picture at full size: without the size tag between the last dots.

    An address that has none is returned as it is.

    >>> full_size("https://m.media-amazon.com/images/I/71aBc+d._SY88.jpg")
    'https://m.media-amazon.com/images/I/71aBc+d.jpg'
    """
    return _renamed(url, "")


def reduced(url: str, pixels: int) -> str:
    """Return the address of a picture whose longer side the server reduces to so many pixels.

    An address without the name of a picture file at its end is returned as it is.

    Args:
        url: at any size.
        pixels: of the longer side.

    >>> reduced("https://m.media-amazon.com/images/I/71aBc+d._SY88.jpg", 256)
    'https://m.media-amazon.com/images/I/71aBc+d._SL256_.jpg'
    """
    return _renamed(url, f"._SL{pixels}_")


def _renamed(url: str, tag: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        # Fetching it will say what is wrong with it.
        return url
    folder, _, name = parts.path.rpartition("/")
    match = _NAME.fullmatch(name)
    if match is None:
        return url
    path = f"{folder}/{match['stem']}{tag}.{match['suffix']}"
    return urlunsplit(parts._replace(path=path))


def pictures_of(record: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """Return the addresses of a record's pictures at full size, each once, in alphabetical order.

    Args:
        record: of the dump. Fields that are missing or hold something else are passed over.
        fields: that hold an address or a list of them.
    """
    found = set()
    for field in fields:
        value = record.get(field)
        for url in value if isinstance(value, list) else [value]:
            if isinstance(url, str) and url.strip().startswith(("http://", "https://")):
                found.add(full_size(url.strip()))
    return sorted(found)

"""Pictures of products, small enough for a page."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from trainer.data.open_image import open_image
from trainer.serving.api.errors import Refusal

if TYPE_CHECKING:
    from trainer.serving.live import LiveCatalogue

#: Bytes of the pictures that are kept.
KEPT = 64_000_000
#: Of JPEG.
QUALITY = 85


class Thumbnails:
    """Makes small JPEG pictures of products, and keeps the latest ones; safe in threads.

    Args:
        catalogue: whose products.
    """

    def __init__(self, catalogue: LiveCatalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[object, bytes]] = OrderedDict()
        self._bytes = 0

    def of(self, name: str, size: int) -> bytes:
        """Return the picture of a product as a JPEG file, its box cut out.

        Args:
            name: id of the product.
            size: most pixels of the longer side.

        Raises:
            KeyError: there is no such product.
            Refusal: 404 if its picture cannot be read any more.
            UserError: what holds it cannot be read.
        """
        # Asked for before the picture: one that is replaced meanwhile is made anew next time.
        key, mark = (name, size), self._catalogue.picture_mark(name)
        with self._lock:
            if key in self._kept and self._kept[key][0] is mark:
                self._kept.move_to_end(key)
                return self._kept[key][1]
        made = self._make(name, size)
        with self._lock:
            self._bytes += len(made) - len(self._kept.pop(key, (None, b""))[1])
            self._kept[key] = mark, made
            while self._bytes > KEPT:
                self._bytes -= len(self._kept.popitem(last=False)[1][1])
        return made

    def _make(self, name: str, size: int) -> bytes:
        source, box = self._catalogue.picture(name)
        try:
            image = open_image(source, box, side=size)
            image.thumbnail((size, size))
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=QUALITY)
        except (OSError, ValueError):
            raise Refusal(404, "the picture of this product cannot be read any more") from None
        return stream.getvalue()

"""A small shop with drawn products, and the search service over it on a port of this machine."""

from __future__ import annotations

import io
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image, ImageDraw

from tests.serving.api.catalogue import embed, index_of
from trainer.serving.api import ServiceOptions, create_app
from trainer.serving.live import LiveCatalogue

#: Each in a bin of its own of the histogram that the tests search with.
COLOURS = {
    "red": (224, 32, 32),
    "green": (32, 160, 32),
    "blue": (32, 32, 224),
    "yellow": (224, 224, 32),
    "pink": (224, 96, 160),
    "teal": (32, 160, 160),
    "purple": (96, 32, 160),
    "orange": (224, 96, 32),
}
#: Outlines in percent of a picture's sides.
SHAPES = {
    "shirts": [(30, 15), (42, 20), (58, 20), (70, 15), (95, 35), (83, 48), (74, 42), (74, 88)]
    + [(26, 88), (26, 42), (17, 48), (5, 35)],
    "shoes": [(10, 35), (30, 32), (50, 52), (88, 62), (92, 76), (8, 76)],
    "bags": [(15, 42), (32, 42), (36, 18), (64, 18), (68, 42), (85, 42), (92, 88), (8, 88)],
}
#: What a page must show as it is.
EVIL = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
EVIL_CATEGORY = "odd </option><b>&amp;"


def draw(
    colour: tuple[int, int, int], shape: str = "shirts", size: tuple[int, int] = (96, 96)
) -> Image.Image:
    """Return a picture of one colour with a white outline of a product."""
    image = Image.new("RGB", size, colour)
    points = [(x * size[0] / 100, y * size[1] / 100) for x, y in SHAPES[shape]]
    ImageDraw.Draw(image).line([*points, points[0]], fill=(255, 255, 255), width=3)
    return image


def side_by_side(left: str, right: str, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Return a picture with a product in each half."""
    half = (size[0] // 2, size[1])
    image = Image.new("RGB", size)
    image.paste(draw(COLOURS[left], size=half), (0, 0))
    image.paste(draw(COLOURS[right], size=half), (half[0], 0))
    return image


def as_file(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    """Return a picture as the content of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def upload(image: Image.Image, name: str = "mine.png", kind: str = "PNG", **how: Any) -> Any:
    """Return a picture as Playwright gives it to a file field."""
    return {
        "name": name,
        "mimeType": f"image/{kind.lower()}",
        "buffer": as_file(image, kind, **how),
    }


def build_shop(folder: Path) -> Path:
    """Draw the products into `pictures`, index them, and return the folder of the index."""
    pictures = folder / "pictures"
    pictures.mkdir()
    rows = []

    def put(name: str, image: Image.Image, label: str, category: str, domain: str) -> None:
        image.save(pictures / name)
        rows.append([name, label, category, domain])

    for colour, value in COLOURS.items():
        for shape in SHAPES:
            # Bags are only in the shop.
            for domain in ("shop", "street")[: 1 if shape == "bags" else 2]:
                image = draw(
                    tuple(max(0, part - 9 * (domain == "street")) for part in value), shape
                )
                put(f"{colour} {shape} {domain}.png", image, f"{colour} {shape}", shape, domain)
    put("evil #1 100%?.png", draw((160, 160, 160)), EVIL, EVIL_CATEGORY, "shop")
    return index_of(pictures, ["path", "label", "category", "domain"], rows)


class Shop:
    """The search service in a thread; it can be stopped and started again on the same port."""

    def __init__(self, catalogue: LiveCatalogue, *, fetch: Any = None, **options: Any) -> None:
        self._make = partial(create_app, catalogue, embed, fetch=fetch)
        self._options = ServiceOptions(**({"rate": None, "access_log": False} | options))
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        app = self._make(self._options)
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            log_level="error",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        end = time.monotonic() + 20
        while not self._server.started:
            assert self._thread.is_alive(), "the service does not start"
            assert time.monotonic() < end, "the service takes too long to start"
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

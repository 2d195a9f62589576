"""A small dump whose pictures a server on this machine has: for tests of the whole walk."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from tests.data.http_server import MisbehavingServer, _Handler
from trainer.serving.export import export

#: Products, pictures of the shop and of customers of each, pixels.
PRODUCTS, SHOP, USER, SIDE = 12, 2, 2, 96


def photo(product: int, view: int) -> Image.Image:
    """Return a photograph: 4 x 4 patches that are the product's, and light that is the view's."""
    patches = np.random.default_rng(product).integers(0, 256, (4, 4, 3))
    noise = np.random.default_rng(1000 + 97 * product + view).normal(0, 12, (SIDE, SIDE, 3))
    pixels = np.kron(patches, np.ones((SIDE // 4, SIDE // 4, 1))) * 0.8 + 20 + 5 * view + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "jpeg", quality=95)
    return stream.getvalue()


class PhotoHandler(_Handler):
    """Serves `/photo/PRODUCT-VIEW.jpg`, reduced if its name has a size tag."""

    owner: PhotoServer

    def on_photo(self, name: str) -> None:
        match = re.fullmatch(r"(\d+)-(\d+)(?:\._SL(\d+)_)?\.jpg", name)
        assert match is not None, name
        time.sleep(self.owner.delay)
        picture = photo(int(match[1]), int(match[2]))
        if match[3]:
            picture.thumbnail((int(match[3]), int(match[3])))
        self.send(encoded(picture))


class PhotoServer(MisbehavingServer):
    """A misbehaving server that has the shop's photographs as well.

    Attributes:
        delay: seconds until it sends a photograph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delay = 0.0
        self._server.RequestHandlerClass = type("Bound", (PhotoHandler,), {"owner": self})


def asin(product: int) -> str:
    return f"B{product:09d}"


def shop_photos(server: MisbehavingServer, product: int) -> list[str]:
    return [server.url(f"/photo/{product}-{view}.jpg") for view in range(SHOP)]


def write_dump(
    folder: Path,
    server: MisbehavingServer,
    bad: dict[int, list[str]] | None = None,
    name: str = "Toys",
    products: int = PRODUCTS,
) -> tuple[Path, Path]:
    """Write reviews and metadata of the products, in gzip, and return their paths.

    The customers of each product send its own photographs (views from 10), and one sends a
    photograph of the next product instead. `bad` adds paths on the server to a product's reviews.
    """

    def reviews() -> Iterator[dict[str, Any]]:
        for product in range(products):
            for view in range(USER):
                path = f"/photo/{product}-{10 + view}._SY88.jpg"
                yield {"asin": asin(product), "overall": 5.0, "image": [server.url(path)]}
            other = server.url(f"/photo/{(product + 1) % products}-20._SY88.jpg")
            yield {"asin": asin(product), "image": [other, other]}
            yield {"asin": asin(product), "reviewText": "no picture"}
            for path in (bad or {}).get(product, []):
                yield {"asin": asin(product), "image": [server.url(path)]}
        yield {"asin": "NOT-IN-METADATA", "image": [server.url("/photo/0-30._SY88.jpg")]}

    def metadata() -> Iterator[dict[str, Any]]:
        for product in range(products):
            urls = shop_photos(server, product)
            yield {
                "asin": asin(product),
                "title": f"Toy {product}",
                "category": ["Toys", "Blocks"],
                "imageURL": [url.replace(".jpg", "._SX38_SY50_CR,0,0,38,50_.jpg") for url in urls],
                "imageURLHighRes": urls,
            }
        yield {"asin": "NO-REVIEWS", "imageURL": [server.url("/photo/77-0.jpg")]}

    paths = folder / f"{name}_5.json.gz", folder / f"meta_{name}.json.gz"
    for path, records in zip(paths, (reviews(), metadata()), strict=True):
        with gzip.open(path, "wt") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
    return paths


def write_run(folder: Path) -> Path:
    """Write what is needed of a run: an exported model that sees 4 x 4 patches, without light."""
    image = keras.Input((32, 32, 3))
    patches = keras.layers.AveragePooling2D(8)(image)
    vector = keras.layers.Flatten()(patches)
    vector = keras.layers.LayerNormalization(center=False, scale=False)(vector)
    export(keras.Model(image, keras.layers.UnitNormalization()(vector)), folder / "model")
    (folder / "config.json").write_text("{}")
    return folder

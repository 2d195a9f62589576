"""Step 2: all pictures at a reduced size, embedded by an exported model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from trainer.config import UserError
from trainer.data.fetch import Failure, Fetched, Fetcher
from trainer.data.fetch.results import failure
from trainer.launch.amazon_reviews.fetching import WorkOnBatches
from trainer.launch.amazon_reviews.options import FetchSettings
from trainer.launch.amazon_reviews.outcomes import Snapshots
from trainer.launch.amazon_reviews.pictures import reduced
from trainer.launch.beam import places
from trainer.launch.in_flight import in_flight

if TYPE_CHECKING:
    from trainer.serving.embedder import Embedder

#: A picture: `uses` are `asin` and side, `embedding` is float16 of unit length.
EMBEDDED = pa.schema(
    [
        ("url", pa.string()),
        ("uses", pa.list_(pa.struct([("asin", pa.string()), ("side", pa.string())]))),
        ("embedding", pa.binary()),
    ]
)

#: Sides of a product: the shop's pictures and its customers'.
SHOP, USER = "product", "user"


def wanted(product: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the pictures of a product with what they are wanted for."""
    for side, urls in ((SHOP, product["product_urls"]), (USER, product["user_urls"])):
        for url in urls:
            yield url, (product["asin"], side)


class EmbedPictures(WorkOnBatches):
    """Batch of rows of `Pending` -> snapshots of :data:`EMBEDDED`.

    Args:
        snapshots: where rows go.
        settings: how to fetch.
        model: folder of the exported model, local or remote.
        pixels: longer side of the pictures that servers are asked for.
    """

    def __init__(
        self, step: str, snapshots: Snapshots, settings: FetchSettings, model: str, pixels: int
    ) -> None:
        super().__init__(step, snapshots, EMBEDDED, settings)
        self._model = model
        self._pixels = pixels
        # The model fills the memory of a worker: its threads have one between them.
        self._shared = Shared()
        self._embedder: Embedder

    def setup(self) -> None:
        def load() -> Embedder:
            from trainer.serving.embedder import Embedder

            with places.local_folder(self._model) as folder:
                return Embedder(folder)

        self._embedder = self._shared.acquire(load, self._model)

    def outcomes(
        self, batch: list[dict[str, Any]], fetcher: Fetcher, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any] | Failure]]:
        size = self._embedder.batch_size
        waiting: list[tuple[dict[str, Any], Fetched]] = []
        for work, result in in_flight(
            pool,
            lambda work: fetcher.fetch(reduced(work["url"], self._pixels)),
            batch,
            self._settings.threads + size,
        ):
            if isinstance(result, Failure):
                yield work, result
                continue
            waiting.append((work, result))
            if len(waiting) == size:
                yield from embedded(waiting, self._embedder)
                waiting = []
        yield from embedded(waiting, self._embedder)


def embedded(
    fetched: list[tuple[dict[str, Any], Fetched]], embedder: Embedder
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | Failure]]:
    """Yield each work with its row, or with the failure of a picture that TensorFlow refuses."""
    if not fetched:
        return
    try:
        vectors = embedder.embed_bytes([picture.content for _, picture in fetched])
    except UserError as error:
        if len(fetched) > 1:
            for one in fetched:
                yield from embedded([one], embedder)
            return
        ((work, picture),) = fetched
        yield work, failure(work["url"], "damaged", str(error), attempts=picture.attempts)
        return
    for (work, _), vector in zip(fetched, vectors, strict=True):
        uses = [{"asin": asin, "side": side} for asin, side in work["uses"]]
        yield work, {"url": work["url"], "uses": uses, "embedding": packed(vector)}


def packed(vector: np.ndarray) -> bytes:
    """Return a vector at unit length in 16 bits a number: cosines keep three decimals."""
    length = np.linalg.norm(vector)
    return (vector / length if length else vector).astype(np.float16).tobytes()


def unpacked(vectors: list[bytes]) -> np.ndarray:
    """Return (N, D) float32 of what :func:`packed` made, at unit length again."""
    rows = np.stack([np.frombuffer(vector, np.float16) for vector in vectors]).astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

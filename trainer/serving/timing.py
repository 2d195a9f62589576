"""How long an exported model takes, measured on the machine at hand."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from trainer.serving.embedder import Embedder

#: Calls that are not timed: the first compiles, the next fill caches.
WARM_UP = 3
#: Calls that are timed, at the least and at the most, and the seconds after which they may end.
LEAST, MOST, SECONDS = 7, 200, 1.0


@dataclass(frozen=True)
class Timing:
    """Times of one call of a model.

    Attributes:
        batch: images in a call.
        calls: how many calls were timed.
        seconds: median of a call, in seconds.
        low: first quartile, in seconds.
        high: third quartile, in seconds.
    """

    batch: int
    calls: int
    seconds: float
    low: float
    high: float

    @property
    def per_image(self) -> float:
        """Median seconds an image."""
        return self.seconds / self.batch

    @property
    def images_per_second(self) -> float:
        """Images a second at the median."""
        return self.batch / self.seconds


def time_model(
    embedder: Embedder, batch: int, *, seconds: float = SECONDS, least: int = LEAST
) -> Timing:
    """Time calls of an exported model on decoded pictures of its own size.

    A call begins with the pixels in memory and ends with the embeddings in memory; reading and
    decoding files is not part of it.

    Args:
        embedder: the model.
        batch: images in a call, at least 1.
        seconds: timing ends after this many seconds, once `least` calls are timed.
        least: calls to time at the least.
    """
    shape = (batch, embedder.image_size, embedder.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    times: list[float] = []
    for call in range(WARM_UP + MOST):
        start = time.perf_counter()
        np.asarray(embedder(images))
        if call >= WARM_UP:
            times.append(time.perf_counter() - start)
        if len(times) >= least and sum(times) >= seconds:
            break
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Timing(batch, len(times), median, low, high)

"""How long an exported model takes, measured on the machine at hand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.serving.embedder import Embedder

#: Calls that are not timed: the first compiles, the next fill caches.
WARM_UP = 3
#: Calls that are timed, at the least and at the most, and the seconds after which they may end.
LEAST, MOST, SECONDS = 7, 200, 1.0
#: Calls that a 95th percentile is taken of, at the least.
ENOUGH = 20


@dataclass(frozen=True)
class Timing:
    """Times of one call of a model.

    Attributes:
        batch: images in a call.
        calls: how many calls were timed.
        seconds: median of a call, in seconds.
        low: first quartile, in seconds.
        high: third quartile, in seconds.
        p95: 95th percentile, in seconds: one call in twenty takes longer.
        first: the first call, in seconds, which is none of those counted. Of a model just loaded
            it works out how the model is run.
    """

    batch: int
    calls: int
    seconds: float
    low: float
    high: float
    p95: float
    first: float

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
    calls: list[float] = []
    while len(calls) < WARM_UP + MOST:
        start = time.perf_counter()
        np.asarray(embedder(images))
        calls.append(time.perf_counter() - start)
        if len(calls) >= WARM_UP + least and sum(calls[WARM_UP:]) >= seconds:
            break
    times = calls[WARM_UP:]
    low, median, high, p95 = np.quantile(times, [0.25, 0.5, 0.75, 0.95]).tolist()
    return Timing(batch, len(times), median, low, high, p95, calls[0])


@dataclass(frozen=True)
class ColdTiming:
    """Times of an exported model from the moment it is asked for.

    Attributes:
        precision: type of its weights and layers.
        image_size: height and width of its input in pixels.
        tta: views of each picture.
        load: seconds to load the folder, TensorFlow being imported already.
        timing: of its calls, the first one included.
    """

    precision: str
    image_size: int
    tta: str
    load: float
    timing: Timing


def time_cold(folder: str | Path, batch: int, *, seconds: float = SECONDS) -> ColdTiming:
    """Load an exported model and time calls of it, as :func:`time_model` does.

    Args:
        folder: the exported folder.
        batch: images in a call, at least 1.
        seconds: timing ends after this many seconds, once :data:`ENOUGH` calls are timed.

    Raises:
        UserError: the folder holds no export, or a damaged one.
    """
    start = time.perf_counter()
    embedder = Embedder(folder)
    load = time.perf_counter() - start
    timing = time_model(embedder, batch, seconds=seconds, least=ENOUGH)
    return ColdTiming(embedder.precision, embedder.image_size, embedder.tta, load, timing)

"""What the routes share: the catalogue, the model behind its batches, the limits, the counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from trainer.serving.api.access import Keys, Rates
from trainer.serving.api.batching import Batcher
from trainer.serving.api.bodies import Bodies
from trainer.serving.api.errors import Refusal, busy
from trainer.serving.api.metrics import Metrics
from trainer.serving.api.options import ServiceOptions
from trainer.serving.api.pictures import Box, Decode, Looked, pixels_of

if TYPE_CHECKING:
    from trainer.data.fetch import Failure, Fetched
    from trainer.serving.live import LiveCatalogue, Neighbour

T = TypeVar("T")

#: Pictures fetched by URL at once.
FETCHES = 16

#: From decoded pictures, uint8 (H, W, 3) each, to their (N, D) embeddings.
Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
#: From a URL to a picture, or why there is none.
Fetch = Callable[[str], "Fetched | Failure"]


@dataclass(frozen=True)
class Wanted:
    """What a search is for, but for the picture.

    Attributes:
        k: neighbours.
        category: of the neighbours; None for any.
        domain: of the neighbours; None for any.
        label: of the neighbours; None for any.
        without: ids that are left out.
    """

    k: int
    category: str | None = None
    domain: str | None = None
    label: str | None = None
    without: tuple[str, ...] = ()


class Service:
    """A catalogue and a model that many requests share.

    Args:
        catalogue: what is searched.
        embed: the model.
        decode: makes pixels for it.
        fetch: gets pictures by URL; None: nobody may.
        options: what is allowed.
    """

    def __init__(
        self,
        catalogue: LiveCatalogue,
        embed: Embed,
        decode: Decode,
        fetch: Fetch | None,
        options: ServiceOptions,
    ) -> None:
        self.catalogue, self.fetch, self.options = catalogue, fetch, options
        self.stopping = False
        self.keys = Keys(options.keys, options.write_keys)
        self.rates = Rates(options.rate)
        self.metrics = Metrics(lambda: len(catalogue), lambda: len(self._model))
        self._decode = decode
        self._model: Batcher[np.ndarray, np.ndarray] = Batcher(
            lambda pictures: list(embed(pictures)),
            most=options.batch,
            wait=options.batch_wait,
            name="model",
            told=self.metrics.batch_done,
        )
        self._index: Batcher[tuple[np.ndarray, Wanted], list[Neighbour]] = Batcher(
            self._search, most=options.batch, name="index"
        )
        self._decoders = ThreadPoolExecutor(options.threads, "decoder")
        self._helpers = ThreadPoolExecutor(max(4, options.threads), "helper")
        # Servers elsewhere may be slow: nothing else waits for them.
        self._fetchers = ThreadPoolExecutor(FETCHES, "fetcher")
        self._working = 0
        self._bodies = Bodies(options.concurrency, options.deadline)

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        self._decoders.shutdown()
        self._model.close()
        self._index.close()
        self._helpers.shutdown()
        self._fetchers.shutdown()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a place among the requests that are worked on at once, until the deadline.

        Raises:
            Refusal: 503 if there is no place, or no time left.
        """
        self._check_places()
        self._working += 1
        try:
            async with asyncio.timeout(self.options.deadline):
                yield
        except TimeoutError:
            raise busy("the service is busy: this took too long") from None
        finally:
            self._working -= 1

    @contextlib.asynccontextmanager
    async def coming(self, request: Request) -> AsyncIterator[None]:
        """Read the body of a request meanwhile, before its turn: it takes no place yet.

        Raises:
            Refusal: 503 if there is no place anyway; see :meth:`Bodies.coming`.
        """
        self._check_places()
        async with self._bodies.coming(request):
            yield

    def _check_places(self) -> None:
        if self._working >= self.options.concurrency:
            raise busy("the service is busy: too many requests at once")

    async def fetched(self, fetch: Fetch, url: str) -> Fetched | Failure:
        """Return the picture at a URL, or why there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._fetchers, fetch, url)

    async def in_thread(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return what `work` returns, which may take a while: disks, pictures."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._helpers, partial(work, *arguments, **options))

    def known(self, lookup: Callable[[str], T], name: str) -> T:
        """Return what the catalogue has of a product.

        Raises:
            Refusal: 404 if there is no such product.
        """
        try:
            return lookup(name)
        except KeyError:
            raise Refusal(404, "there is no product with this id") from None

    async def embedding(self, picture: Looked, box: Box | None) -> np.ndarray:
        """Return the embedding (D,) of what a box shows of a picture.

        Raises:
            Refusal: 422 if it cannot be decoded.
        """
        loop = asyncio.get_running_loop()
        with self._model.coming() as place:
            pixels = await loop.run_in_executor(self._decoders, self._pixels, picture, box)
            return await place.fill(pixels)

    async def neighbours(self, embedding: np.ndarray, wanted: Wanted) -> list[Neighbour]:
        """Return the nearest products of an embedding (D,), the nearest first."""
        return await self._index.do((embedding, wanted))

    def _pixels(self, picture: Looked, box: Box | None) -> np.ndarray:
        with self.metrics.decoding.time():
            return pixels_of(picture, box, self._decode)

    def _search(self, queries: Sequence[tuple[np.ndarray, Wanted]]) -> Sequence[list[Neighbour]]:
        """Search for queries, those that want the same together."""
        begin = time.perf_counter()
        alike: dict[Wanted, list[int]] = {}
        for number, (_, wanted) in enumerate(queries):
            alike.setdefault(wanted, []).append(number)
        found: list[list[Neighbour]] = [[] for _ in queries]
        for wanted, numbers in alike.items():
            hits = self.catalogue.search(
                np.stack([queries[number][0] for number in numbers]),
                wanted.k,
                category=wanted.category,
                domain=wanted.domain,
                label=wanted.label,
                without=wanted.without,
            )
            for number, row in zip(numbers, hits, strict=True):
                found[number] = row
        self.metrics.search.observe(time.perf_counter() - begin)
        return found


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Return what `work` returns; it is cancelled once the client goes away.

    Args:
        request: whose body has been read.
        work: is done meanwhile.

    Raises:
        ClientDisconnect: the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

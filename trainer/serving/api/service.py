"""What the routes share: the catalogue, the model behind its batches, the limits, the counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from trainer.serving.api.access import Keys, Rates
from trainer.serving.api.batching import Batcher, through
from trainer.serving.api.bodies import Bodies
from trainer.serving.api.errors import Refusal, busy
from trainer.serving.api.metrics import Metrics
from trainer.serving.api.options import ServiceOptions
from trainer.serving.api.pictures import Box, Decode, Looked, box_of, look, pixels_of

if TYPE_CHECKING:
    from trainer.data.fetch import Failure, Fetched
    from trainer.serving.live import LiveCatalogue, Neighbour

T = TypeVar("T")

#: Pictures fetched by URL at once.
FETCHES = 16
#: Pictures that are decoded by one call, which costs as much again as a small one: few, as none
#: comes to the model before the last of them.
DECODED = 4

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


@dataclass
class Search:
    """A picture or a product on its way through the stages; each writes what it finds.

    Attributes:
        content: the picture as it came.
        part: the box that the client names, as text; empty for all of it.
        wanted: what is searched for.
        picture: by its header.
        box: in pixels of the upright picture; None for all of it.
        pixels: as the model sees them, uint8 (H, W, 3).
        embedding: float32 (D,).
        neighbours: the nearest first.
    """

    content: bytes = b""
    part: str = ""
    wanted: Wanted = Wanted(0)
    picture: Looked = field(init=False)
    box: Box | None = field(init=False)
    pixels: np.ndarray = field(init=False)
    embedding: np.ndarray = field(init=False)
    neighbours: list[Neighbour] = field(init=False)


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
        self.metrics = Metrics(
            lambda: len(catalogue), lambda: len(self._decoder) + len(self._model)
        )
        self._decode, self._embed = decode, embed
        self._decoder: Batcher[Search] = Batcher(
            self._decode_all,
            most=min(DECODED, options.batch),
            threads=options.threads,
            name="decoder",
        )
        self._model: Batcher[Search] = Batcher(
            self._embed_all,
            most=options.batch,
            wait=options.batch_wait,
            name="model",
        )
        self._index: Batcher[Search] = Batcher(self._search_all, most=options.batch, name="index")
        self._stages = self._decoder, self._model, self._index
        self._helpers = ThreadPoolExecutor(max(4, options.threads), "helper")
        # Servers elsewhere may be slow: nothing else waits for them.
        self._fetchers = ThreadPoolExecutor(FETCHES, "fetcher")
        self._working = 0
        self._bodies = Bodies(options.concurrency, options.deadline)

    def start(self) -> None:
        """Start the threads that searches go through."""
        for stage in self._stages:
            stage.start()

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        for stage in self._stages:
            stage.close()
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

    def embed(self, search: Search) -> asyncio.Future[Search]:
        """Find the embedding of a picture.

        Raises:
            Refusal: by the future: 415 or 422 if it is no picture that can be searched with.
        """
        return through(search, self._decoder, self._model)

    def search(self, search: Search) -> asyncio.Future[Search]:
        """Find the neighbours of a picture; raises what :meth:`embed` does."""
        return through(search, *self._stages)

    def search_like(self, search: Search) -> asyncio.Future[Search]:
        """Find the neighbours of an embedding, which is there already."""
        return through(search, self._index)

    def _decode_all(self, searches: Sequence[Search]) -> None:
        with self.metrics.decoding.time():
            for search in searches:
                search.picture = look(search.content, self.options.most_pixels)
                search.box = box_of(search.part, search.picture.upright_size)
            looked = [(search.picture, search.box) for search in searches]
            for search, pixels in zip(searches, pixels_of(looked, self._decode), strict=True):
                search.pixels = pixels

    def _embed_all(self, searches: Sequence[Search]) -> None:
        with self.metrics.model.time():
            embeddings = self._embed([search.pixels for search in searches])
        self.metrics.batches.observe(len(searches))
        for search, embedding in zip(searches, embeddings, strict=True):
            search.embedding = embedding
            del search.pixels

    def _search_all(self, searches: Sequence[Search]) -> None:
        """Search for all of them, those that want the same together."""
        with self.metrics.search.time():
            alike: dict[Wanted, list[Search]] = {}
            for search in searches:
                alike.setdefault(search.wanted, []).append(search)
            for wanted, same in alike.items():
                hits = self.catalogue.search(
                    np.stack([search.embedding for search in same]),
                    wanted.k,
                    category=wanted.category,
                    domain=wanted.domain,
                    label=wanted.label,
                    without=wanted.without,
                )
                for search, row in zip(same, hits, strict=True):
                    search.neighbours = row


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
        del task  # its error would hold it by this frame


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

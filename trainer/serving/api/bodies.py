"""Bodies of requests while they come: so many at once, and in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from starlette.requests import Request

from trainer.serving.api.access import client_of
from trainer.serving.api.errors import RETRY_AFTER, Refusal, busy


class Bodies:
    """Counts the bodies that are being read, which take no place among the requests worked on.

    Whoever sends slowly keeps nobody else from being served: half of them may be of one client.

    Args:
        most: at once.
        deadline: most seconds for one.
    """

    def __init__(self, most: int, deadline: float) -> None:
        self._most, self._deadline = most, deadline
        self._coming: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def coming(self, request: Request) -> AsyncIterator[None]:
        """Read a body meanwhile.

        Raises:
            Refusal: 408 if it does not come in time, 429 if there are too many of this client, 503
                if there are too many of all.
        """
        client = client_of(request)
        if self._coming.total() >= self._most:
            raise busy("the service is busy: too many requests are being sent")
        if self._coming[client] >= max(1, self._most // 2):
            words = "too many requests are being sent from here at once"
            raise Refusal(429, words, {"Retry-After": str(RETRY_AFTER)})
        self._coming[client] += 1
        try:
            async with asyncio.timeout(self._deadline):
                yield
        except TimeoutError:
            # What still comes is not waited for.
            raise Refusal(
                408, "the request did not come in time", {"Connection": "close"}
            ) from None
        finally:
            self._coming[client] -= 1
            self._coming += Counter()  # Without those that send nothing now.

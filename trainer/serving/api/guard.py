"""Stands before a route: the rate, then the key, and whether changes are allowed at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request

from trainer.serving.api.access import SEARCH
from trainer.serving.api.errors import Refusal
from trainer.serving.api.service import Service

HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")
BEARER = HTTPBearer(auto_error=False, description="The same key.")


class Guard:
    """What stands before a route.

    Args:
        service: whose limits count.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def look(self) -> list[Any]:
        """Return the dependencies of a route that only looks something up."""
        return self._dependencies(1, write=False)

    def search(self) -> list[Any]:
        """Return the dependencies of a route that searches."""
        return self._dependencies(SEARCH, write=False)

    def change(self) -> list[Any]:
        """Return the dependencies of a route that changes the catalogue."""
        return self._dependencies(SEARCH, write=True)

    def refusals(self, *statuses: int, write: bool = False) -> tuple[int, ...]:
        """Return the statuses that a guarded route may end with, with those of its own."""
        keys = self._service.keys
        needed = keys.for_writing if write else keys.for_reading
        return tuple({*statuses, 413, 422, 429, 503, *([401] if needed else []), *([403] * write)})

    def _dependencies(self, cost: int, *, write: bool) -> list[Any]:
        keys = self._service.keys
        check = Depends(self._check(cost, write=write))
        needed = keys.for_writing if write else keys.for_reading
        return [check, *([Security(HEADER), Security(BEARER)] if needed else [])]

    def _check(self, cost: int, *, write: bool) -> Callable[[Request], Any]:
        service = self._service

        async def check(request: Request) -> None:
            # The rate comes first: nobody tries many keys.
            service.rates.check(request, cost)
            service.keys.check(request, write=write)
            if write and not service.options.writable:
                raise Refusal(403, "this service is for searching only: nothing can be changed")

        return check

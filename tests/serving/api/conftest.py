"""A service over a small catalogue, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.api.catalogue import embed, filled
from trainer.serving.api import ServiceOptions, create_app
from trainer.serving.live import LiveCatalogue


@pytest.fixture
def catalogue() -> Iterator[LiveCatalogue]:
    with filled() as live:
        yield live


@pytest.fixture
def serve(catalogue: LiveCatalogue) -> Iterator[Callable[..., TestClient]]:
    """Start a service with options of its own."""
    started: list[TestClient] = []

    def start(*, embed: Any = embed, fetch: Any = None, **options: Any) -> TestClient:
        options = {"rate": None} | options
        app = create_app(catalogue, embed, ServiceOptions(**options), fetch=fetch)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        started.append(client)
        return client

    yield start
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()

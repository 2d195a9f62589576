"""A Vertex AI of one's own, and clients of it that do not really wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.launch.vertex.service import VertexServer
from tests.launch.vertex.storage import StorageServer
from trainer.launch.vertex.calls import Retries
from trainer.launch.vertex.jobs import JobService

#: Patience of milliseconds.
QUICK = Retries(first=0.001, longest=0.002, patience=2.0, timeout=5.0)


class Clock:
    """A clock that goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.slept.append(seconds)
        self.now += seconds
        assert len(self.slept) < 1000, "it would wait for ever"


@pytest.fixture
def vertex() -> Iterator[VertexServer]:
    """The services, on this machine."""
    with VertexServer() as server:
        yield server


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageServer]:
    """A bucket, on this machine."""
    with StorageServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture
def clock() -> Clock:
    """The time of `service`."""
    return Clock()


@pytest.fixture
def connect(vertex: VertexServer, clock: Clock) -> Callable[..., JobService]:
    """What makes a client of `vertex`."""

    def connected(project: str = "", region: str = "", **options: Any) -> JobService:
        return JobService(
            project or vertex.project,
            region or vertex.region,
            **{
                "channel": vertex.channel(),
                "retries": QUICK,
                "sleep": clock.sleep,
                "clock": clock,
                **options,
            },
        )

    return connected


@pytest.fixture
def service(connect: Callable[..., JobService]) -> JobService:
    """A client of `vertex`."""
    return connect()

"""Searches by URL: from allowed hosts only, never from this machine or its network."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.api.catalogue import COLOURS, picture
from trainer.data.fetch import REASONS, Failure, Fetched
from trainer.launch.serving import fetcher, service_options

Serve = Callable[..., TestClient]
URL = "https://shop.example/a.jpg"


def ask(client: TestClient, url: str = URL, **fields: object) -> tuple[int, dict]:
    answer = client.post("/v1/search-url", json={"url": url, **fields})
    return answer.status_code, answer.json()


def test_nobody_searches_by_url_unless_told(client: TestClient) -> None:
    assert ask(client)[0] == 403
    assert client.get("/v1/catalogue").json()["url_search"] is False


def test_a_picture_by_url_finds_what_the_picture_finds(serve: Serve) -> None:
    content = picture(COLOURS["blue"])
    client = serve(fetch=lambda url: Fetched(url, url, content, "JPEG", 40, 30))
    status, found = ask(client, k=1, category="shoes", box="0,0,10,10")
    assert status == 200
    assert found["neighbours"][0]["id"] == "shoes/blue.png"
    assert found["query"] == {"width": 40, "height": 30, "box": [0, 0, 10, 10]}
    assert client.get("/v1/catalogue").json()["url_search"] is True


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_failure_is_told_without_what_the_network_looks_like(serve: Serve, reason: str) -> None:
    def fail(url: str) -> Failure:
        return Failure(url, reason, "10.1.2.3 is an inner address", 1, False)

    status, answer = ask(serve(fetch=fail))
    expected = {"refused": 403, "too_large": 413, "wrong_type": 415}
    assert status == expected.get(reason, 422)
    assert "10.1" not in answer["detail"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.1:9/a.jpg", 403),
        ("http://localhost:9/a.jpg", 403),
        ("http://169.254.169.254/latest/meta-data", 403),
        ("http://[::1]:9/a.jpg", 403),
        ("https://other.example/a.jpg", 403),
        ("file:///etc/passwd", 422),
        ("http://user:secret@shop.example/", 422),
        ("shop.example/a.jpg", 422),
    ],
)
def test_only_allowed_hosts_are_gone_to(serve: Serve, url: str, status: int) -> None:
    with fetcher(service_options(url_hosts=("shop.example",))) as fetches:
        client = serve(fetch=fetches.fetch)
        assert ask(client, url)[0] == status


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_private_address_is_not_gone_to_even_if_its_name_is_allowed(
    serve: Serve, name: str
) -> None:
    with fetcher(service_options(url_hosts=(name,))) as fetches:
        status, answer = ask(serve(fetch=fetches.fetch), f"http://{name}:9/a.jpg")
    assert (status, answer) == (403, {"detail": "this service does not go to this URL"})


@pytest.mark.parametrize(
    ("options", "fetch", "expected"),
    [
        ({}, None, (403, 0)),
        ({"keys": ("a-key-for-reading",)}, print, (401, 0)),
        ({"concurrency": 1}, print, (503, 0)),
        ({}, print, (413, 17)),
    ],
    ids=["off", "key", "busy", "large"],
)
def test_a_body_is_read_last_and_not_far(
    serve: Serve, options: dict[str, Any], fetch: Any, expected: tuple[int, int]
) -> None:
    asked = []

    async def receive() -> dict[str, Any]:
        asked.append(1)
        return {"type": "http.request", "body": b"[" * 1000, "more_body": len(asked) < 1000}

    app: Any = serve(fetch=fetch, **options).app
    app.state.service._working = 1  # so many requests are being worked on
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/search-url",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")],
    }
    asyncio.run(app(scope, receive, send))
    assert (sent[0]["status"], len(asked)) == expected


def test_slow_servers_elsewhere_hold_up_nobody_else(serve: Serve) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(url: str) -> Failure:
        begun.release()
        assert go.wait(20)
        return Failure(url, "timeout", "", 1, True)

    client = serve(fetch=slow)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, client) for _ in range(6)]
        try:
            assert all(begun.acquire(timeout=10) for _ in range(6))
            # What is done by the threads that everybody shares.
            assert client.get("/v1/products").status_code == 200
        finally:
            go.set()
        assert {status for status, _ in (each.result() for each in asked)} == {422}


def test_a_body_that_is_wrong_is_refused(serve: Serve) -> None:
    client = serve(fetch=lambda url: None)
    assert ask(client, "x" * 2001)[0] == 422
    assert ask(client, k=0)[0] == 422
    assert ask(client, more=1)[0] == 422
    json = {"Content-Type": "application/json"}
    for content in (b"{", b"[" * 10_000, b"\xff"):
        assert client.post("/v1/search-url", content=content, headers=json).status_code == 422
    assert client.post("/v1/search-url", content=b"{}").status_code == 415
    assert client.post("/v1/search-url", json=[]).status_code == 422

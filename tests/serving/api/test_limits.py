"""What is too much, and what is not a form."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from tests.serving.api.catalogue import COLOURS, embed, picture
from trainer.serving.api import uploads
from trainer.serving.api.errors import Refusal
from trainer.serving.api.uploads import _bounded

Serve = Callable[..., TestClient]
RED = picture(COLOURS["red"])
UMLAUT = '--b\r\nContent-Disposition: form-data; name="ü"\r\n\r\n1\r\n--b--\r\n'.encode()


def test_a_file_that_is_announced_too_large_is_not_read(serve: Serve) -> None:
    client = serve(most_bytes=50_000)
    read = []

    def body() -> Iterator[bytes]:
        for _ in range(100):
            read.append(1)
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "1000000"}
    answer = client.post("/v1/search", content=body(), headers=headers)
    assert answer.status_code == 413
    assert answer.json() == {"detail": "the picture has more than the 50,000 bytes allowed"}


def test_a_file_is_counted_as_it_comes(serve: Serve) -> None:
    client = serve(most_bytes=50_000)
    start = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'

    def body(chunks: int) -> Iterator[bytes]:
        yield start
        for _ in range(chunks):
            yield b"x" * 10_000
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    statuses = [
        client.post("/v1/search", content=body(chunks), headers=headers).status_code
        for chunks in (5, 6, 1000)
    ]
    assert statuses == [415, 413, 413]


def test_what_comes_after_too_much_is_not_read() -> None:
    asked = []

    async def receive() -> dict[str, Any]:
        asked.append(1)
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": len(asked) < 1000}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)

    async def bounded() -> None:
        async for _ in _bounded(request, 50_000, Refusal(413, "too many")):
            pass

    with pytest.raises(Refusal) as caught:
        asyncio.run(bounded())
    assert caught.value.status == 413
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"data": {"k": 3}}, 415, "multipart/form-data"),
        ({"files": {"other": RED}}, 422, "picture: a file is needed"),
        ({"files": [("picture", RED), ("picture", RED)]}, 422, "picture: given more than once"),
        ({"files": {"picture": RED, "label": RED}}, 422, "label: must be text"),
        ({"files": {"picture": RED}, "data": {"k": 0}}, 422, "k: input should be greater"),
        ({"files": {"picture": RED}, "data": {"k": 101}}, 422, "k: input should be less"),
        ({"files": {"picture": RED}, "data": {"k": "many"}}, 422, "k: input should be a valid int"),
        ({"files": {"picture": RED}, "data": {"catgory": "x"}}, 422, "catgory: extra inputs"),
        ({"files": {"picture": RED}, "data": {"label": "x" * 201}}, 422, "label: string should"),
        ({"files": {"picture": RED}, "data": {"label": "x" * 5000}}, 400, "cannot be read"),
        ({"files": {"picture": RED}, "data": {"label": "a\nb"}}, 422, "label: must be one line"),
        ({"files": {"picture": RED}, "data": {"box": "1,2,3"}}, 422, "box: must be x,y,w,h"),
        (
            {
                "content": UMLAUT,
                "headers": {"Content-Type": "multipart/form-data; boundary=b; charset=punycode"},
            },
            415,
            "UTF-8",
        ),
        ({"json": {"picture": "x"}}, 415, "multipart/form-data"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        (
            {"content": b"zz", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
            "cannot be read",
        ),
        (
            {"files": {"picture": RED}, "data": {f"f{n}": "" for n in range(50)}},
            400,
            "Too many fields",
        ),
    ],
)
def test_a_form_that_is_wrong_is_refused_in_one_line(
    client: TestClient, form: dict[str, Any], status: int, words: str
) -> None:
    answer = client.post("/v1/search", **form)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


class Held:
    """A model that answers once it is let."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()

    def __call__(self, pictures: Any) -> np.ndarray:
        self.begun.set()
        assert self.go.wait(20)
        return embed(pictures)


def test_what_is_too_much_at_once_is_sent_away(serve: Serve) -> None:
    held = Held()
    client = serve(embed=held, concurrency=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/search", files={"picture": RED})
        assert held.begun.wait(10)
        answer = client.post("/v1/search", files={"picture": RED})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/health").status_code == 200
        held.go.set()
        assert first.result().status_code == 200
    assert client.post("/v1/search", files={"picture": RED}).status_code == 200


async def stuck() -> dict[str, Any]:
    """Wait for more of a body, which never comes."""
    await asyncio.sleep(60)
    raise AssertionError


async def statuses_of_stuck(app: Any, clients: list[str]) -> list[int]:
    """Return the statuses of searches of clients that send nothing after their headers."""

    async def one(client: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/search",
            "query_string": b"",
            "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
            "client": (client, 1),
        }
        await app(scope, stuck, send)
        status: int = sent[0]["status"]
        return status

    return await asyncio.gather(*(one(client) for client in clients))


def test_who_sends_nothing_more_takes_no_place_and_not_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STALLED", 0.5)
    client = serve(concurrency=4)
    service = client.app.state.service  # type: ignore[attr-defined]
    one, other = "192.0.2.1", "192.0.2.2"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            asyncio.run, statuses_of_stuck(client.app, [one, one, one, other, other, other])
        )
        while service._bodies._coming.total() < 4:
            time.sleep(0.01)
        # All of it goes on: another picture would be one too many, a search without one is not.
        assert service._working == 0
        assert client.get("/v1/neighbours/shirts/red.png").status_code == 200
        assert client.post("/v1/search", files={"picture": RED}).status_code == 503
        assert waiting.result() == [408, 408, 429, 408, 408, 503]
    assert not service._bodies._coming
    assert client.post("/v1/search", files={"picture": RED}).status_code == 200


def test_a_body_where_none_belongs_is_not_read(client: TestClient) -> None:
    for path in ("/v1/catalogue", "/health", "/nothing"):
        assert client.request("GET", path, content=b"{}").status_code != 413
        answer = client.request("GET", path, content=b"x" * 20_000)
        assert (answer.status_code, answer.headers["Connection"]) == (413, "close")
        assert client.request("DELETE", path, content=iter([b"x"])).status_code == 413


def test_no_request_takes_longer_than_it_may(serve: Serve) -> None:
    held = Held()
    client = serve(embed=held, deadline=0.3)
    answer = client.post("/v1/search", files={"picture": RED})
    held.go.set()
    assert answer.status_code == 503
    assert "too long" in answer.json()["detail"]


def test_a_defect_is_told_without_its_words(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def broken(pictures: Any) -> np.ndarray:
        raise ValueError("the secret of the house")

    client = serve(embed=broken)
    answer = client.post("/v1/search", files={"picture": RED})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert client.get("/health").status_code == 200

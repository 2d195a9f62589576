"""Keys and rates."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.api.catalogue import COLOURS, picture
from trainer.config import UserError
from trainer.launch.serving import KEY, Endpoint, read_keys, service_options
from trainer.serving.api.access import Rates

Serve = Callable[..., TestClient]
READ, WRITE = "a-key-for-reading", "a-key-for-writing"
RED = picture(COLOURS["red"])


def put(client: TestClient, key: str | None = None) -> int:
    headers = {"X-API-Key": key} if key else {}
    form = {"files": {"picture": RED}, "data": {"label": "new"}}
    return client.put("/v1/products/new", headers=headers, **form).status_code  # type: ignore[arg-type]


def test_without_a_key_nothing_but_the_page_and_the_probes(serve: Serve) -> None:
    client = serve(keys=(READ,))
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    for path in ("/v1/catalogue", "/v1/products", "/v1/pictures/shirts/red.png", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert "X-API-Key" in answer.json()["detail"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get(path, headers={"X-API-Key": READ}).status_code == 200
        bearer = {"Authorization": f"Bearer {READ}"}
        assert client.get(path, headers=bearer).status_code == 200
        assert client.get(path, headers={"X-API-Key": READ[:-1]}).status_code == 401
    assert client.post("/v1/search", files={"picture": RED}).status_code == 401


def test_changes_need_a_key_for_changes_where_there_is_one(serve: Serve) -> None:
    client = serve(keys=(READ,), write_keys=(WRITE,), writable=True)
    assert (put(client), put(client, READ), put(client, WRITE)) == (401, 403, 201)
    assert client.get("/v1/catalogue", headers={"X-API-Key": WRITE}).status_code == 200
    assert client.delete("/v1/products/new", headers={"X-API-Key": READ}).status_code == 403


def test_one_kind_of_key_does_both(serve: Serve) -> None:
    client = serve(keys=(READ,), writable=True)
    assert (put(client), put(client, READ)) == (401, 201)


def test_only_changes_may_need_a_key(serve: Serve) -> None:
    client = serve(write_keys=(WRITE,), writable=True)
    assert client.get("/v1/catalogue").json()["api_key_needed"] is False
    assert (put(client), put(client, WRITE)) == (401, 201)


def test_nothing_can_be_changed_unless_told(client: TestClient) -> None:
    assert put(client) == 403
    assert client.delete("/v1/products/shirts/red.png").status_code == 403
    assert client.get("/v1/products/shirts/red.png").status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_again(serve: Serve) -> None:
    client = serve(rate="3/minute")
    search = [client.get("/v1/neighbours/shirts/red.png") for _ in range(4)]
    assert [answer.status_code for answer in search] == [200, 200, 200, 429]
    assert 1 <= int(search[-1].headers["Retry-After"]) <= 60
    assert client.get("/v1/catalogue").status_code == 429
    assert client.get("/health").status_code == 200


def test_looking_costs_a_tenth_of_a_search(serve: Serve) -> None:
    client = serve(rate="2/minute")
    statuses = [client.get("/v1/catalogue").status_code for _ in range(21)]
    assert statuses == [200] * 20 + [429]


def test_guessing_keys_is_slow(serve: Serve) -> None:
    client = serve(rate="2/minute", keys=(READ,))
    wrong = [
        client.get("/v1/neighbours/shirts/red.png", headers={"X-API-Key": "x"}) for _ in range(3)
    ]
    assert [answer.status_code for answer in wrong] == [401, 401, 429]


def test_a_rate_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match="rate='often' must be like 20/second"):
        Rates("often")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"cors_origins": ("shop.example/",)}, "--cors-origin shop.example/: must be like https"),
        ({"cors_origins": ("https://shop.example/",)}, "--cors-origin"),
        ({"cors_origins": ("https://Shop.example",)}, "--cors-origin"),
        ({"cors_origins": ("*",)}, "--cors-origin"),
        ({"hosts": ("https://shop.example",)}, "--allow-host https://shop.example: must be a name"),
        ({"hosts": ("shop.example:80",)}, "--allow-host"),
        ({"hosts": ("",)}, "--allow-host"),
    ],
)
def test_what_is_no_origin_or_host_is_told(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=re.escape(fault)):
        service_options(**values)


def test_what_is_no_address_of_a_proxy_is_told() -> None:
    with pytest.raises(UserError, match="--proxy nonsense: must be addresses or networks"):
        Endpoint(proxies="127.0.0.1, nonsense")
    assert Endpoint(proxies="127.0.0.1, 10.0.0.0/8,::1").proxies
    origins = ("https://shop.example", "http://[::1]:8080", "http://localhost:3000")
    assert service_options(cors_origins=origins, hosts=("shop.example", "[::1]", "10.0.0.1"))


def test_keys_come_from_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{READ}\n\n{WRITE}  \n")
    monkeypatch.delenv(KEY, raising=False)
    assert read_keys(None, KEY) == ()
    assert read_keys(str(file), KEY) == (READ, WRITE)
    monkeypatch.setenv(KEY, "another-key-of-some-length")
    assert read_keys(str(file), KEY) == ("another-key-of-some-length", READ, WRITE)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "holds no API key"),
        ("# only this\n", "holds no API key"),
        ("short\n", "at least 16"),
        ("a key with spaces in it\n", "at least 16"),
        ("schlüsselschlüsselschlüssel\n", "at least 16"),
    ],
)
def test_a_file_without_good_keys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=fault) as caught:
        read_keys(str(file), KEY)
    assert "short" not in str(caught.value), "a key in a message ends in a log"
    with pytest.raises(UserError, match="no such file"):
        read_keys(str(tmp_path / "missing"), KEY)

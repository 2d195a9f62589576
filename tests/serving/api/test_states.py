"""Health, readiness, metrics, headers, the log, the description."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from tests.serving.api.catalogue import COLOURS, picture
from trainer.launch.serving import LOCAL

Serve = Callable[..., TestClient]
RED = picture(COLOURS["red"])


def numbers(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_a_stopping_service_lives_but_is_not_ready(client: TestClient) -> None:
    assert client.get("/ready").json() == {"status": "ready"}
    client.app.state.service.stopping = True  # type: ignore[attr-defined]
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert client.get("/health").status_code == 200
    assert client.post("/v1/search", files={"picture": RED}).status_code == 200


def test_requests_are_counted_by_pattern_and_status(serve: Serve) -> None:
    client = serve(writable=True)
    for _ in range(3):
        client.post("/v1/search", files={"picture": RED})
    for name in ("shirts/red.png", "shoes/blue.png"):
        client.get(f"/v1/products/{name}")
    client.delete("/v1/products/shirts/red.png")
    for number in range(20):
        client.get(f"/nothing/{number}")
    client.request("MADE-UP", "/v1/search")
    found = numbers(client)

    def count(route: str, method: str, status: int) -> float:
        labels = f'{{method="{method}",route="{route}",status="{status}"}}'
        return found[f"mildnet_requests_total{labels}"]

    assert count("/v1/search", "POST", 200) == 3
    assert count("/v1/products/{id:path}", "GET", 200) == 2
    assert count("/v1/products/{id:path}", "DELETE", 204) == 1
    assert count("other", "GET", 404) == 20
    assert 'method="other"' in "".join(found)
    assert found["mildnet_batch_pictures_count"] == 3
    assert found["mildnet_batch_pictures_sum"] == 3
    for name in ("model", "search", "decode"):
        assert found[f"mildnet_{name}_seconds_count"] == 3
        assert found[f"mildnet_{name}_seconds_sum"] > 0
    assert found["mildnet_products"] == 5
    assert found['mildnet_changes_total{change="removed"}'] == 1
    assert found["mildnet_pictures_waiting"] == 0
    assert found["mildnet_requests_in_flight"] == 1, "this one"


def test_every_answer_is_safe_in_a_browser(client: TestClient) -> None:
    for path in ("/", "/page/page.js", "/v1/catalogue", "/nothing", "/health"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
    assert client.get("/v1/catalogue").headers["Cache-Control"] == "no-store"


def test_pages_that_may_use_it_show_its_pictures(serve: Serve) -> None:
    policy = "Cross-Origin-Resource-Policy"
    client = serve(cors_origins=("https://shop.example",))
    assert client.get("/v1/pictures/shirts/red.png").headers[policy] == "cross-origin"
    assert client.get("/v1/catalogue").headers[policy] == "same-origin"
    assert serve().get("/v1/pictures/shirts/red.png").headers[policy] == "same-origin"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8080", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example:8080", 400),
        ("[::2]", 400),
        ("", 400),
    ],
)
def test_a_name_that_somebody_else_gave_this_machine_is_refused(
    serve: Serve, name: str, status: int
) -> None:
    client = serve(hosts=LOCAL)
    for path in ("/", "/v1/catalogue", "/nothing"):
        answer = client.get(path, headers={"Host": name})
        assert answer.status_code in (status, 404 if status == 200 else status)
    assert status == 200 or "--allow-host" in answer.json()["detail"]
    assert client.get("/health", headers={"Host": name}).status_code == 200


def test_only_origins_that_were_named_may_use_it(serve: Serve) -> None:
    client = serve(cors_origins=("https://shop.example",))

    def preflight(origin: str) -> dict[str, str]:
        asked = {"Access-Control-Request-Method": "POST", "Origin": origin}
        asked["Access-Control-Request-Headers"] = "X-API-Key"
        return dict(client.options("/v1/search", headers=asked).headers)

    allowed = preflight("https://shop.example")
    assert allowed["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in preflight("https://other.example")


def test_the_log_has_a_line_for_each_request_and_no_secret(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(keys=("a-key-for-reading",))
    with caplog.at_level(logging.INFO, "trainer.serving.api"):
        headers = {"X-API-Key": "a-key-for-reading"}
        client.get("/v1/products?category=secret", headers=headers)
        client.get("/no%0athing%1b[31m", headers=headers)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert re.fullmatch(r"testclient GET /v1/products 200 \d+ bytes [\d.]+ ms", lines[0])
    assert "\n" not in lines[1]
    assert "\x1b" not in lines[1]
    assert "key-for" not in caplog.text
    assert "secret" not in caplog.text


def test_another_method_is_told_which_there_are(client: TestClient) -> None:
    answer = client.patch("/v1/products/shirts/red.png")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "DELETE, GET, PUT"
    head = client.head("/v1/catalogue")
    assert (head.status_code, head.content) == (200, b"")


def test_the_description_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 4
    for name in files:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert client.get("/docs/../app.py").status_code == 404


def test_every_answer_is_described(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation["summary"], place
            assert operation["description"], place
            for status, answer in operation["responses"].items():
                assert answer["description"], f"{place} {status}"
    assert "securitySchemes" not in description["components"]


def test_keys_are_described_where_they_are_needed(serve: Serve) -> None:
    paths = serve(write_keys=("a-key-for-writing",)).get("/openapi.json").json()["paths"]
    assert "security" not in paths["/v1/search"]["post"]
    assert "401" not in paths["/v1/search"]["post"]["responses"]
    assert len(paths["/v1/products/{id}"]["put"]["security"]) == 2
    assert "401" in paths["/v1/products/{id}"]["put"]["responses"]

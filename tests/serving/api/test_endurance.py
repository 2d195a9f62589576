"""Ten thousand requests, good and bad, while products come and go: right answers, steady memory."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from urllib3 import encode_multipart_formdata

from tests.serving.api.catalogue import COLOURS, picture

ROOT = Path(__file__).resolve().parents[3]
REQUESTS, THREADS = 10_000, 4
#: Megabytes that a process may grow by over the requests after the first fifth.
GROWTH = 4
#: Colours of pictures that no product of the catalogue has.
OWN = [(240, 240, 20), (20, 230, 230), (230, 20, 230), (250, 130, 20)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Start the service of :mod:`tests.serving.api.endurance_service`: its process and port."""
    command = [sys.executable, "-m", "tests.serving.api.endurance_service", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline().strip())
        assert found
        yield process.pid, int(found[1])
        process.terminate()
        assert process.wait(30) == 0


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, **fields: object) -> tuple[int, dict]:
        body, kind = None, ""
        if fields:
            body, kind = encode_multipart_formdata(
                {k: ("p", v) if isinstance(v, bytes) else str(v) for k, v in fields.items()}
            )
        self.connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = self.connection.getresponse()
        content = answer.read()
        is_json = answer.headers.get_content_type() == "application/json" and content
        return answer.status, json.loads(content) if is_json else {}


def come_and_go(client: Client, number: int, times: int, faults: list[str]) -> None:
    """Add a product, find it, replace it, remove it, find it no more; all among other requests."""
    random = np.random.default_rng(number)
    mine, path = picture(OWN[number], kind="PNG"), f"/v1/products/own/{number}"
    others = [picture(colour, kind=kind) for colour in COLOURS.values() for kind in ("JPEG", "PNG")]
    for turn in range(times):

        def finds_mine(there: bool, turn: int = turn) -> None:
            status, found = client.ask("POST", "/v1/search", picture=mine, k=3)
            names = [hit["id"] for hit in found.get("neighbours", [])]
            if (
                status != 200
                or (f"own/{number}" in names) != there
                or (
                    there
                    and (names[0] != f"own/{number}" or found["neighbours"][0]["score"] < 0.999)
                )
            ):
                faults.append(f"turn {turn}, own/{number} is there: {there}: {status} {found}")

        status, _ = client.ask("PUT", path, picture=mine, label=f"own {number}", category="own")
        if status != 201:
            faults.append(f"turn {turn}: added with {status}")
        finds_mine(there=True)
        bad = others[turn % len(others)][: int(random.integers(1, 300))]
        for method, where, fields, right in (
            ("POST", "/v1/search", {"picture": others[turn % len(others)], "k": 5}, {200}),
            ("POST", "/v1/search", {"picture": bad}, {200, 415, 422}),
            ("POST", "/v1/search", {"picture": mine, "category": "shoes", "k": 2}, {200}),
            ("GET", f"/v1/neighbours/own/{number}?k=2", {}, {200}),
            ("GET", f"/v1/pictures/own/{number}?size=32", {}, {200}),
            ("GET", f"/v1/products/none/{turn}", {}, {404}),
            ("GET", f"/v1/products?offset={turn % 7}&limit=3", {}, {200}),
        ):
            status, _ = client.ask(method, where, **fields)
            if status not in right:
                faults.append(f"turn {turn}: {method} {where}: {status}")
        status, _ = client.ask("DELETE", path)
        if status != 204:
            faults.append(f"turn {turn}: removed with {status}")
        finds_mine(there=False)


def spread(port: int, requests: int) -> None:
    """Send about so many requests by four clients at once, and check that nothing was wrong."""
    per_turn = 11
    faults: list[str] = []
    threads = [
        threading.Thread(
            target=come_and_go,
            args=(Client(port), number, requests // per_turn // THREADS, faults),
        )
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
        assert not thread.is_alive()
    assert not faults, faults[:3]


def test_ten_thousand_requests_leave_memory_as_it_was_and_answers_right(
    service: tuple[int, int],
) -> None:
    pid, port = service
    process = psutil.Process(pid)
    spread(port, REQUESTS // 5)
    before = process.memory_info().rss / 1e6
    spread(port, REQUESTS - REQUESTS // 5)
    after = process.memory_info().rss / 1e6
    assert after - before < GROWTH, f"{before:.0f} MB before, {after:.0f} MB after"
    status, catalogue = Client(port).ask("GET", "/v1/catalogue")
    assert (status, catalogue["count"], catalogue["categories"]) == (200, 6, ["shirts", "shoes"])

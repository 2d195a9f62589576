"""The process: where it listens, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.api.catalogue import COLOURS, picture
from trainer.config import UserError
from trainer.serving.api.server import address_of, bind

ROOT = Path(__file__).resolve().parents[3]
#: A model that takes a second for each batch.
SERVICE = """
import sys, time
from tests.serving.api.catalogue import embed, filled
from trainer.serving.api import ServiceOptions, create_app
from trainer.serving.api.server import address_of, bind, run

def slow(pictures):
    time.sleep(float(sys.argv[1]))
    return embed(pictures)

bound = bind("127.0.0.1", 0)
with filled() as catalogue:
    app = create_app(catalogue, slow, ServiceOptions(rate=None))
    run(app, bound, started=lambda: print(address_of(bound), flush=True), drain=float(sys.argv[2]))
print("ended", flush=True)
"""


class Process:
    """A service in a process of its own."""

    def __init__(self, seconds: float, drain: float) -> None:
        command = [sys.executable, "-c", SERVICE, str(seconds), str(drain)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def search(self) -> httpx.Response:
        files = {"picture": picture(COLOURS["red"])}
        return httpx.post(f"{self.address}/v1/search", files=files, timeout=60)

    def begun(self) -> None:
        """Wait until a search is worked on."""
        for _ in range(600):
            # The request for the metrics is one of them.
            if "mildnet_requests_in_flight 2.0" in httpx.get(f"{self.address}/metrics").text:
                return
            time.sleep(0.05)
        raise AssertionError("no search was begun")

    def stop(self, number: int) -> None:
        os.kill(self.process.pid, number)


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    started = Process(*request.param)
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.mark.parametrize("process", [(1.0, 1.5)], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_finish(process: Process, number: int) -> None:
    assert httpx.get(f"{process.address}/ready").status_code == 200
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(process.search)
        process.begun()
        process.stop(number)
        assert httpx.get(f"{process.address}/ready").status_code == 503
        found = answer.result()
    assert found.status_code == 200
    assert found.json()["neighbours"][0]["label"] == "red"
    assert process.process.communicate(timeout=60)[0] == "ended\n"
    assert process.process.returncode == 0


@pytest.mark.parametrize("process", [(30.0, 30.0)], indirect=True)
def test_a_second_signal_ends_at_once(process: Process) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(process.search)
        process.begun()
        process.stop(signal.SIGTERM)
        assert httpx.get(f"{process.address}/ready").status_code == 503
        process.stop(signal.SIGTERM)
        assert process.process.wait(timeout=20) == 128 + signal.SIGTERM
        with pytest.raises(httpx.HTTPError):
            answer.result()


@pytest.mark.parametrize("given", ["", "2"])
def test_a_search_has_one_thread_unless_told_otherwise(given: str) -> None:
    program = """
import sys, threading
from trainer.launch.serving import one_thread_a_search
from trainer.serving.live import LiveCatalogue
assert "faiss" not in sys.modules, "too late for the variable"
with one_thread_a_search():
    import faiss
    threads = []
    thread = threading.Thread(target=lambda: threads.append(faiss.omp_get_max_threads()))
    thread.start()
    thread.join()
    print(threads[0])
"""
    environment = {name: os.environ[name] for name in os.environ if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": given} if given else {}
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"{given or 1}\n"


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}: address already in use"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="choose another --host or --port"):
        bind("192.0.2.1", 0)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: "):
        bind("no.such.host.invalid", 0)


def test_a_free_port_is_found_and_told() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert address_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"

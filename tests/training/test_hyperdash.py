"""Hyperdash: its client speaks to a server on this machine, to none, and without a key."""

import inspect
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainer.config import UserError
from trainer.training.trackers import Trackers
from trainer.training.trackers import hyperdash as tracker_file
from trainer.training.trackers.hyperdash import Hyperdash


class Service:
    """Takes the messages of the client; `status` is what it answers."""

    def __init__(self):
        self.messages, self.keys, self.paths = [], set(), set()
        self.status = 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.messages.append(json.loads(body))
                service.keys.add(self.headers["x-hyperdash-auth"])
                service.paths.add(self.path)
                answer = b"{}" if service.status == 200 else b'{"code": "api_key_requred"}'
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def payloads(self, kind):
        return [message["payload"] for message in self.messages if message["type"] == kind]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home folder with nothing in it, a key, and a client that looks often at what is waiting."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HYPERDASH_KEY", "sesame")
    monkeypatch.delenv("HYPERDASH_API_KEY", raising=False)
    monkeypatch.setattr(tracker_file, "PAUSE", 0.02)
    return home


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setenv("HYPERDASH_SERVER", service.url)
    yield service
    service.server.shutdown()
    service.server.server_close()


def test_config_and_numbers_arrive_by_name(service, home, tmp_path):
    out, err = sys.stdout, sys.stderr
    with Trackers([Hyperdash(str(tmp_path / "shop"))]) as trackers:
        trackers.start(0, {"loss.margin": 0.25, "trackers": ("csv",), "init_from": None})
        trackers.log(10, {"loss": 0.5, "recall_at_1": 0.25, "val_loss": float("nan")})
        trackers.log(10, {"loss": 9.0})  # within the same instant
        time.sleep(0.03)
        trackers.log(20, {"loss": 0.125})
        assert (sys.stdout, sys.stderr) == (out, err)
        trackers.finish(20, {"trained/recall_at_1": 0.75})
    assert service.payloads("run_started") == [{"job_name": "shop"}]
    (sent,) = service.payloads("param")
    assert sent["params"] == {"loss.margin": 0.25, "trackers": ["csv"], "init_from": None}
    metrics = [(one["name"], one["value"]) for one in service.payloads("metric")]
    expected = [("loss", 0.5), ("recall_at_1", 0.25), ("loss", 0.125)]
    assert metrics == [*expected, ("trained/recall_at_1", 0.75)]
    assert service.payloads("run_ended") == [{"final_status": "success"}]
    kinds = [message["type"] for message in service.messages]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_ended")
    assert len({message["sdk_run_uuid"] for message in service.messages}) == 1
    assert (service.keys, service.paths) == ({"sesame"}, {"/api/v1/sdk/http"})
    assert not list(home.iterdir())
    assert not hasattr(inspect, "getargspec")


def test_a_job_that_is_cut_off_has_failed(service, tmp_path):
    with Trackers([Hyperdash(str(tmp_path), name="margins")]) as trackers:
        trackers.start(0, {})
        trackers.log(1, {"loss": 1.0})
    assert service.payloads("run_started") == [{"job_name": "margins"}]
    assert service.payloads("run_ended") == [{"final_status": "failure"}]


def run(tmp_path):
    """Seconds that a job of many steps loses to the tracker."""
    start = time.perf_counter()
    with Trackers([Hyperdash(str(tmp_path))]) as trackers:
        trackers.start(0, {"lr": 0.1})
        for step in range(200):
            trackers.log(step, {"loss": 1.0})
        trackers.finish(200, {})
    return time.perf_counter() - start


def test_without_network_a_job_goes_on_and_ends_at_once(monkeypatch, tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HYPERDASH_SERVER", f"http://127.0.0.1:{port}")
    assert run(tmp_path) < 2
    assert "Unable to communicate" in caplog.text
    assert "messages were not sent" in caplog.text
    assert all("\n" not in record.message for record in caplog.records)


def test_a_service_that_never_answers_holds_a_job_up_for_seconds_at_most(monkeypatch, tmp_path):
    monkeypatch.setattr(tracker_file, "CLOSE_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HYPERDASH_SERVER", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert run(tmp_path) < 2


def test_a_key_that_is_refused_is_told_once(service, tmp_path, caplog):
    service.status = 401
    run(tmp_path)
    assert len(service.messages) == 1
    assert caplog.text.count("Error from Hyperdash server") == 1


def test_what_waits_for_the_service_has_a_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERDASH_SERVER", "http://127.0.0.1:9")
    monkeypatch.setattr(tracker_file, "MOST_WAITING", 5)
    tracker = Hyperdash(str(tmp_path))
    tracker.start(0, {})
    for step in range(20):
        tracker.finish(step, {"loss": 1.0})
    assert len(tracker._sender._server.out_buf) <= 5
    tracker.close()


def test_without_a_key_it_is_dropped_in_one_line(service, monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("HYPERDASH_KEY")
    run(tmp_path)
    (record,) = caplog.records
    assert "no key of Hyperdash: set HYPERDASH_KEY" in record.message
    assert service.messages == []


def test_the_key_of_the_client_itself_will_do(service, monkeypatch, home, tmp_path):
    monkeypatch.delenv("HYPERDASH_KEY")
    (home / ".hyperdash").mkdir()
    (home / ".hyperdash" / "hyperdash.json").write_text('{"api_key": "from login"}')
    run(tmp_path)
    assert service.keys == {"from login"}


def test_a_client_that_is_missing_is_told_before_the_job_begins(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "hyperdash", None)
    with pytest.raises(UserError, match=r'pip install "mildnet\[hyperdash\]"'):
        Hyperdash(str(tmp_path))

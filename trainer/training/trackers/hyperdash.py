"""Hyperdash: numbers and the config of a job, on a telephone or its page."""

from __future__ import annotations

import inspect
import json
import logging
import math
import threading
import time
import uuid
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainer.config import UserError, register
from trainer.config.settings import Settings
from trainer.training.trackers import Tracker

LOG = logging.getLogger(__name__)

#: Seconds between two looks at what is to be sent; at most this many where nobody answers.
PAUSE, LONGEST_PAUSE = 1.0, 60.0

#: Seconds that the end of a job waits for what is not sent yet.
CLOSE_TIMEOUT = 5.0

#: Messages that are kept for a service that does not answer; later numbers are left out.
MOST_WAITING = 10_000


@register("tracker", "hyperdash")
class Hyperdash(Tracker):
    """Numbers and config to Hyperdash, in the background: the job never waits for the service.

    The key is the setting HYPERDASH_KEY, else what the client itself knows (HYPERDASH_API_KEY, or
    `hyperdash login`). A job that goes on after an interruption is another experiment of the same
    name there. Needs the extra `hyperdash`; https://hyperdash.io.

    Args:
        run_dir: supplied, the run folder.
        name: of the experiment; none: the name of the run folder.
    """

    def __init__(self, run_dir: str, *, name: str | None = None) -> None:
        self.name = name or run_dir.rstrip("/").rsplit("/", 1)[-1]
        self._client = _client()
        self._sender: _Sender | None = None
        self._finished = False
        self._last: dict[str, float] = {}

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Begin an experiment, and send the config as its parameters."""
        server = self._client.ServerManagerHTTP(None, LOG, "experiment")
        key = Settings.load().get("HYPERDASH_KEY")
        if key:
            server.custom_api_key_getter = lambda: key
        elif not (server.get_api_key_from_env() or server.get_api_key_from_file()):
            raise UserError(
                "no key of Hyperdash: set HYPERDASH_KEY in settings.cfg or in the environment"
            )
        self._sender = _Sender(server, str(uuid.uuid4()))
        self._send("create_run_started_message", self.name)
        values = {name: _plain(value) for name, value in config.items()}
        self._send("create_param_message", values, False)
        self._sender.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send each number as the newest of its name; at most one a second, as the client does."""
        now = time.time()
        due = {
            name: value
            for name, value in values.items()
            if now - self._last.get(name, -math.inf) >= PAUSE
        }
        self._last.update(dict.fromkeys(due, now))
        self._send_numbers(now, due)

    def finish(self, step: int, values: Mapping[str, float]) -> None:
        """Send each final number."""
        self._finished = True
        self._send_numbers(time.time(), values)

    def close(self) -> None:
        """Say how the job ended, and wait a few seconds at most until that is sent."""
        if self._sender is not None:
            self._send("create_run_ended_message", "success" if self._finished else "failure")
            self._sender.stop(CLOSE_TIMEOUT)

    def _send_numbers(self, now: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            # JSON knows no others, and the client would try to send them for ever.
            if math.isfinite(value):
                self._send("create_metric_message", name, now, float(value), False)

    def _send(self, kind: str, *values: Any) -> None:
        if self._sender is not None:
            make = getattr(self._client.messages, kind)
            self._sender.put(make(self._sender.run_id, *values))


class _Sender:
    """A thread that sends what it is given, and that nobody has to wait for.

    The client's own `Experiment` puts itself in the place of standard output, writes into the home
    folder, and waits without end when it is closed: only what speaks to the service is used.
    """

    def __init__(self, server: Any, run_id: str) -> None:
        self.run_id = run_id
        self._server = server
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hyperdash", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, message: str) -> None:
        if len(self._server.out_buf) < MOST_WAITING and not self._server.unauthorized:
            self._server.put_buf(message)

    def stop(self, timeout: float) -> None:
        self._leave.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._server.out_buf:
            LOG.warning("Hyperdash: %d messages were not sent", len(self._server.out_buf))

    def _work(self) -> None:
        pause = PAUSE
        while not self._server.unauthorized:
            leaving = self._leave.wait(pause)
            sent = self._server.tick(self.run_id)
            if leaving:
                return
            pause = PAUSE if sent else min(2 * pause, LONGEST_PAUSE)


class _Client:
    """What is used of the package `hyperdash`."""

    def __init__(self) -> None:
        with _getargspec():
            from hyperdash import sdk_message
            from hyperdash.server_manager import ServerManagerHTTP
        self.ServerManagerHTTP: Callable[..., Any] = ServerManagerHTTP
        self.messages = sdk_message


def _client() -> _Client:
    try:
        return _Client()
    except ImportError:
        raise UserError(
            'the tracker hyperdash needs the client of Hyperdash: pip install "mildnet[hyperdash]"'
        ) from None


@contextmanager
def _getargspec() -> Iterator[None]:
    """Give `inspect.getargspec` back, which hyperdash imports and Python has dropped with 3.11."""
    if hasattr(inspect, "getargspec"):
        yield
        return
    spec = namedtuple("spec", "args varargs keywords defaults")

    def getargspec(function: Callable[..., Any]) -> tuple[Any, ...]:
        full = inspect.getfullargspec(function)
        return spec(full.args, full.varargs, full.varkw, full.defaults)

    inspect.getargspec = getargspec  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del inspect.getargspec  # type: ignore[attr-defined]


def _plain(value: Any) -> Any:
    """Return a value that JSON knows."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)

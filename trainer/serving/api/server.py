"""A process that serves an app until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from trainer.config import UserError
from trainer.data.files import reason

#: Seconds that an idle connection is kept open.
KEEP_ALIVE = 15
#: Connections that wait to be accepted.
BACKLOG = 1024
#: Connections that are open at once; each takes a file of a process, which has 1024 by default.
CONNECTIONS = 900


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that nobody else can have, not yet listening.

    Args:
        host: name or address.
        port: 0 for a free one.

    Raises:
        UserError: the port is in use or not allowed, or this machine has no such address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise UserError(f"--host {host}: {words}") from None
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(
            f"cannot serve on {host}:{port}: {reason(error)}; choose another --host or --port"
        ) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL that a socket is reached by."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: FastAPI,
    bound: socket.socket,
    *,
    started: Callable[[], object],
    drain: float = 0.0,
    stop_within: float = 30.0,
    proxies: str = "",
) -> None:
    """Serve until SIGTERM or SIGINT.

    From then on `/ready` answers 503. After `drain` seconds no connection is taken any more,
    requests in flight are finished, and this returns. A second signal ends the process at once.

    Args:
        app: what :func:`trainer.serving.api.create_app` returns.
        bound: a socket.
        started: is called once requests are taken.
        drain: seconds to go on after the signal: balancers need a while to look elsewhere.
        stop_within: most seconds for the requests in flight.
        proxies: addresses of proxies, comma separated, that are believed whom they ask for.

    Raises:
        UserError: another process has taken the port meanwhile.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise UserError(f"cannot serve on {address_of(bound)}: {reason(error)}") from None
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=stop_within,  # type: ignore[arg-type]
        backlog=BACKLOG,
        limit_concurrency=max(CONNECTIONS, 2 * app.state.service.options.concurrency),
    )
    _Server(config, started, drain).run([bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, told: Callable[[], object], drain: float) -> None:
        super().__init__(config)
        self._told, self._drain = told, drain
        self._end: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told()

    async def on_tick(self, counter: int) -> bool:
        if self._end is not None and time.monotonic() >= self._end:
            self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals here: uvicorn would end by the signal, which is no success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, end at once."""
        if self._end is not None:
            os._exit(128 + sig)
        self._end = time.monotonic() + self._drain
        self.config.app.state.service.stopping = True  # type: ignore[union-attr]

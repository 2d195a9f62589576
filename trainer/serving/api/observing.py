"""Around every request: counts, a line in the log, headers for safety, and no traceback outside."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer.serving.api.service import Service

log = logging.getLogger(__name__)
access = logging.getLogger("trainer.serving.api.access_log")

#: Nothing from elsewhere, nothing inline, in nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Observed:
    """Counts and logs the requests of an app, and turns its defects into answers.

    Args:
        app: what answers.
        service: whose counts.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, begin = scope["method"], time.perf_counter()
        answer: dict[str, Any] = {"status": 0, "bytes": 0}
        if method == "HEAD":  # What GET says, without its body.
            scope["method"] = "GET"

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            else:
                if method == "HEAD":
                    message = {**message, "body": b""}
                answer["bytes"] += len(message.get("body", b""))
            await send(message)

        metrics = self._service.metrics
        metrics.in_flight.inc()
        try:
            await self._app(scope, receive, observed)
        except ClientDisconnect:
            pass
        except Exception:
            log.exception("a defect, at %s %s", method, printable(scope["path"]))
            if not answer["status"]:
                await _send_defect(observed)
        finally:
            metrics.in_flight.dec()
            seconds = time.perf_counter() - begin
            # 499: as nginx calls a client that went away.
            status = answer["status"] or 499
            metrics.answered(_route(scope), method, status, seconds)
            if self._service.options.access_log:
                client = scope["client"][0] if scope.get("client") else "-"
                access.info(
                    "%s %s %s %d %d bytes %.1f ms",
                    *(client, method, printable(scope["path"]), status, answer["bytes"]),
                    1000 * seconds,
                )


def _route(scope: Scope) -> str | None:
    """Return the pattern of the route, of which there are few, where paths are many."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None


def printable(path: str) -> str:
    """Return a path for a line of the log; the query is left out, it may hold secrets."""
    text = "".join(letter if letter.isprintable() else "?" for letter in path[:200])
    return text.replace(" ", "%20")


async def _send_defect(send: Send) -> None:
    body = json.dumps({"detail": "a defect of the service: its log tells more"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})

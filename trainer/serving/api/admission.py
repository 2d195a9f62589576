"""What is turned away by its head alone: names of other hosts, bodies where none belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from trainer.serving.api.uploads import BESIDE

#: Methods whose routes read a body; all bytes that come with another are for nothing.
WITH_BODY = ("POST", "PUT")
#: Probes know addresses only, and nobody learns anything from the answers.
PROBED = ("/health", "/ready")


class Admission:
    """Lets those requests through that name this service, without bodies that nobody reads.

    A page from elsewhere whose name is made to lead to this machine can read what it answers: the
    browser takes both for the same. The name in `Host` tells.

    Args:
        app: what answers.
        hosts: names and addresses of this service; none: any will do.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app: Any = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._hosts and scope["path"] not in PROBED and not self._is_known(headers):
                app = _refusal(400, "this service has another name: --allow-host lets it have more")
            elif scope["method"] not in WITH_BODY and _has_much(headers):
                app = _refusal(413, "this takes no body")
        await app(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        host = headers.get("Host", "").lower()
        # An IPv6 address stands in brackets, with colons of its own.
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name in self._hosts


def _has_much(headers: Headers) -> bool:
    length = headers.get("Content-Length", "0")
    return "Transfer-Encoding" in headers or not length.isdecimal() or int(length) > BESIDE


def _refusal(status: int, words: str) -> JSONResponse:
    # What still comes is not waited for.
    return JSONResponse({"detail": words}, status, {"Connection": "close"})

"""Pictures by URL, from servers that may do anything."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

from trainer.config import UserError
from trainer.data.fetch.hosts import Hosts, pause
from trainer.data.fetch.options import FetchOptions
from trainer.data.fetch.pictures import check
from trainer.data.fetch.results import REASONS, Failure, Fault, Fetched, failure

#: Bytes asked for at a time.
CHUNK = 1 << 16
#: Bytes of an answer without picture that are read, so that its connection can be used again.
WORTH_READING = 1 << 14
#: Most seconds for which a host is left in peace, whatever it asks for.
LONGEST_PEACE = 86_400.0

REDIRECTS = frozenset({301, 302, 303, 307, 308})
STATUS_REASONS = {
    401: "denied", 403: "denied", 404: "not_found", 407: "denied", 408: "timeout", 410: "gone",
    425: "busy", 429: "busy", 451: "denied",
}  # fmt: skip


@dataclass
class _Errand:
    """One URL on its way, over all attempts."""

    url: str
    end: float  # seconds of the monotonic clock
    attempts: int = 0


@dataclass
class _Shared:
    """What all Fetchers of this process with equal options have in common."""

    pools: Any
    hosts: Hosts
    users: int = 0


_shared: dict[FetchOptions, _Shared] = {}
_shared_lock = threading.Lock()


class Fetcher:
    """Fetches pictures by URL and checks them; safe in threads.

    The limits per host hold for all Fetchers of a process that have equal options: a pipeline may
    make one for each of its threads. Connections are kept open between calls, until the last of
    them is closed. Proxies of the environment are not used: behind one, no address can be
    checked. Can be pickled. Needs the extra `beam` (urllib3).

    Args:
        options: how to fetch; by default :class:`FetchOptions` with its defaults.

    Raises:
        UserError: urllib3 is not installed.
    """

    def __init__(self, options: FetchOptions | None = None) -> None:
        self.options = options or FetchOptions()
        try:
            from trainer.data.fetch import transport
        except ImportError:
            raise UserError(
                'fetching pictures needs urllib3: pip install "mildnet[beam]"'
            ) from None
        self._transport: Any = transport
        self._closed = threading.Event()
        with _shared_lock:
            shared = _shared.get(self.options)
            if shared is None:
                shared = _Shared(transport.manager(self.options), Hosts(self.options))
                _shared[self.options] = shared
            shared.users += 1
        self._pools, self._hosts = shared.pools, shared.hosts

    def __reduce__(self) -> tuple[type[Fetcher], tuple[FetchOptions]]:
        return Fetcher, (self.options,)

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all use; calls of :meth:`fetch` that wait in other threads raise RuntimeError."""
        with _shared_lock:
            if self._closed.is_set():
                return
            self._closed.set()
            shared = _shared[self.options]
            shared.users -= 1
            # The hosts are kept: one that asks for peace means the next Fetcher, too.
            if not shared.users:
                shared.pools.clear()

    def fetch(self, url: str) -> Fetched | Failure:
        """Return the picture at a URL, or why there is none.

        Whatever the server does ends as a :class:`Failure` within `deadline` seconds, to which
        come the wait for a turn at the host, and for names the time limit of the system's
        resolver.

        Args:
            url: http or https, without user name and password.

        Raises:
            TypeError: `url` is no string.
            RuntimeError: the Fetcher is closed.
        """
        if not isinstance(url, str):
            raise TypeError(f"a URL must be a string, not {type(url).__name__}")
        pause(0, self._closed)
        errand = _Errand(url, time.monotonic() + self.options.deadline)
        while True:
            try:
                return self._attempt(errand)
            except Fault as fault:
                found = failure(
                    url, fault.reason, fault.detail, attempts=errand.attempts, wait=fault.wait
                )
                seconds = self._pause(errand, fault)
            if seconds is None:
                return found
            pause(seconds, self._closed)

    def _pause(self, errand: _Errand, fault: Fault) -> float | None:
        """Return the seconds until the next attempt, or None if there is to be none."""
        options = self.options
        if not REASONS[fault.reason] or not 0 < errand.attempts < options.attempts:
            return None
        if fault.wait > options.longest_wait:
            return None
        seconds = options.back_off * 2 ** (errand.attempts - 1)
        seconds *= random.uniform(0.5, 1.5)  # noqa: S311 no secret
        seconds = max(fault.wait, min(seconds, options.longest_wait))
        return seconds if time.monotonic() + seconds < errand.end else None

    def _attempt(self, errand: _Errand) -> Fetched:
        """Ask once, follow redirects, and check what comes."""
        begun, seen, place = False, {errand.url}, errand.url
        for hop in range(self.options.redirects + 1):
            after = f", after a redirect to {place}" if hop else ""
            try:
                host = self._host(place)
                with self._turn(errand, host):
                    if not begun:
                        errand.attempts += 1
                        begun = True
                    location, content, kind, cut = self._ask(place, host)
                if location is None:
                    return self._picture(errand, place, content, kind, cut)
            except Fault as fault:
                elsewhere = hop and fault.reason in ("bad_url", "refused")
                reason = "redirect" if elsewhere else fault.reason
                raise Fault(reason, f"{fault.detail}{after}", fault.wait) from None
            try:
                place = urljoin(place, location)
            except ValueError:
                raise Fault("redirect", f"to {location}, which is malformed") from None
            if place in seen:
                raise Fault("redirect", f"in a circle, to {place}")
            seen.add(place)
        raise Fault("redirect", f"more than {self.options.redirects}, the last to {place}")

    def _host(self, url: str) -> str:
        """Return the name of the host, if one may go there."""
        if not url.isprintable():
            raise Fault("bad_url", "with characters that no URL has")
        try:
            parsed = self._transport.urllib3.util.parse_url(url)
        except self._transport.urllib3.exceptions.LocationParseError:
            raise Fault("bad_url", "malformed") from None
        if parsed.scheme not in ("http", "https"):
            raise Fault("bad_url", "not http or https")
        if parsed.auth:
            raise Fault("bad_url", "with a user name or password")
        host = (parsed.host or "").lower().rstrip(".")
        if not host:
            raise Fault("bad_url", "without a host")
        allowed = self.options.allow_hosts
        if allowed is not None and not any(fnmatchcase(host, name.lower()) for name in allowed):
            raise Fault("refused", f"the host {host} is not allowed")
        return host

    @contextlib.contextmanager
    def _turn(self, errand: _Errand, host: str) -> Iterator[None]:
        """Hold a turn at a host; the wait for it is not taken off the time of the errand."""
        asked = time.monotonic()
        with self._hosts.turn(host, self._closed):
            errand.end += time.monotonic() - asked
            token = self._transport.END.set(errand.end)
            try:
                yield
                self._hosts.answered(host, True)
            except Fault as fault:
                self._hosts.answered(host, not REASONS[fault.reason])
                raise
            finally:
                self._transport.END.reset(token)

    def _ask(self, url: str, host: str) -> tuple[str | None, bytes, str, bool]:
        """Send one request.

        Returns:
            Where it is redirected to, or None and the content; its type as the server calls it;
            whether nothing but the end of the connection says that the content is whole.

        Raises:
            Fault: any other answer, or none.
        """
        urllib3 = self._transport.urllib3
        seconds = min(self.options.timeout, self._transport.seconds_left())
        if seconds <= 0:
            raise Fault("deadline", "the time for this URL is up")
        try:
            response = self._pools.urlopen(
                "GET",
                url,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=seconds, read=seconds),
            )
            try:
                if response.status == 200:
                    content = self._read(response)
                    open_end = response.headers.get("Content-Length") is None
                    open_end &= "chunked" not in response.headers.get("Transfer-Encoding", "")
                    return None, content, response.headers.get("Content-Type", ""), open_end
                self._finish(response)
                location = response.headers.get("Location")
                if response.status in REDIRECTS and location:
                    return _text(location), b"", "", False
                raise self._status(response, host)
            finally:
                # A response read to its end has given its connection back, and loses nothing.
                response.close()
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise self._transport.fault_of(error) from None
        except Fault:
            raise
        except Exception as error:  # What nobody foresaw must not end a pipeline.
            raise Fault("connection", f"broken: {type(error).__name__}") from error

    def _read(self, response: Any) -> bytes:
        most = self.options.most_bytes
        if (response.length_remaining or 0) > most:
            words = f"{response.length_remaining:,} bytes, more than the {most:,} allowed"
            raise Fault("too_large", words)
        content = bytearray()
        while chunk := response.read1(CHUNK, decode_content=True):
            content += chunk
            if len(content) > most:
                raise Fault("too_large", f"more than the {most:,} bytes allowed")
        return bytes(content)

    def _finish(self, response: Any) -> None:
        """Read what nobody wants, as it comes: the status has been told, whatever follows."""
        if (response.length_remaining or WORTH_READING + 1) <= WORTH_READING:
            with contextlib.suppress(self._transport.urllib3.exceptions.HTTPError):
                while response.read1(CHUNK, decode_content=False):
                    pass

    def _status(self, response: Any, host: str) -> Fault:
        """Return what a status other than 200 means, and keep all threads from a busy host."""
        status = response.status
        reason = STATUS_REASONS.get(status, "status")
        if 500 <= status <= 599:
            reason = "server_error"
        elif status in REDIRECTS:
            return Fault("redirect", f"status {status} that does not say where to")
        wait = 0.0
        if REASONS[reason]:
            invalid = self._transport.urllib3.exceptions.InvalidHeader
            # Numbers and years may have more digits than Python takes.
            with contextlib.suppress(invalid, ValueError, OverflowError):
                asked = self._transport.urllib3.Retry().get_retry_after(response)
                # Some urllib3 have a limit of their own, and some have none.
                wait = min(float(asked or 0), LONGEST_PEACE)
            self._hosts.leave_in_peace(host, wait)
        words = f", asks to come back in {wait:.0f} s" if wait else ""
        return Fault(reason, f"status {status}{words}", wait)

    def _picture(
        self, errand: _Errand, place: str, content: bytes, kind: str, cut: bool
    ) -> Fetched:
        options = self.options
        try:
            format, width, height = check(
                content, kind, most_pixels=options.most_pixels, least_side=options.least_side
            )
        except Fault as fault:
            if cut and fault.reason == "damaged":
                raise Fault("truncated", f"perhaps cut off: {fault.detail}") from None
            raise
        return Fetched(errand.url, place, content, format, width, height, errand.attempts)


def _text(header: str) -> str:
    """Return a header that was sent in UTF-8 as it was meant; http.client takes it for Latin-1."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header

"""Turns at a host: so many connections at once, so many requests a second, and peace if asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from trainer.data.fetch.results import Fault


class Host:
    """What the threads know together about one host."""

    def __init__(self, per_host: int) -> None:
        self.turns = threading.BoundedSemaphore(per_host)
        self.users = 0
        self.next_request = 0.0
        self.quiet_until = 0.0


class Hosts:
    """Limits per host for all threads that share this object.

    Args:
        per_host: most turns at once.
        rate: most turns a second, or None.
        longest_wait: seconds; nobody waits for a host that asks to be left in peace for longer.
    """

    def __init__(self, per_host: int, rate: float | None, longest_wait: float) -> None:
        self._per_host = per_host
        self._longest_wait = longest_wait
        self._between = 1 / rate if rate else 0.0
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._closed = threading.Event()

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait for a turn at a host, and hold it during the block.

        Raises:
            Fault: the host has asked to be left in peace for too long.
            RuntimeError: :meth:`close` was called.
        """
        with self._lock:
            host = self._hosts.setdefault(name, Host(self._per_host))
            host.users += 1
        try:
            with host.turns:
                while (wait := self._claim(host)) > 0:
                    self.pause(wait)
                yield
        finally:
            with self._lock:
                host.users -= 1
                # Crawls meet more hosts than are worth remembering.
                idle = max(host.next_request, host.quiet_until) <= time.monotonic()
                if not host.users and idle:
                    del self._hosts[name]

    def _claim(self, host: Host) -> float:
        """Take the next request of a host, or return the seconds until one may be free."""
        with self._lock:
            now = time.monotonic()
            quiet = host.quiet_until - now
            if quiet > self._longest_wait:
                words = f"the host asks to be left in peace for {quiet:.0f} s more"
                raise Fault("busy", words, wait=quiet)
            start = max(host.next_request, host.quiet_until)
            if start <= now:
                host.next_request = now + self._between
            return start - now

    def leave_in_peace(self, name: str, seconds: float) -> None:
        """Let no request to a host begin for so long; those that have begun go on."""
        with self._lock:
            host = self._hosts.get(name)
            if host is not None:
                host.quiet_until = max(host.quiet_until, time.monotonic() + seconds)

    def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            RuntimeError: :meth:`close` was called, before or meanwhile.
        """
        if self._closed.wait(max(seconds, 0.0)):
            raise RuntimeError("the Fetcher is closed")

    def close(self) -> None:
        """Wake up all that wait; they raise RuntimeError."""
        self._closed.set()

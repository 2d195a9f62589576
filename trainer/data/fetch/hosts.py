"""Turns at a host: so many connections at once, so many requests a second, and peace if asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from trainer.data.fetch.options import FetchOptions
from trainer.data.fetch.results import Fault


class Host:
    """What the threads know together about one host."""

    def __init__(self, per_host: int) -> None:
        self.turns = threading.BoundedSemaphore(per_host)
        self.users = 0
        self.next_request = 0.0
        self.quiet_until = 0.0
        self.failures = 0


class Hosts:
    """Limits per host for all threads that share this object.

    Args:
        options: of which `per_host`, `rate`, `longest_wait`, `host_failures` and `host_rest` count.
    """

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._between = 1 / options.rate if options.rate else 0.0
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}

    @contextlib.contextmanager
    def turn(self, name: str, closed: threading.Event) -> Iterator[None]:
        """Wait for a turn at a host, and hold it during the block.

        Args:
            name: of the host.
            closed: what ends the wait.

        Raises:
            Fault: the host is to be left in peace for longer than one waits.
            RuntimeError: `closed` is set, before or meanwhile.
        """
        with self._lock:
            host = self._hosts.setdefault(name, Host(self._options.per_host))
            host.users += 1
        try:
            with host.turns:
                pause(0, closed)
                while (wait := self._claim(host)) > 0:
                    pause(wait, closed)
                yield
        finally:
            with self._lock:
                host.users -= 1
                # Crawls meet more hosts than are worth remembering.
                idle = max(host.next_request, host.quiet_until) <= time.monotonic()
                if idle and not host.users and not host.failures:
                    del self._hosts[name]

    def _claim(self, host: Host) -> float:
        """Take the next request of a host, or return the seconds until one may be free."""
        with self._lock:
            now = time.monotonic()
            quiet = host.quiet_until - now
            if quiet > self._options.longest_wait:
                words = f"the host is left in peace for {quiet:.0f} s more"
                raise Fault("busy", words, wait=quiet)
            start = max(host.next_request, host.quiet_until)
            if start <= now:
                host.next_request = now + self._between
            return start - now

    def leave_in_peace(self, name: str, seconds: float) -> None:
        """Let no request begin for so long, at a host where one holds a turn."""
        with self._lock:
            self._quiet(self._hosts[name], seconds)

    def answered(self, name: str, well: bool) -> None:
        """Count what came of a turn that one holds; a host out of order gets a rest.

        Args:
            name: of the host.
            well: whether it answered in a way that another request would not change.
        """
        with self._lock:
            host = self._hosts[name]
            host.failures = 0 if well else host.failures + 1
            most = self._options.host_failures
            if most is not None and host.failures >= most:
                self._quiet(host, self._options.host_rest)

    def _quiet(self, host: Host, seconds: float) -> None:
        host.quiet_until = max(host.quiet_until, time.monotonic() + seconds)


def pause(seconds: float, closed: threading.Event) -> None:
    """Sleep.

    Args:
        seconds: how long.
        closed: what ends the sleep.

    Raises:
        RuntimeError: `closed` is set, before or meanwhile.
    """
    if closed.wait(seconds):
        raise RuntimeError("the Fetcher is closed")

"""How pictures are fetched."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

#: Pillow itself refuses what has more pixels.
PILLOW_PIXELS = 178_956_970


@dataclass(frozen=True)
class FetchOptions:
    """How pictures are fetched; can be pickled, compared and hashed.

    Attributes:
        timeout: seconds without a connection or a byte after which an attempt has failed;
            default 15.
        deadline: seconds for a URL in all, whatever its server does: attempts, redirects and
            the pauses between attempts, but not the wait for a turn at a host; default 90.
        attempts: how often a URL is asked for at most, from 1; default 4. Only failures that may
            pass are followed by another attempt.
        back_off: seconds to pause after the first attempt; doubled after each further one, and
            multiplied by a random factor from 0.5 to 1.5 so that workers do not come back all
            at once; default 1.
        longest_wait: most seconds to pause between two attempts; default 30. A server that asks
            for more by Retry-After is left in peace: the URL fails at once, with `wait` set.
        per_host: most connections to one host at once, of all threads of the process;
            default 4.
        rate: most requests a second to one host, of all threads of the process; None, the
            default, for no limit.
        host_failures: requests to one host in a row, of all threads, that may fail in ways that may
            pass; default 100. Then the host is taken to be out of order: for `host_rest` seconds
            its URLs fail at once, unasked. None for no limit.
        host_rest: seconds; default 600.
        redirects: most redirects to follow; default 5.
        most_bytes: largest file; default 20,000,000. What is larger is not read on.
        most_pixels: most pixels of a picture by its header, before it is decoded; default
            50,000,000, at most 178,956,970.
        least_side: pixels that both sides must have: shops answer with a picture of one pixel
            where they have none; default 16.
        allow_hosts: names of the only hosts to go to, also by a redirect: `shop.example`, or
            `*.shop.example` for what is below it; None, the default, for any.
        allow_networks: networks such as `10.0.0.0/8` that may be gone to although they are not
            public; none by default, so that no list of URLs and no redirect can reach into the
            network that the worker is in.
        user_agent: what to call oneself; default `mildnet`.

    Raises:
        ValueError: a value is out of its range.
    """

    timeout: float = 15.0
    deadline: float = 90.0
    attempts: int = 4
    back_off: float = 1.0
    longest_wait: float = 30.0
    per_host: int = 4
    rate: float | None = None
    host_failures: int | None = 100
    host_rest: float = 600.0
    redirects: int = 5
    most_bytes: int = 20_000_000
    most_pixels: int = 50_000_000
    least_side: int = 16
    allow_hosts: tuple[str, ...] | None = None
    allow_networks: tuple[str, ...] = ()
    user_agent: str = "mildnet"

    def __post_init__(self) -> None:
        for name in ("timeout", "deadline"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0 seconds")
        for name in ("back_off", "longest_wait", "host_rest"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 0 seconds")
        for name in ("attempts", "per_host", "most_bytes", "most_pixels", "least_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        if self.host_failures is not None and self.host_failures < 1:
            raise ValueError(f"host_failures={self.host_failures!r} must be at least 1, or None")
        if self.redirects < 0:
            raise ValueError(f"redirects={self.redirects!r} must be at least 0")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate={self.rate!r} must be above 0 requests a second, or None")
        if self.most_pixels > PILLOW_PIXELS:
            raise ValueError(
                f"most_pixels={self.most_pixels!r} must be at most {PILLOW_PIXELS:,}, Pillow's own"
            )
        for name in ("allow_hosts", "allow_networks"):
            if not isinstance(getattr(self, name), tuple | None):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a tuple of strings")
        for network in self.allow_networks:
            ipaddress.ip_network(network)
        if not self.user_agent.isprintable() or not self.user_agent.isascii():
            raise ValueError(f"user_agent={self.user_agent!r} must be printable ASCII")

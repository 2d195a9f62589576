"""Who may do what, and how often."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import time
from collections.abc import Sequence

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import Request

from trainer.config import UserError
from trainer.serving.api.errors import Refusal

#: What a search or a change costs of a client's rate, where any other request costs 1.
SEARCH = 10


class Keys:
    """API keys; compared in constant time, one by one.

    Args:
        keys: any of them opens the service; none: it is open.
        write_keys: any of them opens it for changes, too; none: `keys` do.
    """

    def __init__(self, keys: Sequence[str], write_keys: Sequence[str] = ()) -> None:
        self._read = [_digest(key) for key in (*keys, *(write_keys if keys else ()))]
        self._write = [_digest(key) for key in write_keys or keys]

    @property
    def for_reading(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._read)

    @property
    def for_writing(self) -> bool:
        """Whether changes need a key."""
        return bool(self._write)

    def check(self, request: Request, *, write: bool = False) -> None:
        """Refuse a request that comes without a key that it needs.

        Raises:
            Refusal: 401 without a valid key, 403 for a change with a key that is for reading.
        """
        wanted = self._write if write else self._read
        if not wanted:
            return
        given = _given(request)
        if given is None:
            raise _unknown("this needs an API key: send it as X-API-Key")
        if _is_among(given, wanted):
            return
        if write and _is_among(given, self._read):
            raise Refusal(403, "this API key is for searching, not for changes")
        raise _unknown("this API key is not known")


class Rates:
    """How often a client may ask, by its address.

    Args:
        rate: such as `20/second` or `20/second;600/minute`, of searches; None for no limit.

    Raises:
        UserError: `rate` is no rate.
    """

    def __init__(self, rate: str | None) -> None:
        try:
            parsed = parse_many(rate) if rate else []
        except ValueError:
            raise UserError(
                f"rate={rate!r} must be like 20/second or 20/second;600/minute"
            ) from None
        # Costs are whole numbers: the least one is a tenth of a search.
        self._limits = [type(one)(one.amount * SEARCH, one.multiples) for one in parsed]
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def check(self, request: Request, cost: int) -> None:
        """Refuse a request of a client that asks too often.

        Args:
            request: whose client counts.
            cost: 1, or :data:`SEARCH`.

        Raises:
            Refusal: 429.
        """
        client = client_of(request)
        for limit in self._limits:
            if not self._limiter.hit(limit, client, cost=cost):
                stats = self._limiter.get_window_stats(limit, client)
                wait = max(1, math.ceil(stats.reset_time - time.time()))
                words = f"too many requests: come again in {wait} s"
                raise Refusal(429, words, {"Retry-After": str(wait)})


def client_of(request: Request) -> str:
    """Return what a client is known by: its address, or the network of an IPv6 address.

    Whoever has one IPv6 address has the 2**64 of its network.
    """
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _given(request: Request) -> str | None:
    key = request.headers.get("X-API-Key")
    if key is None:
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        key = rest.strip() if scheme.lower() == "bearer" else None
    return key


def _unknown(words: str) -> Refusal:
    return Refusal(401, words, {"WWW-Authenticate": "Bearer"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _is_among(key: str, digests: Sequence[bytes]) -> bool:
    given = _digest(key)
    # All are compared, so that the time tells nothing of which one was met.
    return sum(hmac.compare_digest(given, digest) for digest in digests) > 0

"""Connections to allowed addresses only, which end when the time is up. Needs urllib3."""

from __future__ import annotations

import http.client
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from trainer.data.fetch.options import FetchOptions
from trainer.data.fetch.results import Fault

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: When the errand of this thread has to end, seconds of the monotonic clock.
END: ContextVar[float] = ContextVar("end", default=math.inf)

#: Addresses of one host that are tried.
ADDRESSES = 4

#: What a resolver says where a name does not exist, rather than that it cannot tell.
NO_SUCH_NAME = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
}

#: Where the last 32 bits of an address are the IPv4 address that the packets go to: translated
#: (NAT64, SIIT), and as it was once written.
IPV4_WITHIN = tuple(
    ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")
)
#: Networks that some versions of Python take for public, or partly so.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network) for network in ("192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10")
)


def seconds_left() -> float:
    """Return the time left for the errand of this thread; below 0 if it is up."""
    return END.get() - time.monotonic()


def _shorten(connected: socket.socket) -> None:
    """Let the next read end with the errand: the timeout of a socket starts anew for each byte."""
    left = seconds_left()
    if left <= 0:
        raise TimeoutError("the time is up")
    timeout = connected.gettimeout()
    if timeout is None or timeout > left:
        connected.settimeout(left)


class _Socket(socket.socket):
    def recv_into(self, *arguments: Any, **options: Any) -> int:
        _shorten(self)
        return super().recv_into(*arguments, **options)


class _TLSSocket(ssl.SSLSocket):
    def recv_into(self, *arguments: Any, **options: Any) -> int:
        _shorten(self)
        return super().recv_into(*arguments, **options)


class _Guarded(HTTPConnection):
    """Looks at the address after the name is resolved, so that no name can stand for another."""

    networks: Sequence[Network] = ()

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            reason = "unknown_host" if error.errno in NO_SUCH_NAME else "connection"
            raise Fault(reason, f"{name}: {error.strerror}") from None
        except UnicodeError:
            raise Fault("bad_url", f"{name} cannot be the name of a host") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in addresses if is_allowed(address, self.networks)]
        if not allowed:
            raise Fault("refused", f"{name}: the address {addresses[0]} is not public")
        try:
            for address in allowed[:ADDRESSES]:
                self._dns_host = address
                self.timeout = min(float(self.timeout or math.inf), max(seconds_left(), 1e-3))
                try:
                    plain = super()._new_conn()
                    break
                except urllib3.exceptions.HTTPError:
                    if address == allowed[:ADDRESSES][-1]:
                        raise
        finally:
            self._dns_host = name
        timed = _Socket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        timed.settimeout(self.timeout)
        return timed


class _GuardedTLS(_Guarded, HTTPSConnection):
    pass


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is public, or in one of the networks.

    Args:
        address: IPv4 or IPv6, also with a zone.
        networks: what is allowed beside public addresses.
    """
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in other clothes is where the packets go.
        ip = ip.ipv4_mapped or ip.sixtofour or _within(ip) or ip
    if _is_in(ip, networks):
        return True
    public = ip.is_global and not ip.is_multicast and not ip.is_reserved
    return public and not _is_in(ip, NOT_PUBLIC)


def _is_in(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[Network]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)


def _within(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    # The first two of all are no IPv4 addresses: none, and this machine.
    if int(ip) > 1 and _is_in(ip, IPV4_WITHIN):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def manager(options: FetchOptions) -> urllib3.PoolManager:
    """Return pools of connections that are kept open, safe in threads."""
    networks = tuple(ipaddress.ip_network(network) for network in options.allow_networks)
    plain = type("Plain", (_Guarded,), {"networks": networks})
    tls = type("TLS", (_GuardedTLS,), {"networks": networks})
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    pools = urllib3.PoolManager(
        num_pools=64,
        maxsize=options.per_host,
        ssl_context=context,
        headers={
            "User-Agent": options.user_agent,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        },
    )
    pools.pool_classes_by_scheme = {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }
    return pools


def fault_of(error: urllib3.exceptions.HTTPError) -> Fault:
    """Return what an error of urllib3 means; its own words name URLs, so they are not used."""
    kinds = urllib3.exceptions
    cause = error.__cause__ or (error.args[-1] if error.args else None)
    if isinstance(error, kinds.TimeoutError) and seconds_left() <= 0:
        return Fault("deadline", "the time for this URL is up")
    if isinstance(error, kinds.NewConnectionError):
        return Fault("connection", f"no connection: {_words(cause)}")
    if isinstance(error, kinds.ConnectTimeoutError):
        return Fault("timeout", "no connection in time")
    if isinstance(error, kinds.TimeoutError):
        return Fault("timeout", "no byte in time")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Fault("certificate", cause.verify_message)
    if isinstance(cause, http.client.IncompleteRead):
        return Fault("truncated", "the connection ended before the file did")
    if isinstance(error, kinds.DecodeError):
        return Fault("damaged", "its content encoding is damaged")
    if isinstance(error, kinds.LocationValueError):
        return Fault("bad_url", "malformed")
    return Fault("connection", f"broken: {_words(cause)}")


def _words(cause: object) -> str:
    text = cause.strerror if isinstance(cause, OSError) else None
    return text or type(cause).__name__

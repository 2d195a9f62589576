"""What the search service allows, and how it works."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Of a page, as browsers write it: small letters, no path.
ORIGIN = r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
#: A name or an address without a port.
HOST = r"[A-Za-z0-9_.-]+|\[?[0-9A-Fa-f:.]+\]?"


@dataclass(frozen=True)
class ServiceOptions:
    """What a search service allows, and how it works.

    Attributes:
        k: neighbours of an answer where the client names no number; default 20.
        most_k: most neighbours that a client may ask for; default 100.
        most_bytes: largest picture file; default 10,000,000.
        most_pixels: most pixels of a picture by its header, before it is decoded; default
            50,000,000.
        batch: most pictures that go through the model at once; default 32.
        batch_wait: most seconds that the model waits for pictures that are being decoded;
            default 0.004. Where there are none it begins at once.
        concurrency: requests that send or want pictures or searches, worked on at once; what
            comes beyond is answered with 503; default 128.
        deadline: most seconds for a request; default 30.
        rate: searches and changes of a client, such as `20/second` or `20/second;600/minute`;
            ten times as many other requests are allowed; None for no limit; default `20/second`.
        threads: decode pictures, each some at a time; default 2.
        thumbnail: longest side of a thumbnail in pixels that a client may ask for; default 1024.
        writable: whether products may be added and removed; default False.
        url_hosts: hosts whose pictures may be searched with by URL, such as `shop.example` or
            `*.shop.example`; default none: no search by URL.
        keys: API keys, one of which every request to `/v1` and `/metrics` has to come with;
            default none: no key is asked for.
        write_keys: keys for changes; default none: any of `keys` will do. They allow reading, too.
        cors_origins: origins of pages elsewhere that may use the API, such as
            `https://shop.example`; default none.
        hosts: names and addresses that clients know this service by, which they have to name;
            default none: any will do.
        access_log: whether each request is a line in the log; default True.

    Raises:
        ValueError: a value is out of its range.
    """

    k: int = 20
    most_k: int = 100
    most_bytes: int = 10_000_000
    most_pixels: int = 50_000_000
    batch: int = 32
    batch_wait: float = 0.004
    concurrency: int = 128
    deadline: float = 30.0
    rate: str | None = "20/second"
    threads: int = 2
    thumbnail: int = 1024
    writable: bool = False
    url_hosts: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    write_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    access_log: bool = True

    def __post_init__(self) -> None:
        for name in (
            *("k", "most_k", "most_bytes", "most_pixels", "batch", "concurrency", "threads"),
            "thumbnail",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        if self.k > self.most_k:
            raise ValueError(f"k={self.k} must be at most most_k={self.most_k}")
        if not self.batch_wait >= 0:
            raise ValueError(f"batch_wait={self.batch_wait!r} must be at least 0 seconds")
        if not self.deadline > 0:
            raise ValueError(f"deadline={self.deadline!r} must be above 0 seconds")
        for origin in self.cors_origins:
            if not re.fullmatch(ORIGIN, origin):
                raise ValueError(f"--cors-origin {origin}: must be like https://shop.example")
        for host in self.hosts:
            if not re.fullmatch(HOST, host):
                raise ValueError(f"--allow-host {host}: must be a name or address without a port")

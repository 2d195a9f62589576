"""A picture server on this machine that misbehaves in every way that its paths name."""

from __future__ import annotations

import gzip
import http.server
import io
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

#: What a picture server says where it has no picture, in words.
PAGE = b"<!doctype html><html><body>Sorry, we have no such picture.</body></html>"


@cache
def picture(kind: str = "jpeg", seed: int = 0, width: int = 48, height: int = 32) -> bytes:
    """Return a picture file: `jpeg`, `png`, `gif`, `webp` or `bmp`; another seed, another one."""
    values = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).resize((width, height)).save(stream, kind)
    return stream.getvalue()


def bomb(width: int = 8_000, height: int = 8_000) -> bytes:
    """Return a PNG file of a hundred bytes that says it is that large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def self_signed(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file, and return its path."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pictures")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    kind = serialization.PrivateFormat.PKCS8
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(pem, kind, serialization.NoEncryption()) + certificate.public_bytes(pem)
    )
    return path


class MisbehavingServer:
    """Serves on 127.0.0.1 while its `with` block runs.

    What a path does is said by its first parts; whatever follows makes it another URL, which is
    counted, and is flaky, for itself:

    - `/jpeg/7`, `/png/7`, `/gif/7`, `/webp/7`, `/bmp/7`: picture number 7;
    - `/slow/0.1/7`: picture 7 after a tenth of a second;
    - `/status/404`: that status, with a page;
    - `/flaky/2/7`: status 500 twice, then picture 7; `/flaky/2/7?status=503&after=1` with another
      status, and with `Retry-After: 1`;
    - `/busy/30`: status 429 with `Retry-After: 30`, always;
    - `/hang`: no answer; `/drip`: a byte of picture 0 every 20 ms; `/drip_header`: a byte of the
      header every 20 ms, for ever; `/stall/0.3`: a byte every 20 ms, and none after 0.3 seconds;
    - `/truncated/7`: half of picture 7 where all of it was announced; `/cut/7`: half of it, with
      nothing announced; `/short/7`: half of it, as announced; `/damaged/7`: as long as it, with
      noise for its second half; `/broken_chunks/7`: half of it in chunks, without the last one;
    - `/resets/2/7`: the connection is reset twice, then picture 7; `/reset`: always;
    - `/garbage`: not HTTP; `/html`: a page; `/html_as_jpeg`: a page called image/jpeg; `/empty`;
    - `/jpeg_as_html/7`: picture 7 called text/html; `/gzip/7`: picture 7, compressed once more;
    - `/false_gzip/503`: that status, with a page called gzip that is none, and `Location: /jpeg/4`;
      `/short_error/503`: with less of a page than announced;
    - `/large/1000000`: so many bytes, announced; `/endless`: for ever, not announced;
    - `/bomb`: 64 million pixels in a hundred bytes; `/tiny`: a GIF of one pixel;
    - `/redirect/3/7`: three redirects, then picture 7; `/loop`: a redirect to itself;
      `/to?URL`: a redirect to that URL (quoted); `/nowhere`: a redirect without aim.

    Args:
        certificate: file of :func:`self_signed` for https; none, the default, for http.

    Attributes:
        requests: number of requests by path with its query, a Counter.
        most_connections: most connections that were open at once.
        connections: all connections that were made.
        times: when requests came, seconds of the monotonic clock.
        user_agents: names under which clients came.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.times: list[float] = []
        self.connections = self.most_connections = self._open = 0
        self.user_agents: set[str] = set()
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        handler = type("Bound", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"

    def __enter__(self) -> MisbehavingServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the URL of a path such as `/jpeg/7`; `localhost` is another host, too."""
        return f"{self._scheme}://{host}:{self.port}{path}"

    def connected(self, change: int) -> None:
        with self.lock:
            self._open += change
            self.connections += change > 0
            self.most_connections = max(self.most_connections, self._open)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are what the tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: MisbehavingServer
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.connected(1)

    def finish(self) -> None:
        self.owner.connected(-1)
        super().finish()

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.owner.lock:
            self.owner.requests[self.path] += 1
            self.owner.times.append(time.monotonic())
            self.owner.user_agents.add(self.headers["User-Agent"])
            self.visit = self.owner.requests[self.path]
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        name, *rest = url.path.strip("/").split("/")
        getattr(self, f"on_{name}", self.on_unknown)(*rest)

    def send(
        self,
        content: bytes,
        kind: str = "image/jpeg",
        status: int = 200,
        length: int | None = -1,
        **headers: str,
    ) -> None:
        """Send an answer that announces its own length, another one, or none and hangs up."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(content) if length < 0 else length))
        else:
            self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def picture(self, rest: tuple[str, ...], kind: str = "jpeg") -> bytes:
        return picture(kind, int(rest[0]) if rest and rest[0].isdigit() else 0)

    def on_unknown(self, *rest: str) -> None:
        self.send(PAGE, "text/html", 404)

    def on_jpeg(self, *rest: str) -> None:
        self.send(self.picture(rest))

    def on_png(self, *rest: str) -> None:
        self.send(self.picture(rest, "png"), "image/png")

    def on_gif(self, *rest: str) -> None:
        self.send(self.picture(rest, "gif"), "image/gif")

    def on_webp(self, *rest: str) -> None:
        self.send(self.picture(rest, "webp"), "image/webp")

    def on_bmp(self, *rest: str) -> None:
        self.send(self.picture(rest, "bmp"), "image/bmp")

    def on_slow(self, seconds: str, *rest: str) -> None:
        time.sleep(float(seconds))
        self.on_jpeg(*rest)

    def on_status(self, status: str, *rest: str) -> None:
        self.send(PAGE, "text/html", int(status))

    def on_flaky(self, times: str, *rest: str) -> None:
        if self.visit > int(times):
            self.on_jpeg(*rest)
            return
        after = {"Retry_After": self.query["after"]} if "after" in self.query else {}
        self.send(PAGE, "text/html", int(self.query.get("status", 500)), **after)

    def on_busy(self, seconds: str, *rest: str) -> None:
        self.send(PAGE, "text/html", 429, Retry_After=seconds)

    def on_hang(self, *rest: str) -> None:
        self.owner.stopped.wait(10)
        self.close_connection = True

    def _drip(self, content: bytes) -> None:
        for place in range(len(content)):
            self.wfile.write(content[place : place + 1])
            if self.owner.stopped.wait(0.02):
                break
        self.close_connection = True

    def on_drip(self, *rest: str) -> None:
        content = self.picture(rest)
        self.send(b"", length=len(content))
        self._drip(content)

    def on_stall(self, seconds: str, *rest: str) -> None:
        self.send(b"", length=1000)
        self._drip(bytes(int(float(seconds) / 0.02)))
        self.on_hang()

    def on_drip_header(self, *rest: str) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000)

    def on_truncated(self, *rest: str) -> None:
        content = self.picture(rest)
        self.send(content[: len(content) // 2], length=len(content))
        self.close_connection = True

    def on_cut(self, *rest: str) -> None:
        content = self.picture(rest)
        self.send(content[: len(content) // 2], length=None)

    def on_short(self, *rest: str) -> None:
        content = self.picture(rest)
        self.send(content, length=len(content) // 2)
        self.close_connection = True

    def on_damaged(self, *rest: str) -> None:
        content = self.picture(rest)
        half = len(content) // 2
        self.send(content[:half] + bytes(len(content) - half))

    def on_broken_chunks(self, *rest: str) -> None:
        content = self.picture(rest)
        content = content[: len(content) // 2]
        self.send(
            b"%x\r\n%b\r\n" % (len(content), content), length=None, Transfer_Encoding="chunked"
        )

    def on_reset(self, *rest: str) -> None:
        # A socket that does not linger is reset where others say goodbye.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def on_resets(self, times: str, *rest: str) -> None:
        if self.visit > int(times):
            self.on_jpeg(*rest)
        else:
            self.on_reset()

    def on_garbage(self, *rest: str) -> None:
        self.wfile.write(b"220 this is a mail server\r\n")
        self.close_connection = True

    def on_html(self, *rest: str) -> None:
        self.send(PAGE, "text/html; charset=utf-8")

    def on_html_as_jpeg(self, *rest: str) -> None:
        self.send(PAGE)

    def on_empty(self, *rest: str) -> None:
        self.send(b"")

    def on_jpeg_as_html(self, *rest: str) -> None:
        self.send(self.picture(rest), "text/html")

    def on_gzip(self, *rest: str) -> None:
        self.send(gzip.compress(self.picture(rest)), Content_Encoding="gzip")

    def on_false_gzip(self, status: str, *rest: str) -> None:
        self.send(PAGE, status=int(status), Content_Encoding="gzip", Location="/jpeg/4")

    def on_short_error(self, status: str, *rest: str) -> None:
        self.send(PAGE, status=int(status), length=len(PAGE) + 9)
        self.close_connection = True

    def on_large(self, size: str, *rest: str) -> None:
        self.send(b"", length=int(size))
        self._flood(int(size))

    def on_endless(self, *rest: str) -> None:
        self.send(b"", length=None)
        self._flood(1 << 40)

    def _flood(self, size: int) -> None:
        while size > 0 and not self.owner.stopped.is_set():
            self.wfile.write(bytes(min(size, 1 << 16)))
            size -= 1 << 16

    def on_bomb(self, *rest: str) -> None:
        self.send(bomb(), "image/png")

    def on_tiny(self, *rest: str) -> None:
        self.send(picture("gif", 0, 1, 1), "image/gif")

    def _go(self, location: str | None) -> None:
        headers = {} if location is None else {"Location": location}
        self.send(PAGE, "text/html", 302, **headers)

    def on_redirect(self, times: str, *rest: str) -> None:
        left = int(times) - 1
        self._go("/".join(["", *(["redirect", str(left)] if left else ["jpeg"]), *rest]))

    def on_loop(self, *rest: str) -> None:
        self._go(self.path)

    def on_to(self, *rest: str) -> None:
        self._go(unquote(urlsplit(self.path).query))

    def on_nowhere(self, *rest: str) -> None:
        self._go(None)

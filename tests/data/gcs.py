"""A Cloud Storage on this machine that TensorFlow's own `gs://` speaks to.

TensorFlow names Google's hosts in its code, but takes a proxy and a certificate authority from the
environment. The server is that proxy: it lets itself be asked for a tunnel, and is the far end of
it, too. Objects are in memory: `server.objects["bucket/name"]`.
"""

from __future__ import annotations

import datetime
import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
API = "/storage/v1"
UPLOAD = "/upload/storage/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self):
        url = urlsplit(self.path)
        if found := re.fullmatch(rf"{API}/b/([^/]+)/o/(.+)", url.path):
            return self.stat(f"{found[1]}/{unquote(found[2])}")
        if found := re.fullmatch(rf"{API}/b/([^/]+)/o", url.path):
            return self.list(found[1], {k: v[0] for k, v in parse_qs(url.query).items()})
        if url.path.startswith(API):
            return self.answer(200, {})
        return self.read(unquote(url.path[1:]))

    def do_POST(self):
        url = urlsplit(self.path)
        content = self.body()
        if found := re.fullmatch(rf"{UPLOAD}/b/([^/]+)/o", url.path):
            query = parse_qs(url.query)
            name = f"{found[1]}/{query['name'][0]}"
            if query["uploadType"] == ["media"]:  # the empty object that marks a folder
                self.server.objects[name] = content
                return self.answer(200, {})
            name = quote(name, safe="")
            return self.answer(200, {}, Location=f"https://{HOSTS[0]}{UPLOAD}/session/{name}")
        pattern = rf"{API}/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)"
        if found := re.fullmatch(pattern, url.path):
            source, target = (f"{found[n]}/{unquote(found[n + 1])}" for n in (1, 3))
            if source not in self.server.objects:
                return self.answer(404, {})
            self.server.objects[target] = self.server.objects[source]
            return self.answer(200, {"done": True})
        return self.answer(501, {})

    def do_PUT(self):
        name = unquote(urlsplit(self.path).path.removeprefix(f"{UPLOAD}/session/"))
        content = self.body()
        _, _, size = self.headers["Content-Range"].partition("/")
        if len(content) != int(size):
            return self.answer(501, {})
        self.server.objects[name] = content
        return self.answer(200, {})

    def do_DELETE(self):
        found = re.fullmatch(rf"{API}/b/([^/]+)/o/(.+)", urlsplit(self.path).path)
        gone = self.server.objects.pop(f"{found[1]}/{unquote(found[2])}", None)
        return self.answer(404 if gone is None else 204)

    def stat(self, name):
        content = self.server.objects.get(name)
        if content is None:
            return self.answer(404, {})
        told = {"size": str(len(content)), "generation": "1", "updated": "2026-01-01T00:00:00.000Z"}
        return self.answer(200, told)

    def list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names, folders = [], set()
        for path in sorted(self.server.objects):
            holder, _, name = path.partition("/")
            if holder != bucket or not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                names.append({"name": name})
        most = int(query.get("maxResults", 1000))
        return self.answer(200, {"items": names[:most], "prefixes": sorted(folders)})

    def read(self, name):
        content = self.server.objects.get(name)
        if content is None:
            return self.answer(404, {})
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(found[1]), int(found[2])
            if first >= len(content):
                return self.answer(416, {})
            return self.answer(206, content[first : last + 1])
        return self.answer(200, content)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.server.lock:
            self.server.requests.append((self.command, self.path, status))

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Serves within a `with` block; `environment` makes a process speak to it."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.lock = threading.Lock()
        certificate, key = _certificate(folder)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate, key)
        self.environment = {
            "https_proxy": f"http://127.0.0.1:{self.server_port}",
            "no_proxy": "",
            "CURL_CA_BUNDLE": str(certificate),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
        }

    def names(self, prefix: str) -> list[str]:
        """Return the names of all objects below a prefix, without it."""
        return sorted(name[len(prefix) :] for name in self.objects if name.startswith(prefix))

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, address):
        """A client that was killed leaves its connections open."""


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of Google's hosts that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a bucket of the tests")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in HOSTS]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, secret

"""Cloud Storage on this machine: so much of its JSON interface as staging needs, over HTTP."""

from __future__ import annotations

import base64
import json
import re
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class StorageServer:
    """One bucket, while its `with` block runs, on a port of 127.0.0.1 that was free.

    Attributes:
        objects: what is in the bucket, by name.
        uploads: names in the order in which they were uploaded.
        damage: change what arrives, as a bad line would.
        refusal: status and message of every answer, or None.
    """

    def __init__(self, bucket: str = "shop-jobs") -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.damage = False
        self.refusal: tuple[int, str] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*outer._get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(*outer._post(self.path, self.headers["Content-Type"], body))

            def log_message(self, *words: object) -> None:
                pass

            def _answer(self, status: int, values: dict[str, Any] | bytes) -> None:
                media = isinstance(values, bytes)
                data = values if media else json.dumps(values).encode()
                self.send_response(status)
                if media:
                    self.send_header("X-Goog-Hash", f"crc32c={_checksum(data)}")
                self.send_header(
                    "Content-Type", "application/octet-stream" if media else "application/json"
                )
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StorageServer:
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def _get(self, path: str) -> tuple[int, dict[str, Any] | bytes]:
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        place = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o(?:/(.+))?", url.path)
        if self.refusal:
            return _error(*self.refusal)
        if not place or place[1] != self.bucket:
            return _error(404, "The specified bucket does not exist.")
        if place[2] is None:
            return 200, self._listed(query.get("prefix", ""), query.get("delimiter"))
        name = unquote(place[2])
        if name not in self.objects:
            return _error(404, f"No such object: {self.bucket}/{name}")
        return 200, self.objects[name] if query.get("alt") == "media" else self._about(name)

    def _listed(self, prefix: str, delimiter: str | None) -> dict[str, Any]:
        items, prefixes = [], set()
        for name in sorted(name for name in self.objects if name.startswith(prefix)):
            head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if found:
                prefixes.add(prefix + head + found)
            else:
                items.append(self._about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _post(self, path: str, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        url = urlsplit(path)
        if self.refusal:
            return _error(*self.refusal)
        if url.path != f"/upload/storage/v1/b/{self.bucket}/o":
            return _error(404, "The specified bucket does not exist.")
        query = parse_qs(url.query)
        assert query["uploadType"] == ["multipart"]
        assert query.get("ifGenerationMatch", ["0"]) == ["0"]
        whole = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        first, _ = whole.get_payload()
        values = json.loads(first.get_payload(decode=True))
        if query.get("ifGenerationMatch") == ["0"] and values["name"] in self.objects:
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        # The parser of e-mails takes line ends for its own; the bytes are cut out instead.
        boundary = whole.get_boundary().encode()
        data = body.split(b"--" + boundary)[2].partition(b"\r\n\r\n")[2][:-2]
        if self.damage:
            data = b"x" + data[1:]
        if values.get("crc32c") not in (None, _checksum(data)):
            return _error(400, "Provided CRC32C does not match calculated CRC32C.")
        self.objects[values["name"]] = data
        self.uploads.append(values["name"])
        return 200, self._about(values["name"])

    def _about(self, name: str) -> dict[str, Any]:
        data = self.objects[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.bucket,
            "size": str(len(data)),
            "crc32c": _checksum(data),
        }


def _checksum(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": status, "message": message}}

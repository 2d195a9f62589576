"""`mildnet amazon-reviews` on real pictures over local HTTP: which user pictures are kept.

Of each label in a run's test split, which the model has never seen, the first half of the pictures
are the shop's and the others its customers'; a share of further ones, which customers are made to
show as well, are of other labels. A server on this machine has them all, misses some, and fails at
first with others.

    python -m benchmarks reviews --run runs/product_recognition_icons/5_xbm_3rd
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine, print_table
from trainer.data.open_image import open_image

#: Of so many addresses one is not there, and another answers with an error at first.
MISSING, BUSY = 25, 20
THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8)


def main(argv: list[str]) -> None:
    """Run the pipeline and print what it kept, with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks reviews", description=__doc__)
    parser.add_argument("--run", required=True, help="a finished run with labelled pictures")
    parser.add_argument("--wrong", type=float, default=0.5, help="wrong pictures for each right")
    options = parser.parse_args(argv)
    from trainer.data.fetch import FetchOptions
    from trainer.launch.amazon_reviews.creating import create
    from trainer.launch.amazon_reviews.options import FetchSettings, ReviewOptions
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.splits import read_split

    table = read_split(RunFolder.open(options.run).config())
    files, shop, users, kinds = _shop(table.path.tolist(), table.label.tolist(), options.wrong)
    with tempfile.TemporaryDirectory() as folder, _serving(files) as address:
        for name, field, pictures in (("meta_Icons", "imageURL", shop), ("Icons", "image", users)):
            with gzip.open(f"{folder}/{name}.json.gz", "wt") as lines:
                for product, numbers in pictures.items():
                    urls = [f"{address}/{number}.jpg" for number in numbers]
                    lines.write(json.dumps({"asin": product, field: urls}) + "\n")
        start = time.perf_counter()
        created = create(
            ReviewOptions(
                reviews=[f"{folder}/Icons.json.gz"],
                metadata=[f"{folder}/meta_Icons.json.gz"],
                model=options.run,
                to=f"{folder}/set",
                thresholds=THRESHOLDS,
                fetch=FetchSettings(
                    FetchOptions(allow_networks=("127.0.0.0/8",), back_off=0.05, least_side=8)
                ),
            )
        )
        seconds = time.perf_counter() - start
        failures = Counter(row["reason"] for row in _rows(created.failures))
        rows = []
        for threshold, tables in created.tables.items():
            there = {Path(row["image_path"]).stem for row in _rows(tables)}
            found = {
                kind: [_name(f"{address}/{number}.jpg") in there for number in numbers]
                for kind, numbers in kinds.items()
            }
            right, wrong = sum(found["right"]), sum(found["wrong"])
            shares = [f"{100 * sum(mine) / len(mine):.1f}" for mine in found.values()]
            pure = f"{100 * right / max(right + wrong, 1):.1f}"
            rows.append([f"{threshold:g}", *shares, pure, right + wrong])
    print(machine("apache-beam", "tensorflow"))
    print_table(
        f"{len(shop)} products, {len(files):,} pictures at local addresses, {seconds:.0f} s; "
        f"failures: {dict(failures)}",
        ["threshold", "right kept, %", "wrong kept, %", "right among kept, %", "user pictures"],
        rows,
    )


def _name(url: str) -> str:
    from trainer.launch.amazon_reviews.downloading import picture_path

    return Path(picture_path(url, ".jpg")).stem


def _shop(
    paths: list[str], labels: list[int], wrong: float
) -> tuple[list[bytes], dict[str, list[int]], dict[str, list[int]], dict[str, list[int]]]:
    """Return files; and their numbers by product, the shop's and its customers'; and those of the
    customers that are right or wrong."""
    random = np.random.default_rng(0)
    members: dict[int, list[str]] = defaultdict(list)
    for path, label in zip(paths, labels, strict=True):
        members[label].append(path)
    several = {label: found for label, found in members.items() if len(found) > 1}
    files: list[bytes] = []
    shop: dict[str, list[int]] = defaultdict(list)
    users: dict[str, list[int]] = defaultdict(list)
    kinds: dict[str, list[int]] = {"right": [], "wrong": []}

    def add(path: str, level: int, *lists: list[int]) -> None:
        stream = io.BytesIO()
        open_image(path).save(stream, "png", compress_level=level)
        for numbers in lists:
            numbers.append(len(files))
        files.append(stream.getvalue())

    for label, found in several.items():
        product, half = f"P{label}", len(found) // 2
        for path in found[:half]:
            add(path, 9, shop[product])
        for path in found[half:]:
            add(path, 9, users[product], kinds["right"])
            if random.random() < wrong:
                other = random.choice([other for other in several if other != label])
                # Other bytes than the same picture's elsewhere, or it would count once.
                add(
                    several[int(other)][0],
                    int(random.integers(1, 9)),
                    users[product],
                    kinds["wrong"],
                )
    return files, shop, users, kinds


@contextmanager
def _serving(files: list[bytes]) -> Iterator[str]:
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked[self.path] += 1
            number = int(self.path.rpartition("/")[2].partition(".")[0])
            body = files[number]
            status = 404 if number % MISSING == 7 else 200
            if number % BUSY == 3 and asked[self.path] == 1:
                status = 503
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))

"""The whole walk, over HTTP, from a dump to what a training reads."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.launch.amazon_reviews.shop import (
    PRODUCTS,
    SHOP,
    USER,
    PhotoServer,
    asin,
    encoded,
    photo,
    write_dump,
)
from tests.test_docs import blocks_of, parse, split_command
from trainer import cli
from trainer.config import get
from trainer.data.fetch import REASONS
from trainer.launch.amazon_reviews import category, creating, stages
from trainer.launch.amazon_reviews.downloading import picture_path

#: What a product's customers link to besides, and what comes of it.
BAD = {
    0: ["/status/404/a.jpg", "/truncated/b._SY88.jpg"],
    1: ["/hang/c.jpg", "/to/d.jpg?http%3A%2F%2F10.1.2.3%2Fd.jpg"],
    2: ["/html_as_jpeg/e.jpg", "/damaged/f.jpg", "/flaky/1/g.jpg"],
    3: ["/tiny/h.jpg", "/redirect/2/7"],
}
REASON = {
    "a": "not_found",
    "b": "truncated",
    "c": "timeout",
    "d": "redirect",
    "e": "wrong_type",
    "f": "damaged",
    "h": "too_small",
}
#: The table of the threshold 0.5.
WIDE = "amazon_review_mean_05_full_images.csv"
FAST = [
    "--timeout",
    "0.3",
    "--attempts",
    "2",
    "--back-off",
    "0.02",
    "--allow-network",
    "127.0.0.0/8",
]


@pytest.fixture(scope="module")
def server() -> Iterator[PhotoServer]:
    with PhotoServer() as running:
        yield running


def command(
    dump: tuple[Path, Path], model: Path, to: Path, *options: str, fast: list[str] = FAST
) -> Result:
    words = ["amazon-reviews", "--reviews", dump[0], "--metadata", dump[1], "--model", model]
    return CliRunner().invoke(cli.app, [*map(str, [*words, "--to", to]), *fast, *options])


def done(result: Result) -> str:
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def table(to: Path, name: str = WIDE) -> list[dict[str, str]]:
    with open(to / name, newline="") as stream:
        return list(csv.DictReader(stream))


def expected() -> set[tuple[str, bytes]]:
    """Return label and content of all pictures that belong."""
    views = (*range(SHOP), *range(10, 10 + USER))
    return {
        (asin(product), encoded(photo(product, view)))
        for product in range(PRODUCTS)
        for view in views
    }


def contents(to: Path, rows: list[dict[str, str]]) -> set[tuple[str, bytes]]:
    assert len({row["image_path"] for row in rows}) == len(rows)
    return {(row["label"], (to / row["image_path"]).read_bytes()) for row in rows}


@dataclass(frozen=True)
class Made:
    """A data set of two categories that have their products in common."""

    server: PhotoServer
    model: Path
    folder: Path

    @property
    def to(self) -> Path:
        return self.folder / "out"

    def again(self, *options: str) -> Result:
        dump = self.folder / "*_5.json.gz", self.folder / "meta_*"
        return command(dump, self.model, self.to, "--most-malformed", "0.1", *options)

    def asked_by(self, *options: str) -> tuple[set[str], str]:
        """Run the command once more, and return the paths that it asks for, and its output."""
        before = dict(self.server.requests)
        output = done(self.again(*options))
        now = self.server.requests
        return {path for path in now if now[path] != before.get(path)}, output


@pytest.fixture(scope="module")
def made(server: PhotoServer, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    toys, _ = write_dump(folder, server, BAD)
    write_dump(folder, server, name="Baby", products=2)
    with gzip.open(toys, "at") as stream:
        stream.write("{'asin': 'written by Python'}\n")
    made = Made(server, model, folder)
    output = done(made.again("--threshold", "0.5", "--threshold", "0.99999", "--snapshot", "25"))
    assert "Toys: embeddings of all pictures" in output
    assert "1 of 59 lines are malformed and left out" in " ".join(output.split())
    for words in ("pictures embedded", "not: wrong_type", "user pictures kept above 0.5"):
        assert words in output
    return made


def test_the_dump_becomes_what_a_training_reads(made: Made) -> None:
    # Photographs of the product, none of another, each once, at full size.
    rows = table(made.to)
    assert contents(made.to, rows) == expected()
    assert table(made.to, "amazon_review_mean_099999_full_images.csv") == []
    read = get("dataset", "amazon_reviews").build(str(made.to), file=WIDE)
    assert len(read) == len(rows) == PRODUCTS * (SHOP + USER)
    assert sorted(read.label_names) == sorted({row["label"] for row in rows})
    assert read.problems == ()


def failures(made: Made) -> dict[str, dict[str, str]]:
    """Return the rows of the failures by the first letter of the file's name."""
    with open(made.to / "failures.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {row["url"].split("?")[0].rpartition("/")[2][0]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_failure_is_written_down_with_its_reason(made: Made) -> None:
    found = failures(made)
    assert {letter: row["reason"] for letter, row in found.items()} == REASON
    for row in found.values():
        assert (row["step"], row["category"]) == ("embed", "Toys")
        assert bool(row["next_try"]) == REASONS[row["reason"]]
        assert int(row["attempts"]) == (2 if REASONS[row["reason"]] else 1)


def test_everything_is_counted(made: Made) -> None:
    counts = json.loads((made.to / "counters.json").read_text())
    toys, baby, merged = counts["Toys"], counts["Baby"], counts[creating.MERGED]
    assert (toys["reviews_lines"], toys["reviews_malformed"]) == (59, 1)
    assert toys["products_joined"] == toys["products_compared"] == PRODUCTS
    # Of each product: the shop's, its customers', that of another; and two of the odd ones.
    assert toys["embed_done"] == PRODUCTS * (SHOP + USER + 1) + 2
    assert toys["pairs"] == PRODUCTS * SHOP * (USER + 1) + 2 * SHOP
    assert toys["embed_failed_timeout"] == toys["embed_failed_not_found"] == 1
    assert toys["download_done"] == PRODUCTS * (SHOP + USER)
    assert baby["download_done"] == 2 * (SHOP + USER)
    assert merged["kept_user_0.5"] == (PRODUCTS + 2) * USER
    assert merged["products_written_0.5"] == PRODUCTS
    assert merged["written_0.5"] == PRODUCTS * (SHOP + USER)


def test_a_category_may_have_any_name(server: PhotoServer, model: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    dump = write_dump(tmp_path, server, name="merged", products=3)
    done(command(dump, model, to))
    assert len(table(to)) == 3 * (SHOP + USER)
    counts = json.loads((to / "counters.json").read_text())
    assert (
        counts["merged"]["download_done"]
        == counts[creating.MERGED]["written_0.5"]
        == len(table(to))
    )
    assert "merged: embeddings of all pictures: done before" in done(command(dump, model, to))


def test_the_same_again_asks_for_nothing_and_changes_nothing(made: Made) -> None:
    options = "--threshold", "0.5", "--threshold", "0.99999"
    before = (made.to / WIDE).read_bytes()
    asked, output = made.asked_by(*options)
    assert asked == set()
    assert output.count("done before") == 9
    assert (made.to / WIDE).read_bytes() == before


def test_other_thresholds_take_up_what_is_embedded(made: Made) -> None:
    before = (made.to / WIDE).read_bytes()
    (made.to / WIDE).unlink()
    asked, _ = made.asked_by("--threshold", "0.5", "--threshold", "-0.9")
    # Only what was not kept before, and nothing to embed.
    assert asked
    assert not any("_SL256_" in path for path in asked)
    assert not any(re.search(r"/\d+-(\d|1\d)\.jpg", path) for path in asked)
    assert (made.to / WIDE).read_bytes() == before
    assert len(table(made.to, "amazon_review_mean_-09_full_images.csv")) > len(table(made.to))


def test_failures_that_may_pass_are_tried_again_once_they_are_due(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = SimpleNamespace(time=lambda: time.time() + 1000)
    for module in (stages, category):
        monkeypatch.setattr(module, "time", later)
    rows = table(made.to)
    asked, _ = made.asked_by("--threshold", "0.5")
    assert {path.split("?")[0].rpartition("/")[2][0] for path in asked} == {
        letter for letter, reason in REASON.items() if REASONS[reason]
    }
    found = failures(made)
    assert (found["c"]["attempts"], found["a"]["attempts"]) == ("4", "1")
    assert table(made.to) == rows


def test_products_with_too_few_pictures_are_left_out(made: Made) -> None:
    made.asked_by("--threshold", "0.5", "--least-pictures", str(SHOP + USER + 1))
    assert table(made.to) == []


def refused(result: Result, words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    said = " ".join((result.output + result.stderr).split())
    assert words in said


def test_work_on_something_else_is_not_mixed_in(made: Made) -> None:
    refused(made.again("--reduced", "128"), "holds work with other reduced")
    with gzip.open(made.folder / "Toys_5.json.gz", "at") as stream:
        stream.write("{}\n")
    refused(made.again(), "holds work with other reviews (Toys: products with user pictures)")


@pytest.mark.parametrize("name", [WIDE, "failures.csv", "counters.json"])
def test_files_of_others_are_not_written_over(
    name: str, server: PhotoServer, model: Path, tmp_path: Path
) -> None:
    dump = write_dump(tmp_path, server, products=2)
    to = tmp_path / "out"
    to.mkdir()
    (to / name).write_text("published")
    refused(command(dump, model, to), f"{name} is there, but not made here")
    assert [path.name for path in to.iterdir()] == [name]
    assert (to / name).read_text() == "published"


def test_too_many_malformed_lines_are_refused(
    server: PhotoServer, model: Path, tmp_path: Path
) -> None:
    dump = write_dump(tmp_path, server, products=2)
    with gzip.open(dump[0], "at") as stream:
        stream.write("{'asin': 'old'}\n")
    to = tmp_path / "out"
    refused(command(dump, model, to), "1 of 10 lines are malformed, more than the share of 0.01")
    (fault,) = (to / "work" / "Toys" / "products" / "malformed.txt").read_text().splitlines()
    assert fault == f"{dump[0]}:10: not JSON"


def test_a_download_that_broke_off_is_refused(
    server: PhotoServer, model: Path, tmp_path: Path
) -> None:
    dump = write_dump(tmp_path, server, products=2)
    dump[1].write_bytes(dump[1].read_bytes()[:-20])
    refused(command(dump, model, tmp_path / "out"), "meta_Toys.json.gz ends in the middle")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "1"], "--threshold 1: cosines are from -1 to below 1"),
        (["--least-pictures", "0"], "--least-pictures 0 must be at least 1"),
        (["--per-host", "0", "--threads", "4"], "per_host=0 must be at least 1"),
        (["--threads", "0"], "--threads 0 must be at least 1"),
        (["--snapshot", "0"], "--snapshot 0 must be at least 1"),
        (["--most-malformed", "2"], "--most-malformed 2 must be from 0 to 1"),
        (["second.json.gz"], "second.json.gz: name each file with an option of its own"),
        (["--reviews", "no_5.json.gz"], "there is no file"),
        (["--model", "nowhere"], "not a run folder"),
        (["--threshold", "0.5", "--threshold", "0.50000001"], "two are of the same table amazon_"),
        (["--reviews", "cloud://shop/Toys_5.json.gz"], "pip install apache-beam[gcp]"),
        (["--model", "cloud://shop/run"], "cloud://shop/run: Unable to get filesystem"),
        (["--to", "cloud://shop/out"], "cloud://shop/out: Unable to get filesystem"),
        (["--to", "out [1]"], "out [1]: a folder to make cannot have *, ? or [ in its name"),
        (["--", "--no_such_option=3"], "Beam has no option --no_such_option=3"),
        (["--", "--direct_num_workers", "2", "left"], "Beam has no option left"),
        (["--", "--direct_num_workers=x"], "argument --direct_num_workers: invalid int value: 'x'"),
        (["--", "--runner=NoSuch"], "--runner NoSuch: Unexpected pipeline runner: NoSuch"),
        (["--", "--runner", "no.such.Runner"], "--runner no.such.Runner: No module named 'no'"),
        (["--", "--runner", "trainer.Runner"], "--runner trainer.Runner: module 'trainer' has no"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], words: str, server: PhotoServer, model: Path, tmp_path: Path
) -> None:
    dump = write_dump(tmp_path, server, products=2)
    refused(command(dump, model, tmp_path / "out", *options), words)


def test_a_missing_extra_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    dump = tmp_path / "a", tmp_path / "b"
    refused(command(dump, model, tmp_path / "out"), 'pip install "mildnet[beam]"')


def test_options_behind_the_dashes_are_beams(
    server: PhotoServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(creating, "create", lambda options, tell: seen.append(options) or 1 / 0)
    dump = write_dump(tmp_path, server, products=2)
    given = ["--runner", "DataflowRunner", "--project=p", "--threshold", "9"]
    result = command(dump, model, tmp_path / "out", "--", *given)
    assert isinstance(result.exception, ZeroDivisionError)
    (options,) = seen
    assert list(options.beam) == given
    assert list(options.thresholds) == [0.5, 0.6]


def test_paths_of_pictures_are_those_of_their_addresses() -> None:
    name = hashlib.sha256(b"https://a/b.jpg").hexdigest()[:32]
    assert picture_path("https://a/b.jpg", ".png") == f"images/{name[:2]}/{name}.png"


def test_commands_of_the_guide_have_options_that_exist() -> None:
    commands = [
        split_command(line)
        for block in blocks_of("docs/amazon_reviews.md")
        for line in block.commands()
        if line.startswith("mildnet amazon-reviews")
    ]
    assert len(commands) == 6
    for app, arguments in commands:
        values = parse(app, arguments)
        assert values["reviews"]
        behind = arguments.index("--") + 1 if "--" in arguments else len(arguments)
        assert list(values["beam_options"] or []) == arguments[behind:]

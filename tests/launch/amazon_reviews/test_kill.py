"""Killed in the middle and started again, the walk ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from tests.launch.amazon_reviews.shop import SHOP, USER, PhotoServer, write_dump
from trainer import cli

PRODUCTS = 6
#: The table of the threshold 0.5.
WIDE = "amazon_review_mean_05_full_images.csv"
ROOT = Path(__file__).resolve().parents[3]


def words(dump: tuple[Path, Path], model: Path, to: Path) -> list[str]:
    given = ["amazon-reviews", "--reviews", dump[0], "--metadata", dump[1], "--model", model]
    fetching = ["--snapshot", "4", "--threads", "2", "--timeout", "5"]
    return [*map(str, [*given, "--to", to]), *fetching, "--allow-network", "127.0.0.0/8"]


def kill_in(stage: Path, command: list[str]) -> None:
    """Start the command in a process, and kill it once the stage has two snapshots more."""
    before = len(list(stage.glob("pictures-*")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while len(list(stage.glob("pictures-*"))) < before + 2:
            assert process.poll() is None, "it has ended by itself"
            assert time.monotonic() < end, "it does not get there"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def run(command: list[str]) -> str:
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_tables_are_those_of_an_undisturbed_run(model: Path, tmp_path: Path) -> None:
    with PhotoServer() as server:
        dump = write_dump(tmp_path, server, products=PRODUCTS)
        killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
        server.delay = 0.05
        for stage in ("embedded", "downloaded"):
            folder = killed / "work" / "Toys" / stage
            kill_in(folder, words(dump, model, killed))
            assert '"counts": null' in (folder / "stage.json").read_text()
        server.delay = 0.0
        output = run(words(dump, model, killed))
        assert "embeddings of all pictures: done before" in output
        repeated = {path: count for path, count in server.requests.items() if count > 1}
        # What was under way at a kill: of two snapshots at most, and those in flight.
        assert all(count == 2 for count in repeated.values())
        assert len(server.requests) == PRODUCTS * (2 * (SHOP + USER) + 1)
        assert len(repeated) <= 2 * (4 + 4)

        run(words(dump, model, undisturbed))
    for name in (WIDE, "amazon_review_mean_06_full_images.csv", "failures.csv"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
    assert len((killed / WIDE).read_text().splitlines()) == 1 + PRODUCTS * (SHOP + USER)
    pictures = {p.relative_to(killed): p.read_bytes() for p in killed.glob("images/*/[!.]*")}
    assert pictures == {
        p.relative_to(undisturbed): p.read_bytes() for p in undisturbed.glob("images/*/[!.]*")
    }

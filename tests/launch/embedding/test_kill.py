"""Killed in the middle and started again, it ends as if nothing had happened."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.launch.embedding.commands import done
from tests.launch.embedding.conftest import contents
from trainer.launch.embedding.blocks import Blocks

ROOT = Path(__file__).resolve().parents[3]
#: Rows: a batch each for 30 blocks.
ROWS = 30 * 64


def write_catalogue(folder: Path) -> Path:
    """Write many parts of one picture."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "many.jpg")
    rows = [["many.jpg", n, n % 60, n // 60, 60, 60] for n in range(ROWS)]
    with (folder / "items.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "x", "y", "w", "h"], *rows])
    return folder


def test_what_was_done_before_a_kill_is_not_done_again(run: Path, tmp_path: Path) -> None:
    shop = write_catalogue(tmp_path / "shop")
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    words = ["embed", str(run), "--items", str(shop), "--snapshot", "64", "--to"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *words, str(killed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while len(list(killed.glob("blocks/rows-*"))) < 3:
            assert process.poll() is None, "it has ended by itself"
            assert time.monotonic() < end, "it does not get there"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    there = list(killed.glob("blocks/rows-*"))
    assert 3 <= len(there) < ROWS // 64
    assert not (killed / "meta.json").exists()
    before = {place.begin: place.end for place in Blocks(str(killed / "blocks")).places()}
    rows = [row for begin, end in before.items() for row in range(begin, end)]
    vectors = np.concatenate([block.embeddings for block in Blocks(str(killed / "blocks")).read()])
    out = done(*words, killed)
    assert f"{len(rows):,} of {ROWS:,} rows are done" in out
    done(*words, undisturbed)
    one, other = contents(killed), contents(undisturbed)
    for name in ("items.csv", "picture_keys.npy", "bad_images.log"):
        assert one[name] == other[name]
    found = np.load(killed / "embeddings.npy")
    np.testing.assert_array_equal(found[rows], vectors)
    # This process may sum in another order than the one that was killed (TF_ENABLE_ONEDNN_OPTS).
    np.testing.assert_allclose(found, np.load(undisturbed / "embeddings.npy"), atol=1e-6)

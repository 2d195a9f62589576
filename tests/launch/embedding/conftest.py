"""A run with a tiny exported model, made once, and catalogues."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.launch.conftest import small_config
from trainer.serving import embedder
from trainer.serving.embedder import Embedder
from trainer.serving.export import export

#: Rows that go through the model together in these tests, but where a process of its own is begun.
BATCH = 8


def write_run(folder: Path, seed: int = 0) -> Path:
    """Write what is needed of a run: a config, and an exported model whose sums can round."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((32, 32, 3))
    inside = keras.layers.Rescaling(1 / 255)(image)
    inside = keras.layers.Conv2D(8, 5, strides=4, activation="relu")(inside)
    vector = keras.layers.Dense(16)(keras.layers.Flatten()(inside))
    export(keras.Model(image, keras.layers.UnitNormalization()(vector)), folder / "model")
    values = small_config(folder).to_dict()
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are loaded once, and take few pictures at a time."""
    monkeypatch.setattr(embedder, "Embedder", lambda folder: loaded(str(folder)))


@cache
def loaded(folder: str) -> Embedder:
    return Embedder(folder, batch_size=BATCH)


Catalogue = Callable[..., Path]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Write `shop/` with so many different pictures, and return it."""

    def make(count: int, bad: Sequence[int] = (), name: str = "shop") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        random = np.random.default_rng(0)
        for number in range(count):
            pixels = random.integers(0, 256, (40, 56, 3), np.uint8)
            path = folder / f"{number}.jpg"
            Image.fromarray(pixels).save(path, quality=95)
            if number in bad:
                path.write_bytes(path.read_bytes()[:700])
            domain = ("shop", "street")[number % 2]
            box = ("", "", "", "") if number % 3 else (4, 2, 40, 30)
            rows.append([path.name, f"p{number // 4}", domain, "hat", *box])
        with (folder / "items.csv").open("w", newline="") as stream:
            header = ["path", "label", "domain", "category", "x", "y", "w", "h"]
            csv.writer(stream).writerows([header, *rows])
        return folder

    return make


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

"""A shelf of small components in a package of its own, so that tests of configs own their facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.config import JobConfig, Settings, registry

SHELF = {
    "data/readers.py": '''
        @register("dataset", "items")
        def items(data_path: str, *, file: str = "items.csv"):
            """Read a table of items.

            Args:
                data_path: supplied.
                file: the table.
            """
            return (data_path, file)

        @register("dataset", "triplets")
        def triplets(data_path: str, *, train_csv: str, val_csv: str = "", images: str = "x.zip"):
            """Read triplet files."""
            return (data_path, train_csv, val_csv, images)
        ''',
    "data/samplers.py": '''
        @register("sampler", "triplets", gives="triplets")
        class Triplets:
            """Rows in file order."""

            def __init__(self, table, batch_size: int, seed: int, *, shuffle: bool = False):
                self.shuffle = shuffle

        @register("sampler", "random_triplets", gives="triplets")
        class RandomTriplets:
            """Triplets drawn at random."""

        @register("sampler", "classes_per_batch", gives="labels")
        class ClassesPerBatch:
            """P classes of K images."""

            def __init__(self, table, batch_size: int, seed: int, *, images_per_class: int = 4):
                self.images_per_class = images_per_class
        ''',
    "data/augment.py": '''
        @register("augment", "none")
        def none():
            """Leave images as they are."""

        @register("augment", "mildnet")
        def mildnet(*, rotation: float = 30, fill: Literal["nearest", "black"] = "nearest"):
            """Flips, zoom, shear, rotation."""
        ''',
    "models/models.py": '''
        @register("model", "small")
        @register("model", "small_wide", defaults={"widths": (64, 128)})
        @register("model", "small_old", released={"widths": (8,), "note": "old"})
        def small(
            image_size: int,
            *,
            widths: tuple[int, ...] = (16, 32),
            weights: str | None = None,
            note: str = "",
            layers: tuple[str, ...] = (),
        ):
            """A small model.

            Formula: none.

            Args:
                image_size: supplied.
                widths: channels of each block,
                    from first to last.
                weights (a path): file to load.
                note: any text.
                layers: names of layers.

            Returns:
                What it was called with.
            """
            if 0 in widths:
                raise ValueError("widths must be above 0, not (0,)")
            if weights == "bad":
                raise ValueError("two lines\\nof reason")
            return (image_size, widths, weights, note, layers)
        ''',
    "losses/losses.py": '''
        @register("loss", "hinge_loss", takes="triplets")
        class Hinge:
            """Hinge over triplets."""

            def __init__(self, *, margin: float = 1.0, form: Literal["new", "old"] = "new"):
                self.margin = margin

        @register("loss", "triplet_semihard", takes="labels")
        class SemiHard:
            """Semi-hard triplets of a batch."""

            def __init__(self, *, margin: float = 0.2, soft: bool = False):
                self.margin = margin
        ''',
    "retrieval/indexes.py": '''
        @register("index", "flat")
        class Flat:
            """Exact search."""

        @register("index", "hnsw")
        class HNSW:
            """Approximate search."""

            def __init__(self, *, links: int = 32):
                self.links = links
        ''',
    "training/parts.py": '''
        @register("optimizer", "mo")
        def mo(learning_rate, *, momentum: float = 0.9):
            """Momentum."""

        @register("optimizer", "adam")
        def adam(learning_rate):
            """Adam."""

        @register("schedule", "constant")
        def constant(lr: float, total_steps: int, steps_per_epoch: int, *, warmup_steps: int = 0):
            """Stay."""

        @register("tracker", "csv")
        def csv(run_dir: str, *, file: str = "training.csv"):
            """A CSV file."""
            return (run_dir, file)

        @register("tracker", "tensorboard")
        def tensorboard(run_dir: str):
            """TensorBoard."""
        ''',
}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The registry looks into a package `shelf` with the components above."""
    root = tmp_path / "shelf"
    for name, text in SHELF.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "from typing import Literal\nfrom trainer.config import register\n"
        lines = [line.removeprefix(" " * 8) for line in text.splitlines()]
        path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr(registry, "PACKAGE", root)
    monkeypatch.syspath_prepend(str(tmp_path))
    _forget(monkeypatch)
    yield root
    _forget(monkeypatch)


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    registry.components.cache_clear()
    registry._scan.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "shelf"]:
        monkeypatch.delitem(sys.modules, name)


class Configs:
    """Writes and loads config files in a folder of its own, with no settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "x.cnf") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def load(self, text: str, *overrides: str, settings: Settings | None = None) -> JobConfig:
        return JobConfig.load(self.write(text), overrides, settings or Settings())


@pytest.fixture
def configs(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Configs(Path())

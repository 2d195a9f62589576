"""What a small net learns here and with pytorch-metric-learning, and how fast: names of icons.

The net has never seen the names that it is tested on. Both sides train the same net from the same
distribution of starting weights, on the same pictures with the same augmentation, for as many
steps of 32 names x 4 pictures, with Adam at 0.001; embeddings of both are measured by
`trainer.retrieval.metrics`. A last pair of rows is this library with the recipe of
`job_configs/prototrain/icons.cnf`: same net, as many pictures.

    python -m benchmarks learning --pml-python .venv-pml/bin/python

The icon themes have to be installed, see `mildnet data icon-themes`. `--choose` compares recipes on
names held out from the training half, which is how the recipe was chosen.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainer.data.table import ItemTable
    from trainer.training.loop import Outcome, Task

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "job_configs" / "prototrain" / "icons.cnf"
LOSSES = {"triplet_semihard": {"loss.margin": 0.2}, "multi_similarity": {}}
WIDTHS, DIM = (32, 64, 128, 256), 128
CLASSES, PER_CLASS, RATE, ROTATION, ZOOM = 32, 4, 0.001, 15.0, 0.2
#: Steps before the clock starts: compiling, first calls.
WARMUP = 20
NAMES = {"ours": "mildnet", "rival": "pytorch-metric-learning"}
KS = (1, 5, 10)
METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "map_at_r")

#: What both sides do; a recipe changes some of it.
COMMON: dict[str, Any] = {
    "model_id": "mildnet",
    "model.trunk": "convnet_small(downsample='pool')",
    "model.skips": "none",
    "model.embedding_dim": DIM,
    "dataset": "items",
    "sampler": "classes_per_batch",
    "sampler.images_per_class": PER_CLASS,
    "batch_size": CLASSES * PER_CLASS,
    "augment": "mildnet",
    "augment.horizontal_flip": "no",
    "augment.vertical_flip": "no",
    "augment.rotation": ROTATION,
    "augment.shear": 0,
    "augment.zoom": ZOOM,
    "optimizer": "adam",
    "lr": RATE,
}
#: One step from the rows of the comparison towards a recipe, and single steps further.
PAIRS: dict[str, Any] = {
    "loss": "supcon",
    "sampler.images_per_class": 2,
    "lr": 0.003,
    "schedule": "cosine",
    "schedule.warmup_steps": 30,
}
#: Compared by `--choose`.
RECIPES: dict[str, dict[str, Any]] = {
    **{loss: {"loss": loss, **parameters} for loss, parameters in LOSSES.items()},
    "pairs": PAIRS,
    "sharper": {**PAIRS, "loss.temperature": 0.05},
    "within categories": {**PAIRS, "sampler.category_share": 0.5, "sampler.images_per_class": 4},
    "small batches": {**PAIRS, "batch_size": 64, "schedule.warmup_steps": 60},
    "gentle": {**PAIRS, "augment.rotation": 8.0, "augment.zoom": 0.1},
    "gentle, small batches": {
        **PAIRS,
        "augment.rotation": 8.0,
        "augment.zoom": 0.1,
        "batch_size": 64,
        "schedule.warmup_steps": 60,
    },
}

_trained: list[Any] = []


def fit(task: Task) -> Outcome:
    """Train as the library does, and keep the model for the measurement."""
    from trainer.training.loop import fit as library_fit

    outcome = library_fit(task)
    _trained.append(task.model)
    return outcome


def main(argv: list[str]) -> None:
    """Run the benchmark with the options in `argv` and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learning")
    parser.add_argument("--pml-python", help="a Python with pytorch-metric-learning")
    parser.add_argument("--data", help="made by `mildnet data icon-themes`; default: made anew")
    parser.add_argument("--size", type=int, default=32, help="side of the pictures, pixels")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--choose", nargs="*", metavar="NAME", help="compare recipes instead")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        _worker(json.loads(options.measure))
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        data = options.data or _icons(Path(place) / "icons", options.size)
        if options.choose is not None:
            _choose(data, Path(place), options)
        else:
            _compare(data, Path(place), options)
    from benchmarks.report import machine

    print(f"{(time.perf_counter() - started) / 60:.1f} minutes; {machine('tensorflow', 'keras')}")


def _icons(folder: Path, size: int) -> str:
    from trainer.data.prepare.icon_themes import prepare

    prepare(str(folder), size=size)
    return str(folder)


class Bench:
    """A table of pictures, and what nets that were trained on a part of it find in another.

    Args:
        table: split `train` is trained on, split `test` is measured.
        place: folder for what comes and goes.
        options: of the command.
    """

    def __init__(self, table: ItemTable, place: Path, options: argparse.Namespace) -> None:
        self.options, self.place = options, place
        place.mkdir(exist_ok=True)
        table.to_csv(str(place / "items.csv"))
        self.train, self.test = table.in_split("train"), table.in_split("test")

    def ours(self, seed: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Train with this library in a process of its own; see :func:`_worker`."""
        given = {"batch_size": COMMON["batch_size"], **overrides}
        pictures = self.options.steps * COMMON["batch_size"]
        steps = pictures // int(given["batch_size"])
        changed = tuple(f"{key}." for key in overrides if "." not in key)
        common = {key: value for key, value in COMMON.items() if not key.startswith(changed)}
        config = {
            **(common if changed else COMMON),
            **overrides,
            "image_size": self.options.size,
            "data_path": self.place,
            "train_split": "train",
            "val_split": "none",
            "test_split": "test",
            "seed": seed,
            "steps": steps,
            "trainer": "benchmarks.learning",
            "trackers": "csv",
            "train.log_every": WARMUP,
            "train.summary_every": steps,
            "train.checkpoint_every": steps,
        }
        spec = {
            "config": {key: str(value) for key, value in config.items()},
            "run": str(self.place / f"run-{time.time_ns()}"),
            "out": str(self.place / "embeddings.npy"),
            "threads": self.options.threads,
        }
        command = [sys.executable, "-m", "benchmarks", "learning", "--measure", json.dumps(spec)]
        return self._run(command, spec["out"])

    def untrained(self, seed: int) -> np.ndarray:
        """Return the embeddings of the net that a job of this seed begins with."""
        import keras

        from trainer.config import JobConfig
        from trainer.training.validation import embed_table, predictor

        config = JobConfig.from_mapping(
            {**COMMON, "loss": "multi_similarity", "image_size": self.options.size}
        )
        keras.utils.set_random_seed(seed)
        model = config.build("model", config.image_size)
        return embed_table(predictor(model), self.test, config.image_size)

    def rival(self, seed: int, loss: str) -> dict[str, Any]:
        """Train with pytorch-metric-learning; see `benchmarks/learning_rival.py`."""
        spec = {
            "pictures": str(self._pictures()),
            "out": str(self.place / "embeddings.npy"),
            "loss": loss,
            "seed": seed,
            "steps": self.options.steps,
            "warmup": WARMUP,
            "threads": self.options.threads,
            "widths": WIDTHS,
            "dim": DIM,
            "classes": CLASSES,
            "per_class": PER_CLASS,
            "lr": RATE,
            "rotation": ROTATION,
            "zoom": ZOOM,
        }
        file = Path(__file__).with_name("learning_rival.py")
        return self._run([self.options.pml_python, str(file), json.dumps(spec)], spec["out"])

    def _run(self, command: list[str], out: Any) -> dict[str, Any]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": str(self.options.threads),
        }
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command[:4])} ... failed:\n{done.stderr.strip()[-3000:]}")
        told = json.loads(done.stdout.strip().splitlines()[-1])
        seconds = time.perf_counter() - start
        return {**told, "seconds": seconds, "found": self.measured(np.load(out))}

    def _pictures(self) -> Path:
        """Write the pixels as this library decodes them, so that both sides see the same."""
        file = self.place / "pictures.npz"
        if not file.exists():
            from trainer.data.pipeline import eval_batches

            arrays = {}
            for name, table in (("train", self.train), ("test", self.test)):
                batches = eval_batches(table, image_size=self.options.size, batch_size=256)
                arrays[name] = np.concatenate([batch["image"].numpy() for batch in batches])
                arrays[f"{name}_label"] = table.label
            np.savez(file, allow_pickle=False, **arrays)
        return file

    def measured(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Return each metric of each test picture, in order, all against all (`all/NAME`) and each
        theme against the others (`theme/NAME`)."""
        from trainer.retrieval.metrics import evaluate

        table = self.test
        found = evaluate(vectors, table.label, ks=KS, bootstrap=0)
        values = {f"all/{name}": np.full(len(table), np.nan) for name in METRICS}
        values |= {f"theme/{name}": np.full(len(table), np.nan) for name in METRICS}
        for name in METRICS:
            values[f"all/{name}"][found.rows] = found.per_query[name]
        for theme in np.unique(table.domain):
            own = table.domain == theme
            found = evaluate(
                vectors, table.label, is_query=own, is_gallery=~own, ks=KS, bootstrap=0
            )
            for name in METRICS:
                values[f"theme/{name}"][found.rows] = found.per_query[name]
        return values

    def mean_and_error(self, values: np.ndarray) -> tuple[float, float]:
        """Return mean and standard error of values of the test pictures, in percent.

        The error is that of a bootstrap over names: pictures of one name are found, or missed,
        together.
        """
        _, name = np.unique(self.test.label, return_inverse=True)
        used = np.isfinite(values)
        total = np.bincount(name, np.where(used, values, 0.0))
        count = np.bincount(name, used)
        total, count = total[count > 0], count[count > 0]
        drawn = np.random.default_rng(0).integers(0, len(total), (2000, len(total)))
        means = total[drawn].sum(1) / count[drawn].sum(1)
        return 100 * float(total.sum() / count.sum()), 100 * float(means.std())


def _worker(spec: Mapping[str, Any]) -> None:
    """Train by a job, save embeddings of its test split, and print images a second as JSON."""
    from trainer.launch.summary import quiet_tensorflow

    quiet_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(spec["threads"])
    from trainer.config import JobConfig
    from trainer.launch import job
    from trainer.launch.splits import read_split
    from trainer.training.validation import embed_table, predictor

    config = JobConfig.from_mapping(spec["config"])
    job.run(config, run_dir=spec["run"], training_only=True)
    vectors = embed_table(predictor(_trained[-1]), read_split(config), config.image_size)
    np.save(spec["out"], vectors)
    with open(Path(spec["run"]) / "training.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("images_per_second")]
    speeds = [float(row["images_per_second"]) for row in rows[1:]]
    # Reports come after equal numbers of steps: the mean of rates is the harmonic one.
    print(json.dumps({"images_per_second": len(speeds) / sum(1 / speed for speed in speeds)}))


def _choose(data: str, place: Path, options: argparse.Namespace) -> None:
    """Compare recipes on a third of the training names, held out by a hash."""
    from benchmarks.report import print_table
    from trainer.data.readers.items import items

    table = items(data).in_split("train", "val")
    held = np.array([_share(table.label_names[code]) < 1 / 3 for code in table.label])
    bench = Bench(_with_split(table, held), place / "choose", options)
    rows = []
    for name in options.choose or RECIPES:
        runs = [bench.ours(seed, RECIPES[name]) for seed in options.seeds]
        rows.append([name, *_cells(bench, runs)])
        print(*rows[-1], flush=True)
    print_table(
        f"{len(bench.test)} pictures of {len(bench.test.classes)} names held out from training",
        ["recipe", *_columns()],
        rows,
    )


def _share(name: str) -> float:
    """Return a number from 0 to 1 that belongs to a name, other than the one of its split."""
    return int.from_bytes(hashlib.sha256(f"choose/{name}".encode()).digest()[:8], "big") / 2**64


def _with_split(table: ItemTable, test: np.ndarray) -> ItemTable:
    from dataclasses import replace

    return replace(table, split=np.where(test, "test", "train").astype(object))


def _compare(data: str, place: Path, options: argparse.Namespace) -> None:
    """Train both sides by turns, and print what they reach and how they differ."""
    from benchmarks.report import print_table
    from trainer.data.readers.items import items
    from trainer.retrieval.baseline import color_histogram

    table = items(data).in_split("train", "test")
    bench = Bench(table, place / "compare", options)
    rows: list[list[object]] = []

    def add(name: str, runs: Sequence[Mapping[str, Any]]) -> None:
        rows.append([name, *_cells(bench, runs)])
        print(*rows[-1], flush=True)

    histogram = color_histogram(bench.test.path.tolist())
    add("colour histogram", [{"found": bench.measured(histogram)}])
    add("untrained", [{"found": bench.measured(bench.untrained(seed))} for seed in options.seeds])
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for loss in options.losses:
            if options.pml_python:
                runs.setdefault(("rival", loss), []).append(bench.rival(seed, loss))
            made = bench.ours(seed, {"loss": loss, **LOSSES[loss]})
            runs.setdefault(("ours", loss), []).append(made)
        runs.setdefault(("ours", "recipe"), []).append(bench.ours(seed, _recipe()))
    for (side, loss), found in runs.items():
        add(f"{NAMES[side]}, {loss}", found)
    print_table(
        f"{options.steps} steps of {CLASSES} x {PER_CLASS} pictures of {options.size} px from "
        f"{len(bench.train)} of {len(bench.train.classes)} names; tested on {len(bench.test)} of "
        f"{len(bench.test.classes)} others, percent",
        ["", *_columns()],
        rows,
    )
    pairs = [(loss, loss, loss) for loss in options.losses]
    if options.pml_python:
        best = max(options.losses, key=lambda loss: _recall(bench, runs["rival", loss]))
        pairs.append(("recipe, less the rival's best", "recipe", best))
        print_table(
            "ours less the rival's, in points of Recall@1",
            ["", "all", "themes", "images/s, x"],
            [
                [name, *_differences(bench, runs["ours", ours], runs["rival", rival])]
                for name, ours, rival in pairs
            ],
        )


def _recipe() -> dict[str, Any]:
    """Return the keys of the recipe's config, but for what the benchmark sets itself."""
    from trainer.config import cnf

    return {key: given.value for key, given in cnf.read(RECIPE).items()}


def _columns() -> list[str]:
    short = ["R@1", "R@5", "R@10", "MAP@R"]
    return ["images/s", "s", *short, *(f"themes: {name}" for name in short)]


def _cells(bench: Bench, runs: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return a row of the table: means over seeds, Recall@1 with its standard error."""
    speeds = [run["images_per_second"] for run in runs if "images_per_second" in run]
    seconds = [run["seconds"] for run in runs if "seconds" in run]
    cells: list[object] = [f"{np.mean(x):.0f}" if x else "" for x in (speeds, seconds)]
    for key in runs[0]["found"]:
        mean, error = bench.mean_and_error(_over_seeds(runs, key))
        cells.append(f"{mean:.1f} ± {error:.1f}" if key.endswith("recall_at_1") else f"{mean:.1f}")
    return cells


def _differences(
    bench: Bench, ours: Sequence[Mapping[str, Any]], rival: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    for key in ("all/recall_at_1", "theme/recall_at_1"):
        mean, error = bench.mean_and_error(_over_seeds(ours, key) - _over_seeds(rival, key))
        yield f"{mean:+.1f} ± {error:.1f}"
    speeds = [np.mean([run["images_per_second"] for run in side]) for side in (ours, rival)]
    yield f"{speeds[0] / speeds[1]:.2f}"


def _recall(bench: Bench, runs: Sequence[Mapping[str, Any]]) -> float:
    return bench.mean_and_error(_over_seeds(runs, "all/recall_at_1"))[0]


def _over_seeds(runs: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return a metric of each test picture, its mean over the runs."""
    return np.mean([run["found"][key] for run in runs], axis=0)

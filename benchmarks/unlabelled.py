"""What triplets that were made without labels teach: products that training has never seen, found
by a net trained on such triplets, by one trained on as many with labels, and by the scorers that
the triplets were made with.

    python -m benchmarks unlabelled --seeds 0 1

The generated catalogue of the demo; the lists are made of the pictures of its training products
alone: no labels, no categories, no boxes.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainer.config import JobConfig
    from trainer.data.table import ItemTable

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "job_configs" / "demo" / "synthetic.cnf"


def main(argv: list[str]) -> None:
    """Run the benchmark with the options in `argv` and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks unlabelled")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--street", type=float, default=0.5, help="share of street photographs")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--near", type=int, default=3)
    parser.add_argument("--agree", type=int, default=2)
    parser.add_argument("--per-anchor", type=int, default=4)
    options = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("trainer").addHandler(logging.NullHandler())

    from benchmarks.report import machine, print_table
    from trainer.config import get
    from trainer.retrieval.descriptors import describe

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        whole = get("dataset", "synthetic").build(place, street=options.street)
        train, test = whole.in_split("train"), whole.in_split("test")
        test = _without_boxes(test)
        rows: list[list[object]] = []
        for name, vectors in describe(test.path.tolist()).vectors.items():
            rows.append([f"{name} alone", *_measured(vectors, test)])
        lists: list[list[object]] = []
        for seed in options.seeds:
            made = {}
            for kind in ("unlabelled", "labelled"):
                made[kind] = _lists(Path(place), train, kind, seed, options)
                lists.append([f"{kind}, seed {seed}", *_quality(made[kind], train)])
            rows.append([f"untrained, seed {seed}", *_measured(_untrained(test, seed), test)])
            for kind, files in made.items():
                vectors = _trained(Path(place), files, test, seed, options)
                rows.append([f"{kind} triplets, seed {seed}", *_measured(vectors, test)])
    print_table(
        f"lists: {len(train)} pictures of {len(train.classes)} products",
        ["made", "triplets", "positive right %", "negative wrong %"],
        lists,
    )
    print_table(
        f"search: {len(test)} pictures of {len(test.classes)} other products, percent",
        ["searched by", "Recall@1", "Recall@10", "MAP@R"],
        rows,
    )
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes; {machine('tensorflow', 'keras')}")


def _without_boxes(table: ItemTable) -> ItemTable:
    from dataclasses import replace

    return replace(table, box=np.full_like(table.box, np.nan))


def _lists(
    place: Path, train: ItemTable, kind: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Write the lists of one kind; return their paths and the folder of the pictures."""
    from trainer.launch.triplets import Depths, TripletOptions, make_triplets

    catalogue = place / f"{kind}.csv"
    columns: list[Any] = [train.path.tolist()]
    if kind == "labelled":
        columns.append([train.label_names[code] for code in train.label])
    with catalogue.open("w", newline="", encoding="utf-8") as file:
        header = ["path", "label"][: len(columns)]
        csv.writer(file).writerows([header, *zip(*columns, strict=True)])
    files = {name: str(place / f"{kind}-{seed}-{name}.csv") for name in ("train", "val")}
    made = make_triplets(
        str(catalogue),
        files["train"],
        TripletOptions(
            unlabelled=kind == "unlabelled",
            depths=Depths(near=options.near, agree=options.agree),
            per_anchor=options.per_anchor,
            seed=seed,
        ),
        val=files["val"],
    )
    return {**files, "images": made.images}


def _quality(files: dict[str, Any], train: ItemTable) -> list[object]:
    """Return the number of triplets, and how many members are right, by the labels not shown."""
    label = dict(zip(train.path.tolist(), train.label.tolist(), strict=True))
    with open(files["train"], newline="", encoding="utf-8") as file:
        rows = [[label[f"{files['images']}/{name}"] for name in row] for row in csv.reader(file)]
    codes = np.array(rows)
    right, wrong = (100 * float((codes[:, 0] == codes[:, n]).mean()) for n in (1, 2))
    return [len(codes), right, wrong]


def _config(files: dict[str, Any], seed: int, steps: int) -> JobConfig:
    """Return the demo's job, on lists of triplets instead of labels."""
    from trainer.config import JobConfig

    changes = {
        "dataset": "triplets",
        "dataset.images": files["images"],
        "data_path": files["images"],
        "train_csv": files["train"],
        "val_csv": files["val"],
        "loss": "triplet_margin",
        "loss.margin": 0.2,
        "sampler": "triplets",
        "sampler.shuffle": "true",
        "batch_size": 32,
        "augment": "standard",
        "train_epochs": "",
        "steps": steps,
        "seed": seed,
    }
    return JobConfig.load(DEMO, [f"{key}={value}" for key, value in changes.items()])


def _untrained(test: ItemTable, seed: int) -> np.ndarray:
    """Return the embeddings of the net that every job of this seed begins with."""
    import keras

    from trainer.config import JobConfig
    from trainer.data.pipeline import eval_batches
    from trainer.retrieval.embed import embed

    config = JobConfig.load(DEMO)
    keras.utils.set_random_seed(seed)
    model = config.build("model", config.image_size)
    batches = eval_batches(test, image_size=config.image_size, batch_size=64)
    return embed(model, batches, len(test))


def _trained(
    place: Path, files: dict[str, Any], test: ItemTable, seed: int, options: argparse.Namespace
) -> np.ndarray:
    """Train on lists of triplets, and return the embeddings of other pictures."""
    from trainer.launch import job
    from trainer.launch.searching import embed_items
    from trainer.serving.embedder import Embedder

    run = place / f"run-{Path(files['train']).stem}"
    job.run(_config(files, seed, options.steps), run_dir=str(run))
    return embed_items(Embedder(run / "model"), test)


def _measured(vectors: np.ndarray, test: ItemTable) -> list[object]:
    from trainer.retrieval.metrics import evaluate

    metrics = evaluate(vectors, test.label, ks=(1, 10)).metrics
    return [100 * metrics[name] for name in ("recall_at_1", "recall_at_10", "map_at_r")]

"""`training.csv` in the run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.config import register
from trainer.data.files import write_bytes
from trainer.training.trackers import Tracker

COLUMNS = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    "val_loss",
    "triplet_accuracy",
    "recall_at_1",
    "map_at_r",
    "positive_similarity",
    "negative_similarity",
    "violations",
    "hard",
)


@register("tracker", "csv")
class CsvLog(Tracker):
    """A row in `training.csv` for each report; empty cells where a number was not taken.

    A job that goes on from a checkpoint drops the rows that were written after it, so that the
    file reads as if the job had never stopped.

    Args:
        run_dir: supplied, the run folder.
        name: file name inside the run folder.
    """

    def __init__(self, run_dir: str, *, name: str = "training.csv") -> None:
        self.path = f"{run_dir}/{name}"
        self._rows: list[dict[str, str]] = []

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Keep what was written up to `step`."""
        self._rows = []
        if step and tf.io.gfile.exists(self.path):
            with tf.io.gfile.GFile(self.path, "r") as file:
                for row in csv.DictReader(io.StringIO(file.read())):
                    if row.get("step", "").isdigit() and int(row["step"]) <= step:
                        self._rows.append({c: row.get(c) or "" for c in COLUMNS})
        self._write()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row, which is on disk on return."""
        row = {"step": str(step)}
        row.update({name: f"{values[name]:.7g}" for name in COLUMNS[1:] if name in values})
        self._rows.append(row)
        self._write()

    def _write(self) -> None:
        # Rewriting the file costs little at a row per report, and works on stores without append.
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        write_bytes(self.path, text.getvalue().encode())

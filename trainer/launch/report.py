"""`report.html`: what a job did and reached, in one file to look at or to send."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config.job import JobConfig
from trainer.data.files import read_bytes, read_text
from trainer.launch.run_folder import RunFolder

#: Metrics in the report's table, in order, with their names for people.
SHOWN = {
    "recall_at_1": "Recall@1",
    "recall_at_5": "Recall@5",
    "recall_at_10": "Recall@10",
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "mrr": "MRR",
}
STAGES = {
    "color_histogram": "Colour histogram",
    "untrained": "Model, untrained",
    "trained": "Model, trained",
}


def write_report(
    folder: RunFolder, config: JobConfig, evaluation: Mapping[str, Any], seconds: float
) -> None:
    """Write `report.html` into the run folder from what the folder holds.

    Args:
        folder: a run with `training.csv`, `neighbours.png` and `environment.json`.
        config: the run's config.
        evaluation: content of `evaluation.json`.
        seconds: wall time of the whole job.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        name=config.name,
        config=config.to_cnf(),
        evaluation=evaluation,
        rows=_metric_rows(evaluation),
        stages=[label for stage, label in STAGES.items() if stage in evaluation],
        minutes=seconds / 60,
        environment=folder.read_json("environment.json"),
        curves=_data_url(_curves(folder)),
        neighbours=_data_url(read_bytes(folder.file("neighbours.png"))),
        run=folder.path,
    )
    folder.write_text("report.html", html)


def _metric_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for metric, label in SHOWN.items():
        cells = []
        for stage in STAGES:
            if stage not in evaluation:
                continue
            part = evaluation[stage]
            if metric not in part["metrics"]:
                continue
            low, high = part["intervals"].get(metric, (None, None))
            interval = "" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})"
            cells.append(f"{100 * part['metrics'][metric]:.1f}{interval}")
        rows.append((label, cells))
    return rows


def _curves(folder: RunFolder) -> bytes:
    """Draw loss and validation recall against steps, from `training.csv`, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = []
    if folder.exists("training.csv"):
        rows = list(csv.DictReader(io.StringIO(read_text(folder.file("training.csv")))))

    def series(column: str) -> tuple[list[int], list[float]]:
        points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
        return [step for step, _ in points], [value for _, value in points]

    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, columns, title in (
        (left, ("loss", "val_loss"), "loss"),
        (right, ("recall_at_1", "map_at_r"), "validation"),
    ):
        for column in columns:
            steps, values = series(column)
            if steps:
                axes.plot(steps, values, label=SHOWN.get(column, column), marker=".", linewidth=1.2)
        axes.set_xlabel("step")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()

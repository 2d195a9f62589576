"""`report.html`: what a job did and reached, in one file to look at or to send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.job import JobConfig
from trainer.data.files import read_bytes
from trainer.launch import pages
from trainer.launch.costs import read_training, run_costs
from trainer.launch.run_folder import RunFolder


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
    training = read_training(folder)
    costs = run_costs(folder, config, evaluation, training)
    html = pages.render(
        "report.html.j2",
        generator="mildnet job",
        title=config.name,
        config=config.to_cnf(),
        evaluation=evaluation,
        groups=pages.metric_groups([("", evaluation)]),
        minutes=seconds / 60,
        environment=folder.read_json("environment.json"),
        curves=pages.draw_curves([(config.name, training)]),
        costs=pages.side_by_side([pages.cost_column(costs)], mark=False),
        neighbours=read_bytes(folder.file("neighbours.png")),
        run=folder.path,
    )
    folder.write_text("report.html", html)

"""What the pages about runs share: one look, tables of metrics and costs, curves, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import cnf
from trainer.launch.costs import Costs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Metrics of the tables, in order, with their names for people.
METRICS = {
    "recall_at_1": "Recall@1",
    "recall_at_5": "Recall@5",
    "recall_at_10": "Recall@10",
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "mrr": "MRR",
}
STAGES = {
    "color_histogram": "Colour histogram",
    "untrained": "Model, before training",
    "trained": "Model, trained",
}
#: Columns of `training.csv` that are drawn, with their names for people.
CURVES = {
    "loss": "Training loss",
    "val_loss": "Validation loss",
    "recall_at_1": "Validation Recall@1, percent",
    "map_at_r": "Validation MAP@R, percent",
    "triplet_accuracy": "Validation triplet accuracy, percent",
}
#: Columns that hold shares, 0..1.
SHARES = ("recall_at_1", "map_at_r")
# Okabe and Ito's colours, which people with colour blindness tell apart; black in yellow's place.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*", "<")
#: Markers on a curve: more of them hide the line.
MOST_MARKERS = 12
#: What stands in a table for a key that a run does not have, and for a value without text.
ABSENT, EMPTY = "(not set)", "(empty)"


@dataclass(frozen=True)
class Cell:
    """A metric in percent with its interval, and whether no other in its table is higher."""

    value: float
    interval: tuple[float, float] | None
    best: bool


@dataclass(frozen=True)
class MetricGroup:
    """Rows of a table of metrics that belong to one run (or, without a name, to all).

    Attributes:
        owner: name of the run.
        rows: name of the stage, and a cell for each of `METRICS`.
    """

    owner: str
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True)
class SideBySide:
    """A row of a table with a column for each run."""

    key: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True)
class Curve:
    """A plot as PNG, with its title and, for those who cannot see it, what it shows."""

    title: str
    png: bytes
    alt: str


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template of this folder; every value is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = data_url
    return environment.get_template(template).render(metrics=list(METRICS.values()), **values)


def data_url(png: bytes) -> str:
    """Return a PNG as a URL that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def metric_groups(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[MetricGroup]:
    """Return the rows of a table of metrics, with the highest value of each metric marked.

    Args:
        runs: owner, and content of `evaluation.json` by stage; all measured on the same data.
    """
    parts = [part[stage] for _, part in runs for stage in STAGES if stage in part]

    def cell(part: Mapping[str, Any], metric: str) -> Cell | None:
        value = part["metrics"].get(metric)
        if value is None:
            return None
        highest = max(other["metrics"].get(metric, 0.0) for other in parts)
        ends = part["intervals"].get(metric)
        interval = None if ends is None else (100 * ends[0], 100 * ends[1])
        return Cell(100 * value, interval, len(parts) > 1 and value == highest)

    return [
        MetricGroup(
            owner,
            tuple(
                (label, tuple(cell(part[stage], metric) for metric in METRICS))
                for stage, label in STAGES.items()
                if stage in part
            ),
        )
        for owner, part in runs
    ]


def side_by_side(columns: Sequence[Mapping[str, Any]], *, mark: bool = True) -> list[SideBySide]:
    """Return a row for each key of any of the mappings; what a mapping lacks is `ABSENT`.

    Args:
        columns: values by key, of each run.
        mark: whether rows with different values are marked.
    """
    keys = list(dict.fromkeys(key for column in columns for key in column))
    # Keys of one component stay together, also those that only a later run has.
    heads = list(dict.fromkeys(_head(key) for key in keys))
    keys.sort(key=lambda key: heads.index(_head(key)))
    rows = []
    for key in keys:
        values = tuple(
            cnf.plain_text(column[key]) or EMPTY if key in column else ABSENT for column in columns
        )
        rows.append(SideBySide(key, values, mark and len(set(values)) > 1))
    return rows


def _head(key: str) -> str:
    return key.partition(".")[0]


def cost_column(costs: Costs) -> dict[str, str]:
    """Return the costs of a run in words, by what they are."""
    rows = {
        "parameters": _count(costs.parameters),
        "trainable parameters": _count(costs.trainable),
        "embedding size": _count(costs.embedding_dim),
        "input, pixels": f"{costs.image_size} x {costs.image_size}",
        "model on disk (SavedModel)": megabytes(costs.model_bytes),
        "index on disk (test split)": megabytes(costs.index_bytes),
    }
    seconds, speed = costs.training_seconds, costs.images_per_second
    rows["training time, without validation"] = NOT_RECORDED if seconds is None else clock(seconds)
    rows["images/s while training"] = NOT_RECORDED if speed is None else f"{speed:,.0f}"
    return rows


NOT_RECORDED = "not recorded"


def _count(number: int | None) -> str:
    return NOT_RECORDED if number is None else f"{number:,}"


def megabytes(size: int) -> str:
    """Return bytes as text in MB of 10^6 bytes, such as `1.63 MB`."""
    return f"{size / 1e6:,.2f} MB"


def clock(seconds: float) -> str:
    """Return a time as text in two units, such as `41.3 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 60:
        whole, rest = divmod(round(seconds), 60)
        return f"{whole} min {rest} s"
    hours, rest = divmod(round(minutes), 60)
    return f"{hours:,} h {rest} min"


def draw_curves(runs: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> list[Curve]:
    """Draw each column of `CURVES` that any run has against steps, all runs in one plot.

    Runs differ in colour, line and marker.

    Args:
        runs: name and rows of `training.csv` of each run.
    """
    curves = []
    for column, title in CURVES.items():
        scale = 100 if column in SHARES else 1
        series = [
            [(row["step"], scale * row[column]) for row in rows if column in row]
            for _, rows in runs
        ]
        if any(series):
            names = [name for name, _ in runs]
            png = _plot(names, series, title)
            curves.append(Curve(title, png, _in_words(names, series, title)))
    return curves


def _plot(names: list[str], series: list[list[tuple[float, float]]], title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = len(names) > 1
    height = 3.0 + (0.22 * len(names) if several else 0)
    figure = Figure(figsize=(4.8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines = []
    for number, points in enumerate(series):
        (line,) = axes.plot(
            [step for step, _ in points],
            [value for _, value in points],
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number % len(LINES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.3,
            markevery=max(1, len(points) // MOST_MARKERS),
        )
        lines.append(line)
    dress(axes, title, "step")
    if several:
        # A dollar sign would start a formula.
        labels = [_short(name).replace("$", r"\$") for name in names]
        figure.legend(
            lines, labels, loc="outside lower left", fontsize=8, frameon=False, handlelength=4
        )
    return as_png(figure)


def dress(axes: Axes, title: str, xlabel: str) -> None:
    """Give a plot the look of all plots."""
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _short(text: str, length: int = 48) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _in_words(names: list[str], series: list[list[tuple[float, float]]], title: str) -> str:
    ends = [
        f"{name} ends at {points[-1][1]:.4g} (step {points[-1][0]:.0f})"
        if points
        else f"{name} has none"
        for name, points in zip(names, series, strict=True)
    ]
    return f"{title} against steps: {'; '.join(ends)}."

"""What the pages about runs share: one look, tables of metrics and costs, curves, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import UserError, cnf
from trainer.data.files import is_file, read_bytes, reason, require_place
from trainer.launch.costs import Costs
from trainer.retrieval.pictures import Picture, thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.data.table import ItemTable

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
#: Longer side of a picture of an item, in pixels.
SIDE = 112
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


@dataclass(frozen=True)
class Shown:
    """A picture of an item as PNG or JPEG with what stands below it; None could not be read."""

    image: bytes | None
    path: str
    label: str
    rank: int
    score: float | None


def shown(
    table: ItemTable, row: int, rank: int, score: float | None, *, form: str = "PNG"
) -> Shown:
    """Return the picture of a row of a table, small.

    Args:
        table: items with their pictures.
        row: which one.
        rank: its place among the neighbours of a query; not shown without a score.
        score: its similarity to the query.
        form: `PNG`, which keeps every pixel, or `JPEG`, which makes many pictures small.
    """
    path, label = str(table.path[row]), table.label_names[int(table.label[row])]
    content = io.BytesIO()
    try:
        picture = thumbnail(Picture(path, label, table.box[row]), SIDE)
        picture.save(content, form, optimize=True, quality=80)
    except (OSError, ValueError):
        return Shown(None, path, label, rank, score)
    return Shown(content.getvalue(), path, label, rank, score)


def check_target(to: str, generator: str, example: str) -> None:
    """Refuse to write over anything but what a command wrote itself, before the work begins.

    Args:
        to: file to write.
        generator: what the first lines of such a file hold.
        example: name of a file, for those who gave a folder.

    Raises:
        UserError: no folder to write to, or something else in the way.
    """
    require_place(to, example)
    if not is_file(to):
        return
    try:
        start = read_bytes(to)[:1000].decode(errors="replace")
    except OSError as error:
        raise UserError(f"{to}: {reason(error)}") from None
    if f'"{generator}"' not in start:
        raise UserError(f"{to} is there and not a page of `{generator}`; choose another file")


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


def data_url(picture: bytes) -> str:
    """Return a PNG or JPEG as a URL that holds it."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


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
    several = len(names) > 1
    height = 3.0 + (0.22 * len(names) if several else 0)
    figure, axes = blank(4.8, height)
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
        labels = [plot_text(name) for name in names]
        figure.legend(
            lines, labels, loc="outside lower left", fontsize=8, frameon=False, handlelength=4
        )
    return as_png(figure)


def blank(width: float, height: float, dpi: int = 150) -> tuple[Figure, Axes]:
    """Return an empty figure, of a size in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


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


def plot_text(text: str, length: int = 48) -> str:
    """Return a name as a plot shows it: not too long, and without formulas."""
    short = text if len(text) <= length else text[: length - 1] + "…"
    return short.replace("$", r"\$")  # a dollar sign would start one


def _in_words(names: list[str], series: list[list[tuple[float, float]]], title: str) -> str:
    ends = [
        f"{name} ends at {points[-1][1]:.4g} (step {points[-1][0]:.0f})"
        if points
        else f"{name} has none"
        for name, points in zip(names, series, strict=True)
    ]
    return f"{title} against steps: {'; '.join(ends)}."

"""What a search has found: a table, files, plots, a page, and the best config."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from trainer.config import cnf
from trainer.data.files import write_bytes
from trainer.launch import pages
from trainer.launch.run_folder import RunFolder
from trainer.launch.tuning.space import Searched, Value, in_words
from trainer.launch.tuning.trial import RECORD, Search, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: In which order trials of different states are listed.
STATES = ("complete", "pruned", "unfinished", "failed")
#: Rows of the table on a terminal; the files hold all.
MOST_ROWS = 30
#: Plots beside each other in the picture.
COLUMNS = 3
#: Marks of pruned and complete trials and of the best, with colours told apart by everyone.
PRUNED, COMPLETE, BEST = "#8c959f", pages.COLOURS[0], pages.COLOURS[1]


def ranked(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, the best first; those that came to an end come before the others."""
    sign = 1 if search.falling else -1

    def place(trial: Trial) -> tuple[Any, ...]:
        score = float("inf") if trial.score is None else sign * trial.score
        return (STATES.index(trial.state), score, trial.number)

    return sorted(trials, key=place)


def best_of(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """Return the best of the complete trials, None where there is none."""
    complete = [trial for trial in ranked(search, trials) if trial.state == "complete"]
    return complete[0] if complete else None


def in_one_line(search: Search, trial: Trial, trials: Sequence[Trial]) -> str:
    """Return what became of a trial, and the best so far."""
    words = f"trial {trial.number} {trial.state}"
    if trial.error:
        words += f": {trial.error}"
    elif trial.score is not None:
        words += f": {search.metric} {trial.score:.4f} at step {trial.best_step}"
    words += f"; {pages.clock(trial.seconds)}"
    best = best_of(search, trials)
    if best is not None and best.score is not None:
        words += f"; best {best.score:.4f} of trial {best.number}"
    return words


def show(search: Search, trials: Sequence[Trial], console: Console) -> None:
    """Print the table of trials, the best first."""
    table = Table(title=f"Trials by {search.metric} on the validation split", title_justify="left")
    for name in ("trial", "state", search.metric, "at step", "time"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    # One column for all keys: a column for each is too narrow to read with more than a few.
    table.add_column("values", overflow="fold")
    order = ranked(search, trials)
    for trial in order[:MOST_ROWS]:
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        table.add_row(
            str(trial.number),
            trial.state,
            score,
            f"{trial.best_step}/{trial.step}",
            pages.clock(trial.seconds),
            in_words(trial.params),
        )
    console.print(table)
    if len(order) > MOST_ROWS:
        console.print(f"and {len(order) - MOST_ROWS} more: see trials.csv")
    for trial in order:
        if trial.error:
            console.print(
                f"trial {trial.number} failed: {trial.error}", soft_wrap=True, markup=False
            )


def write(search: Search, trials: Sequence[Trial]) -> None:
    """Write `trials.csv`, `trials.json` and, once there is one, `best.cnf`."""
    folder = RunFolder(search.folder)
    order, best = ranked(search, trials), best_of(search, trials)
    columns = ["trial", "state", search.metric, "best_step", "steps", "seconds", "folder", "error"]
    keys = [parameter.key for parameter in search.space.parameters]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *keys])
    for trial in order:
        score = "" if trial.score is None else repr(trial.score)
        row = [trial.number, trial.state, score, trial.best_step, trial.step]
        row += [f"{trial.seconds:.1f}", trial.folder, trial.error]
        params = trial.params
        writer.writerow(
            [*row, *(cnf.plain_text(params[key]) if key in params else "" for key in keys)]
        )
    folder.write_text("trials.csv", text.getvalue())
    values = {
        "metric": search.metric,
        "direction": "minimize" if search.falling else "maximize",
        "best": None if best is None else best.number,
        "space": search.space.to_dict(),
        "trials": [trial.to_dict() for trial in order],
    }
    folder.write_json("trials.json", values)
    if best is not None:
        head = f"# trial {best.number}: {search.metric} {best.score} at step {best.best_step}\n"
        folder.write_text("best.cnf", head + search.config(best.params).to_cnf())


def draw(search: Search, trials: Sequence[Trial]) -> None:
    """Write `trials.png` and `trials.html`: the course of the search, and each key's values.

    Nothing is written before a trial has a score.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots = list(_plots(search, [trial for trial in trials if trial.score is not None]))
    if not plots:
        return
    rows = -(-len(plots) // COLUMNS)
    columns = min(len(plots), COLUMNS)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    curves = []
    for axes, (title, alt, paint) in zip(places, plots, strict=False):
        paint(axes)
        single = Figure(figsize=(4.8, 3.0), dpi=150, layout="constrained")
        FigureCanvasAgg(single)
        paint(single.subplots())
        curves.append(pages.Curve(title, pages.as_png(single), alt))
    for axes in places[len(plots) :]:
        axes.set_visible(False)
    folder = RunFolder(search.folder)
    order, best = ranked(search, trials), best_of(search, trials)
    html = pages.render(
        "tune.html.j2",
        generator="mildnet tune",
        title=search.space.config().name,
        score=_label(search),
        scale=_scale(search),
        keys=[parameter.key for parameter in search.space.parameters],
        trials=order,
        params=[{key: _short(value) for key, value in trial.params.items()} for trial in order],
        clock=pages.clock,
        best=best,
        counts={state: sum(trial.state == state for trial in order) for state in STATES},
        config=search.config(best.params).to_cnf() if best is not None else "",
        curves=curves,
    )
    folder.write_text("trials.html", html)
    write_bytes(folder.file("trials.png"), pages.as_png(figure))


def is_here(trial: Trial) -> bool:
    """Return whether the run folder of a trial can be reached from here."""
    return RunFolder(trial.folder).exists(RECORD)


def _plots(search: Search, trials: Sequence[Trial]) -> Iterator[tuple[str, str, Any]]:
    """Yield title, what is shown in words, and what paints it, of each plot."""
    from matplotlib.ticker import MaxNLocator

    best = best_of(search, trials)
    if not trials:
        return
    label, scale = _label(search), _scale(search)
    end = "none is complete"
    if best is not None and best.score is not None:
        end = f"the best is {scale * best.score:.4g} of trial {best.number}"

    def history(axes: Axes) -> None:
        _dots(axes, search, [(trial.number, trial) for trial in trials], best)
        steps: list[tuple[int, float]] = []
        for trial in sorted(trials, key=lambda trial: trial.number):
            if trial.state == "complete" and trial.score is not None:
                before = [steps[-1][1]] if steps else []
                steps.append((trial.number, search.best([*before, scale * trial.score])))
        axes.plot(
            [number for number, _ in steps],
            [score for _, score in steps],
            drawstyle="steps-post",
            color=BEST,
            linewidth=1.2,
            zorder=1,
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        pages.dress(axes, label, "trial; line: best so far")

    yield "Course", f"{label} of {len(trials)} trials in order; {end}.", history
    for parameter in search.space.parameters:
        having = [trial for trial in trials if parameter.key in trial.params]
        if having:
            alt = f"{label} against {parameter.key} of {len(having)} trials; {end}."
            yield parameter.key, alt, _slice(search, parameter, having, best)


def _slice(search: Search, parameter: Searched, trials: Sequence[Trial], best: Trial | None) -> Any:
    def paint(axes: Axes) -> None:
        values: list[Any] = [trial.params[parameter.key] for trial in trials]
        if parameter.choices:
            values = [parameter.choices.index(value) for value in values]
            axes.set_xticks(range(len(parameter.choices)), map(_short, parameter.choices))
            if sum(len(_short(value)) for value in parameter.choices) > 30:
                axes.tick_params("x", rotation=20)
            axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
        elif parameter.log:
            axes.set_xscale("log")
        _dots(axes, search, list(zip(values, trials, strict=True)), best)
        pages.dress(axes, _label(search), parameter.key)

    return paint


def _dots(
    axes: Axes, search: Search, dots: Sequence[tuple[Any, Trial]], best: Trial | None
) -> None:
    for chosen, marker, colour, size in (
        (lambda trial: trial.state != "complete", "x", PRUNED, 22),
        (lambda trial: trial.state == "complete" and trial is not best, "o", COMPLETE, 20),
        (lambda trial: trial is best, "*", BEST, 110),
    ):
        points = [(x, _scale(search) * (trial.score or 0.0)) for x, trial in dots if chosen(trial)]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            marker=marker,
            color=colour,
            s=size,
            zorder=2,
        )


def _label(search: Search) -> str:
    return pages.CURVES[search.metric]


def _scale(search: Search) -> int:
    return 100 if search.metric in pages.SHARES else 1


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else cnf.plain_text(value)

"""`mildnet benchmark-search`: indexes side by side, on embeddings of one's own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.config import UserError, components, get, nearest
from trainer.data.files import write_bytes
from trainer.launch import pages
from trainer.launch.environment import describe_machine
from trainer.launch.run_folder import RunFolder
from trainer.launch.searched import Comparison, Searched
from trainer.retrieval.ranking import processors
from trainer.retrieval.speed import SWEEPS, SearchSpeed, SearchTask, measure_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

#: Ticks of the plot's recall, and the share of misses below which it no longer tells them apart.
TICKS, FINEST = (0.0, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0), 0.002
#: Dots of a line that are closer than this, in pixels, share a number.
CLOSE = 22


@dataclass(frozen=True)
class SearchOptions:
    """What is compared, and how.

    Attributes:
        kinds: registered names of indexes; none: all of them.
        k: neighbours for each query, at least 1.
        queries: at most so many, drawn by `seed`, at least 1.
        threads: threads that FAISS and Annoy may use; None: one for each processor there is.
        repeats: timed calls with all queries at each setting, at least 1.
        parameters: kind of index -> parameters to build it with, instead of the defaults.
        seed: of the draw.
    """

    kinds: tuple[str, ...] = ()
    k: int = 10
    queries: int = 1000
    threads: int | None = None
    repeats: int = 5
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchComparison(Comparison):
    """What was measured, and on what.

    Attributes:
        threads: threads that FAISS and Annoy could use.
        repeats: timed calls with all queries at each setting.
        rows: each index at each of its settings.
    """

    threads: int
    repeats: int
    rows: tuple[SearchSpeed, ...]


def compare_run(
    run: RunFolder,
    options: SearchOptions,
    split: str | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> SearchComparison:
    """Compare indexes on what a run's exported model makes of its data.

    Args:
        run: a finished run; its query and gallery domains say what searches what.
        options: what is compared.
        split: comma list of splits; default: the one that the run was tested on.
        tell: called with what is being done.

    Raises:
        UserError: no exported model, data that is not there, or as :func:`compare_indexes`.
    """
    _check(options)
    found = Searched.of_run(run, split)
    return compare_indexes(
        found.embeddings, found.queries, found.gallery, options, source=found.source, tell=tell
    )


def compare_file(
    path: str | os.PathLike[str],
    options: SearchOptions,
    tell: Callable[[str], None] = lambda words: None,
) -> SearchComparison:
    """Compare indexes on embeddings from an .npz file.

    Args:
        path: what `mildnet evaluate --embeddings` takes.
        options: what is compared.
        tell: called with what is being done.

    Raises:
        UserError: no such file, arrays that do not fit, or as :func:`compare_indexes`.
    """
    _check(options)
    found = Searched.of_file(path)
    return compare_indexes(
        found.embeddings, found.queries, found.gallery, options, source=found.source, tell=tell
    )


def compare_indexes(
    embeddings: np.ndarray,
    queries: np.ndarray,
    gallery: np.ndarray,
    options: SearchOptions,
    *,
    source: str,
    tell: Callable[[str], None] = lambda words: None,
) -> SearchComparison:
    """Measure each index at each of its settings, on a GPU too where FAISS has one.

    An index that cannot be built here is left out, and named in `notes`.

    Args:
        embeddings: (N, D) float, finite.
        queries: rows that search.
        gallery: rows that are searched.
        options: what is compared.
        source: where the embeddings are from, in words.
        tell: called with what is being done.

    Raises:
        UserError: an option out of range, fewer than `k` items, or no index that can be built.
    """
    _check(options)
    if len(queries) > options.queries:
        random = np.random.default_rng(options.seed)
        queries = np.sort(random.choice(queries, options.queries, replace=False))
    task = SearchTask.of(embeddings, queries, gallery, options.k)
    threads = options.threads or processors()
    kinds = tuple(dict.fromkeys(options.kinds)) or tuple(components("index"))
    rows: list[SearchSpeed] = []
    notes = []
    devices, note = _devices(kinds)
    if note:
        notes.append(note)
    for kind in kinds:
        for gpu in devices if "gpu" in get("index", kind).parameters else (False,):
            name = f"{kind} on the GPU" if gpu else kind
            tell(f"measuring {name}")
            try:
                rows += measure_index(
                    kind,
                    task,
                    parameters=options.parameters.get(kind),
                    gpu=gpu,
                    threads=threads,
                    repeats=options.repeats,
                )
            except (UserError, ValueError) as error:
                notes.append(f"{name} left out: {error}")
    if not rows:
        raise UserError(f"no index could be measured; {'; '.join(notes)}")
    return SearchComparison(
        source=source,
        items=len(gallery),
        dimensions=task.gallery.shape[1],
        queries=len(queries),
        k=options.k,
        inside=bool((task.own >= 0).any()),
        threads=threads,
        repeats=options.repeats,
        machine=describe_machine(),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def read_settings(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return kind of index -> parameters of texts like `hnsw.m=16`.

    Raises:
        UserError: a text that is not of this form, an unknown index, or one of its parameters
            that is unknown or does not fit.
    """
    found: dict[str, dict[str, str]] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        kind, dot, name = key.strip().partition(".")
        if not (equals and dot and kind and name):
            raise UserError(f"--set {text}: INDEX.PARAMETER=VALUE is needed, such as hnsw.m=16")
        found.setdefault(kind, {})[name] = value.strip()
    return {kind: _changed(kind, values) for kind, values in found.items()}


def draw_comparison(comparison: SearchComparison, path: str | os.PathLike[str]) -> None:
    """Draw recall against queries a second: a dot a setting, a line an index.

    Args:
        comparison: what was measured.
        path: PNG file to write.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = list(dict.fromkeys(row.index for row in comparison.rows))
    lines = dict.fromkeys((row.index, row.gpu) for row in comparison.rows)
    drawn = []
    for kind, gpu in lines:
        rows = [row for row in comparison.rows if (row.index, row.gpu) == (kind, gpu)]
        number = kinds.index(kind)
        (line,) = axes.plot(
            [row.recall for row in rows],
            [row.queries_per_second for row in rows],
            color=pages.COLOURS[number % len(pages.COLOURS)],
            marker=pages.MARKERS[number % len(pages.MARKERS)],
            linestyle="--" if gpu else "-",
            markerfacecolor="white" if gpu else None,
            linewidth=1.3,
            markersize=5,
            label=_label(kind, gpu),
        )
        drawn.append((line, rows))
    axes.set_yscale("log")
    # Indexes worth having lie between 0.9 and 1, which this spreads: each step of the misses to a
    # tenth is as wide as the one before.
    axes.set_xscale(
        "function",
        functions=(
            lambda recall: -np.log10(np.maximum(1 + FINEST - recall, FINEST / 10)),
            lambda place: 1 + FINEST - 10.0**-place,
        ),
    )
    edge = max(tick for tick in TICKS if tick <= min(row.recall for row in comparison.rows))
    axes.set_xticks([tick for tick in TICKS if tick >= edge])
    axes.set_xlim(edge, 1 + FINEST / 4)
    for artist in drawn:
        _name_dots(axes, *artist)
    axes.set_xlabel(f"recall@{comparison.k} against exact search", fontsize=9)
    axes.set_ylabel("queries a second, all in one call", fontsize=9)
    axes.set_title(
        f"{comparison.items:,} items of {comparison.dimensions} dimensions, "
        f"{comparison.queries:,} queries: up and to the right is better",
        fontsize=10,
        loc="left",
    )
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", fontsize=8, frameon=False, ncols=3, handlelength=4)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(os.fspath(path), picture.getvalue())


def _name_dots(axes: Axes, line: Line2D, rows: Sequence[SearchSpeed]) -> None:
    """Write the setting beside each dot of a line that is not too close to the one before."""
    places = axes.transData.transform(line.get_xydata())
    named: np.ndarray | None = None
    for place, row in zip(places, rows, strict=True):
        if named is not None and np.abs(place - named).max() < CLOSE:
            continue
        for value in row.setting.values():
            axes.annotate(
                f"{value:,}",
                (row.recall, row.queries_per_second),
                textcoords="offset points",
                xytext=(-4, -3),
                ha="right",
                va="top",
                fontsize=7,
                color=line.get_color(),
            )
            named = place


def _label(kind: str, gpu: bool) -> str:
    """Return the name of a line, with what the numbers at its dots are."""
    swept = f" ({SWEEPS[kind][0]})" if kind in SWEEPS else ""
    return f"{kind}{swept}, GPU" if gpu else f"{kind}{swept}"


def _changed(kind: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters of an index as their types, only those that were given."""
    checked = get("index", kind).check(values)
    return {name: checked[name] for name in values}


def _check(options: SearchOptions) -> None:
    """Refuse what cannot be measured, before a model or a file is read."""
    known = components("index")
    for kind in (*options.kinds, *options.parameters):
        if kind not in known:
            raise UserError(f"unknown index {kind!r}{nearest(kind, known)}")
    for name in ("k", "queries", "repeats", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: at least 1 is needed")


def _devices(kinds: Sequence[str]) -> tuple[tuple[bool, ...], str]:
    """Return whether to search on the GPU, beside the CPU, and what to say if not."""
    from trainer.retrieval.indexes.faiss import gpus

    if not any("gpu" in get("index", kind).parameters for kind in kinds):
        return (False,), ""
    try:
        if gpus():
            return (False, True), ""
    except UserError:  # said again by each index that needs FAISS
        return (False,), ""
    return (False,), "no GPU: FAISS sees none, so everything is measured on the CPU"

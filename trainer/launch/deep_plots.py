"""Plots of a deep evaluation, each with what it shows in words."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from trainer.launch.pages import COLOURS, Curve, as_png, blank, dress, plot_text
from trainer.retrieval.deep import Confusion, Curves, Similarities

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Classes up to which a confusion matrix is drawn, and up to which counts stand in its cells.
MOST_CLASSES, MOST_COUNTED = 40, 20
#: Bars of a histogram, about.
BARS = 80
GREY = "#57606a"


def draw_against_k(curves: Curves) -> list[Curve]:
    """Draw recall and precision, in percent, against the number of neighbours looked at."""
    return [
        _lines(
            "Recall against K, percent",
            ("Recall@K: a right item among the first K", curves.recall, COLOURS[0], "-"),
            ("share of the right items found", curves.found, COLOURS[1], "--"),
        ),
        _lines(
            "Precision against K, percent",
            ("Precision@K: share of the first K that is right", curves.precision, COLOURS[2], "-"),
            ("the most that it can be", curves.ceiling, GREY, ":"),
        ),
    ]


def _lines(title: str, *lines: tuple[str, np.ndarray, str, str]) -> Curve:
    figure, axes = blank(4.8, 3.5)
    for name, values, colour, style in lines:
        ks = np.arange(1, len(values) + 1)
        axes.plot(ks, 100 * values, color=colour, linestyle=style, linewidth=1.5, label=name)
    axes.set_ylim(0, 102)
    dress(axes, title, "K")
    figure.legend(loc="outside lower left", fontsize=8, frameon=False, handlelength=4)
    ends = "; ".join(
        f"{name} goes from {100 * values[0]:.1f} to {100 * values[-1]:.1f} (K = {len(values)})"
        for name, values, _, _ in lines
    )
    return Curve(title, as_png(figure), f"{title}: {ends}.")


def draw_similarities(pairs: Similarities) -> Curve:
    """Draw the densities of the similarities of same-item and different-item pairs."""
    edges, same, other = pairs.densities(BARS)
    threshold, rate = pairs.equal_error()
    figure, axes = blank(5.6, 3.9)
    for density, name, colour, line in (
        (other, "pairs of different items", COLOURS[1], "--"),
        (same, "pairs of the same item", COLOURS[0], "-"),
    ):
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.3, label=name)
    axes.axvline(threshold, color=GREY, linestyle=":", label=f"equal error, {threshold:.3f}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("density", fontsize=9)
    title = "Similarity of pairs"
    dress(axes, title, "cosine similarity")
    figure.legend(loc="outside lower left", fontsize=8, frameon=False)
    median_same, median_other = pairs.medians()
    return Curve(
        title,
        as_png(figure),
        f"Histograms of cosine similarity: half of the same-item pairs are above "
        f"{median_same:.3f}, half of the different-item pairs above {median_other:.3f}; at "
        f"{threshold:.3f}, {100 * rate:.1f} percent of each are on the wrong side.",
    )


def draw_confusion(confusion: Confusion, what: str) -> Curve:
    """Draw a confusion matrix with the totals of its rows and columns.

    Args:
        confusion: of a few classes, see :data:`MOST_CLASSES`.
        what: `category` or `label`.
    """
    matrix = confusion.matrix()
    size = len(matrix)
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    shares = matrix / np.maximum(rows, 1)[:, None]
    names = [plot_text(name or "(none)", 20) for name in confusion.names]
    side = max(3.0, 0.42 * (size + 1)) if size <= MOST_COUNTED else 0.26 * (size + 1)
    margin = 0.08 * max(map(len, names)) + 0.6
    figure, axes = blank(side + margin, side + margin, dpi=110)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, extent=(-0.5, size - 0.5, size - 0.5, -0.5))
    font = 8 if size <= MOST_COUNTED else 6
    counted = size <= MOST_COUNTED
    for row in range(size):
        for column in range(size):
            if counted and matrix[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                _number(axes, column, row, matrix[row, column], colour, font)
        _number(axes, size, row, rows[row], GREY, font)
        _number(axes, row, size, columns[row], GREY, font)
    _number(axes, size, size, matrix.sum(), GREY, font)
    axes.set_xlim(-0.5, size + 0.5)
    axes.set_ylim(size + 0.5, -0.5)
    axes.axhline(size - 0.5, color="#d0d7de", linewidth=1)
    axes.axvline(size - 0.5, color="#d0d7de", linewidth=1)
    places = np.arange(size + 1)
    axes.set_xticks(places, [*names, "total"], rotation=90, fontsize=font)
    axes.set_yticks(places, [*names, "total"], fontsize=font)
    axes.set_ylabel(f"{what} of the query", fontsize=9)
    title = f"First neighbours by {what}"
    dress(axes, title, f"{what} of its first neighbour")
    axes.tick_params(labelsize=font, length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    worst = "; ".join(
        f"{true or '(none)'} taken for {found or '(none)'} {count} times"
        for true, found, count, _ in confusion.mistakes(3)
    )
    with warnings.catch_warnings():
        # A name may have letters that the font lacks; they show as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        picture = as_png(figure)
    return Curve(
        title,
        picture,
        f"Confusion matrix over {size} {what} names: {confusion.accuracy:.1%} of the first "
        f"neighbours are right{'; ' + worst if worst else ''}.",
    )


def _number(axes: Axes, column: int, row: int, count: np.int64, colour: str, size: float) -> None:
    axes.text(column, row, f"{count:,}", color=colour, fontsize=size, ha="center", va="center")

"""`mildnet evaluate --report`: what lies behind the means, on one page; and every query's finds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import write_bytes
from trainer.data.table import ItemTable
from trainer.launch import pages
from trainer.launch.deep_plots import (
    MOST_CLASSES,
    draw_against_k,
    draw_confusion,
    draw_similarities,
)
from trainer.launch.evaluating import (
    AS_TRAINED,
    ModelForm,
    embed_split,
    options_of_file,
    options_of_run,
)
from trainer.launch.run_folder import RunFolder
from trainer.retrieval.deep import Confusion, DeepEvaluation, Retrieved, deep_evaluate
from trainer.retrieval.embeddings_file import EmbeddingsFile, read_embeddings

#: Says in the page and in the JSON file that this command made them, and may replace them.
GENERATOR = "mildnet evaluate --report"
#: The page in a run folder.
PAGE = "evaluation.html"
#: Cut-offs of the short table.
SHORT = (1, 2, 3, 5, 10, 20, 30, 50)
#: Places in the order from easiest to hardest that are shown, 0..1, and what they are called.
PLACES = (
    (0.0, "The easiest"),
    (0.25, "A quarter of the way"),
    (0.5, "In the middle"),
    (0.75, "Three quarters of the way"),
    (1.0, "The hardest"),
)
#: Queries at each of them, and neighbours of each query.
QUERIES, NEIGHBOURS = 8, 5
#: Groups of queries shown as bars, and mistakes listed.
MOST_GROUPS, MISTAKES = 60, 10
DIFFICULTY = (
    "margin: cosine similarity of the nearest right item minus that of the nearest wrong one; "
    "the highest margin is the easiest query"
)


@dataclass(frozen=True)
class Items:
    """What is known of the items besides their embeddings.

    Attributes:
        labels: name of each item's label, (N,).
        categories: name of each item's category, (N,); None: there are none.
        domains: name of each item's domain, (N,); None: there are none.
        table: the items with their pictures; None: embeddings without pictures.
    """

    labels: np.ndarray
    categories: np.ndarray | None
    domains: np.ndarray | None
    table: ItemTable | None

    def describe(self, row: int) -> dict[str, Any]:
        """Return what there is to say of an item, ready for JSON."""
        values: dict[str, Any] = {"row": row}
        if self.table is not None:
            values["path"] = str(self.table.path[row])
        values["label"] = str(self.labels[row])
        for name, column in (("category", self.categories), ("domain", self.domains)):
            if column is not None:
                values[name] = str(column[row])
        return values


@dataclass(frozen=True)
class ShownQuery:
    """A query with its first neighbours, and the nearest right item if it is not among them."""

    query: pages.Shown
    margin: float
    neighbours: tuple[tuple[pages.Shown, bool], ...]
    right: pages.Shown | None


@dataclass(frozen=True)
class Gallery:
    """Queries of like difficulty: the first and last place in the order, from 1."""

    title: str
    first: int
    last: int
    queries: tuple[ShownQuery, ...]


@dataclass(frozen=True)
class Groups:
    """Bars of Recall@1: of categories or of domains, the best first."""

    what: str
    rows: tuple[tuple[str, Mapping[str, float]], ...]
    left_out: int


@dataclass(frozen=True)
class Classification:
    """Classification by the first neighbour."""

    what: str
    confusion: Confusion
    picture: pages.Curve | None


@dataclass(frozen=True)
class DeepReport:
    """Where a report is, and what it holds.

    Attributes:
        page: HTML file.
        retrieved: JSON file with the finds of every query.
        found: the numbers.
    """

    page: str
    retrieved: str
    found: DeepEvaluation


def report_run(
    run: RunFolder,
    to: str | None = None,
    *,
    split: str | None = None,
    form: ModelForm = AS_TRAINED,
    neighbours: int = 10,
) -> DeepReport:
    """Evaluate the exported model of a run on the data of its config, and write the page.

    Args:
        run: a finished run.
        to: HTML file; default: `evaluation.html` in the run folder. One that this function wrote
            is replaced. What was retrieved goes beside it, to `NAME_retrieved.json`.
        split: comma list of splits; default: the one that the run was tested on.
        form: what the model is exported as for that.
        neighbours: of each query, in the JSON file.

    Raises:
        UserError: no exported model, data that is not there, or a file in the way.
    """
    page = run.file(PAGE) if to is None else to
    retrieved = _check_targets(page)
    table, embeddings = embed_split(run, split, form)
    config = run.config()
    found = deep_evaluate(
        embeddings,
        table.label,
        label_names=table.label_names,
        neighbours=max(neighbours, NEIGHBOURS),
        **options_of_run(config, table),
    )
    items = Items(
        np.array(table.label_names)[table.label],
        table.category if any(table.category) else None,
        table.domain if any(table.domain) else None,
        table,
    )
    about = {
        "title": f"Evaluation of {config.name}" + (f", {form}" if form != AS_TRAINED else ""),
        "source": run.path,
        "split": ", ".join(name for name in table.splits if name) or None,
        "query_domain": config.query_domain,
        "gallery_domain": config.gallery_domain,
    }
    return _write(page, retrieved, found, items, about, neighbours)


def report_file(
    path: str | os.PathLike[str], to: str | None, *, neighbours: int = 10
) -> DeepReport:
    """Evaluate embeddings from an .npz file, and write the page, without pictures.

    Args:
        path: see :func:`~trainer.retrieval.embeddings_file.read_embeddings`.
        to: HTML file, see :func:`report_run`.
        neighbours: of each query, in the JSON file.

    Raises:
        UserError: no such file, arrays that do not fit, or a file in the way.
    """
    if to is None:
        raise UserError("a report on embeddings needs a place: give --to FILE.html")
    retrieved = _check_targets(to)
    content: EmbeddingsFile = read_embeddings(path)
    found = deep_evaluate(
        content.embeddings, content.labels, neighbours=neighbours, **options_of_file(content)
    )
    items = Items(content.labels.astype(str), content.categories, content.domains, None)
    name = os.path.basename(os.fspath(path))
    about = {
        "title": f"Evaluation of {name}",
        "source": os.fspath(path),
        "split": None,
        "query_domain": "",
        "gallery_domain": "",
    }
    return _write(to, retrieved, found, items, about, neighbours)


def _check_targets(page: str) -> str:
    """Return the JSON file beside a page, if both may be written."""
    stem, ending = os.path.splitext(page)
    if ending.lower() not in (".html", ".htm"):
        raise UserError(f"--to {page}: the page is HTML; give a name that ends in .html")
    retrieved = f"{stem}_retrieved.json"
    for target in (page, retrieved):
        pages.check_target(target, GENERATOR, PAGE)
    return retrieved


def _write(
    page: str,
    retrieved: str,
    found: DeepEvaluation,
    items: Items,
    about: Mapping[str, Any],
    neighbours: int,
) -> DeepReport:
    html = _page(found, items, about, os.path.basename(retrieved))
    write_bytes(retrieved, _retrieved(found, items, about, neighbours))
    write_bytes(page, html.encode())
    return DeepReport(page, retrieved, found)


def _page(found: DeepEvaluation, items: Items, about: Mapping[str, Any], retrieved: str) -> str:
    evaluation = found.evaluation
    (group,) = pages.metric_groups([("", {"trained": evaluation.to_dict()})])
    measured = "These embeddings" if items.table is None else "This model"
    group = dataclasses.replace(group, rows=((measured, group.rows[0][1]),))
    area, area_error = found.similarities.auc()
    threshold, rate = found.similarities.equal_error()
    median_same, median_other = found.similarities.medians()
    ks = np.arange(1, len(found.curves.recall) + 1)
    return pages.render(
        "deep.html.j2",
        generator=GENERATOR,
        about=about,
        title=about["title"],
        images=len(items.labels),
        classes=len(set(items.labels)),
        evaluation=evaluation,
        groups=[group],
        against_k=draw_against_k(found.curves),
        table=[
            (int(k), *(100 * float(values[k - 1]) for values in vars(found.curves).values()))
            for k in ks
        ],
        short=SHORT,
        pairs=found.similarities,
        histogram=draw_similarities(found.similarities),
        auc=(area, area_error),
        equal_error=(threshold, rate),
        medians=(median_same, median_other),
        bars=_groups(found),
        classified=list(_classified(found)),
        mistakes=MISTAKES,
        most_classes=MOST_CLASSES,
        galleries=None if items.table is None else list(_galleries(found.retrieved, items.table)),
        columns=NEIGHBOURS,
        retrieved=retrieved,
        difficulty=DIFFICULTY,
    )


def _groups(found: DeepEvaluation) -> Groups | None:
    """Return what to draw bars of: categories, else domains, else nothing."""
    evaluation = found.evaluation
    for what, groups in (("category", evaluation.by_category), ("domain", evaluation.by_domain)):
        if len(groups) > 1:
            largest = sorted(groups.items(), key=lambda item: -item[1]["queries"])[:MOST_GROUPS]
            best = sorted(largest, key=lambda item: -item[1]["recall_at_1"])
            return Groups(what, tuple(best), len(groups) - len(best))
    return None


def _classified(found: DeepEvaluation) -> Iterator[Classification]:
    for what, confusion in (("category", found.categories), ("label", found.labels)):
        if confusion is not None:
            few = 1 < len(confusion.names) <= MOST_CLASSES
            yield Classification(what, confusion, draw_confusion(confusion, what) if few else None)


def _galleries(retrieved: Retrieved, table: ItemTable) -> Iterator[Gallery]:
    """Yield queries at a few places of the order, none of them twice."""
    count = len(retrieved.queries)
    if count >= len(PLACES) * QUERIES:
        parts = [
            (title, int(place * (count - QUERIES)) + np.arange(QUERIES)) for place, title in PLACES
        ]
    else:
        chunks = np.array_split(np.arange(count), -(-count // QUERIES))
        parts = [("From the easiest to the hardest", chunk) for chunk in chunks]
    for title, places in parts:
        shown = tuple(_shown(retrieved, place, table) for place in places.tolist())
        yield Gallery(title, int(places[0]) + 1, int(places[-1]) + 1, shown)


def _shown(retrieved: Retrieved, place: int, table: ItemTable) -> ShownQuery:
    def picture(row: int, rank: int, score: float | None) -> pages.Shown:
        return pages.shown(table, row, rank, score, form="JPEG")

    query = int(retrieved.queries[place])
    neighbours = [
        (picture(row, rank, score), table.label[row] == table.label[query])
        for rank, (row, score) in enumerate(_found(retrieved, place, NEIGHBOURS), start=1)
    ]
    rank = int(retrieved.ranks[place])
    right = None
    if rank > len(neighbours):
        right = picture(int(retrieved.right[place]), rank, float(retrieved.right_scores[place]))
    return ShownQuery(
        picture(query, 0, None), float(retrieved.margins[place]), tuple(neighbours), right
    )


def _found(retrieved: Retrieved, place: int, limit: int) -> list[tuple[int, float]]:
    """Return row and similarity of the first neighbours of a query."""
    rows, scores = retrieved.neighbours[place, :limit], retrieved.scores[place, :limit]
    return [
        (row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True) if row >= 0
    ]


def _retrieved(
    found: DeepEvaluation, items: Items, about: Mapping[str, Any], neighbours: int
) -> bytes:
    """Return the JSON of all finds, a line for each query."""
    evaluation = found.evaluation
    head = {
        "generator": GENERATOR,
        "source": about["source"],
        "split": about["split"],
        "queries": evaluation.queries,
        "skipped": evaluation.skipped,
        "difficulty": DIFFICULTY,
        "order": "easiest first",
    }
    lines = (
        json.dumps(_entry(found.retrieved, place, items, neighbours))
        for place in range(evaluation.queries)
    )
    # A line per query: millions of finds stay readable, and can be read line by line.
    start = json.dumps(head, indent=1).removesuffix("\n}")
    return (start + ',\n "retrieved": [\n' + ",\n".join(lines) + "\n]}\n").encode()


def _entry(retrieved: Retrieved, place: int, items: Items, neighbours: int) -> dict[str, Any]:
    query = int(retrieved.queries[place])
    label = items.labels[query]
    return items.describe(query) | {
        "margin": round(float(retrieved.margins[place]), 6),
        "nearest_right": items.describe(int(retrieved.right[place]))
        | {
            "rank": int(retrieved.ranks[place]),
            "score": round(float(retrieved.right_scores[place]), 6),
        },
        "neighbours": [
            items.describe(row)
            | {"score": round(score, 6), "correct": bool(items.labels[row] == label)}
            for row, score in _found(retrieved, place, neighbours)
        ],
    }

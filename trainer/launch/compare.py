"""`mildnet report`: finished runs side by side, on one page that needs nothing else."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.domains import query_masks
from trainer.data.files import (
    is_remote,
    write_bytes,
)
from trainer.launch import pages
from trainer.launch.costs import Costs, read_training, run_costs
from trainer.launch.environment import machine_in_words
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import embed_items
from trainer.launch.splits import read_split
from trainer.retrieval.failures import Failures, hardest_failures

if TYPE_CHECKING:
    from trainer.data.table import ItemTable
    from trainer.serving.embedder import Embedder
    from trainer.serving.timing import Timing

#: Says in the page that this command made it, and may replace it.
GENERATOR = "mildnet report"
#: Images in a call of the model whose time is taken.
BATCHES = (1, 32)
#: Wrong neighbours shown of a failure.
WRONG = 5


@dataclass(frozen=True)
class FinishedRun:
    """A run with all that its files say.

    Attributes:
        name: number and folder, distinct among the runs compared.
        folder: where it is.
        config: what it was made with.
        evaluation: content of `evaluation.json`.
        environment: content of `environment.json`.
        training: rows of `training.csv`.
    """

    name: str
    folder: RunFolder
    config: JobConfig
    evaluation: Mapping[str, Any]
    environment: Mapping[str, Any]
    training: Sequence[Mapping[str, float]]

    @property
    def test_data(self) -> tuple[str, ...]:
        """What must be equal for the metrics of two runs to be comparable."""
        config = self.config
        fingerprint = self.environment["data"]["test"]["fingerprint"]
        split = self.evaluation["split"]
        return (fingerprint, split, config.query_domain, config.gallery_domain)


@dataclass(frozen=True)
class ShownFailure:
    """A query, its nearest wrong neighbours, and the nearest right item."""

    query: pages.Shown
    wrong: tuple[pages.Shown, ...]
    right: pages.Shown


@dataclass(frozen=True)
class FailurePart:
    """The hardest failures of a run, or the reason why there are none to show."""

    failures: tuple[ShownFailure, ...] = ()
    failed: int = 0
    queries: int = 0
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """What is measured when the page is made."""

    costs: Costs
    timings: tuple[Timing, ...]
    failures: FailurePart


def compare_runs(
    runs: Sequence[str],
    to: str,
    *,
    failures: int = 8,
    tell: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Write a page that shows finished runs side by side, and return its numbers.

    Args:
        runs: run folders, each once.
        to: HTML file; one that this function wrote is replaced.
        failures: hardest failures shown of each run; 0: none, and no picture is read.
        tell: called with what is being done, run by run.

    Returns:
        `machine`, `same_test_data`, `differences` (keys of the configs) and `runs`, ready for JSON.

    Raises:
        UserError: a folder that holds no run or an unfinished one, a run that comes twice, an
            exported model that is damaged, or a file in the way of the page.
    """
    from trainer.serving.embedder import Embedder
    from trainer.serving.timing import time_model

    pages.check_target(to, GENERATOR, "runs.html")
    opened = _open_all(runs)
    embedders = [Embedder(run.folder.file("model")) for run in opened]
    measured = []
    for run, embedder in zip(opened, embedders, strict=True):
        tell(f"measuring {run.name}")
        costs = run_costs(run.folder, run.config, run.evaluation, run.training)
        if costs.embedding_dim is None:
            costs = dataclasses.replace(costs, embedding_dim=embedder.dim)
        timings = tuple(time_model(embedder, batch) for batch in BATCHES)
        shown = _failures(run, embedder, failures) if failures else FailurePart()
        measured.append(Measured(costs, timings, shown))
    machine = machine_in_words()
    write_bytes(to, _page(opened, measured, machine, bool(failures)).encode())
    return _numbers(opened, measured, machine)


def _open_all(paths: Sequence[str]) -> list[FinishedRun]:
    if not paths:
        raise UserError("name the run folders to compare, one or more")
    places: dict[str, str] = {}
    for path in paths:
        place = path.rstrip("/") if is_remote(path) else os.path.realpath(path)
        if place in places:
            raise UserError(f"{path}: the same run as {places[place]}; name each run once")
        places[place] = path
    names = _short_names(list(places))
    return [
        _open(path, f"{number}. {name}")
        for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1)
    ]


def _short_names(places: list[str]) -> list[str]:
    """Return the last parts of paths, as many as it takes to tell them apart."""
    parts = [re.split(r"[/\\]+", place) for place in places]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _open(path: str, name: str) -> FinishedRun:
    folder = RunFolder.open(path)
    for file in ("environment.json", "evaluation.json", "model"):
        if not folder.exists(file):
            raise UserError(f"{path}: not finished (no {file}); run its job again to go on")
    evaluation, environment = (
        folder.read_json(file) for file in ("evaluation.json", "environment.json")
    )
    if "trained" not in evaluation:
        raise UserError(f"{path}: not finished (not yet measured); run its job again to go on")
    run = FinishedRun(name, folder, folder.config(), evaluation, environment, read_training(folder))
    try:
        _ = run.test_data, evaluation["unseen_classes"], evaluation["training"]["step"]
        for stage in pages.STAGES:
            _ = evaluation[stage]["metrics"], evaluation[stage]["intervals"]
    except (KeyError, TypeError):
        raise UserError(
            f"{path}: evaluation.json or environment.json is damaged, or not written by mildnet"
        ) from None
    return run


def _failures(run: FinishedRun, embedder: Embedder, count: int) -> FailurePart:
    """Return the hardest failures of a run on the pictures it was tested on, if they are there."""
    from trainer.data.verify import verify_images

    config = run.config
    try:
        whole = read_split(config)
        # Missing pictures make a note, not an error, as long as any are left.
        table = verify_images(whole, max_bad_share=1.0)
        is_query, is_gallery = query_masks(table, config.query_domain, config.gallery_domain)
        embeddings = embed_items(embedder, table)
        found = hardest_failures(
            embeddings,
            table.label,
            count,
            is_query=is_query,
            is_gallery=is_gallery,
            neighbours=WRONG,
        )
    except UserError as error:
        return FailurePart(problem=str(error))
    note = ""
    if table.fingerprint() != run.environment["data"]["test"]["fingerprint"]:
        note = (
            f"The run was tested on {run.evaluation['images']} pictures; these are the failures "
            f"among the {len(table)} that are there now."
        )
    shown = tuple(_shown(found, table))
    return FailurePart(shown, found.failed, found.queries, note=note)


def _shown(found: Failures, table: ItemTable) -> Iterator[ShownFailure]:
    for failure in found.hardest:
        pairs = zip(failure.wrong, failure.wrong_scores, strict=True)
        yield ShownFailure(
            query=pages.shown(table, failure.query, 0, None),
            wrong=tuple(
                pages.shown(table, row, rank, score)
                for rank, (row, score) in enumerate(pairs, start=1)
            ),
            right=pages.shown(table, failure.right, failure.rank, failure.right_score),
        )


def _page(
    runs: Sequence[FinishedRun], measured: Sequence[Measured], machine: str, failures: bool
) -> str:
    names = [run.name for run in runs]
    groups = _by_data(runs)
    costs = [pages.cost_column(part.costs) | _timing_column(part.timings) for part in measured]
    return pages.render(
        "compare.html.j2",
        generator=GENERATOR,
        title="Comparison of runs: " + ", ".join(run.name.partition(" ")[2] for run in runs),
        names=names,
        overview=[
            {
                "name": run.name,
                "path": run.folder.path,
                "model": run.config.model_id,
                "loss": run.config.loss,
                "steps": run.evaluation["training"]["step"],
            }
            for run in runs
        ],
        tables=[
            {
                "about": members[0].evaluation,
                "fingerprint": members[0].test_data[0],
                "domains": members[0].test_data[2:],
                "names": [run.name for run in members],
                "seen": [run.name for run in members if not run.evaluation["unseen_classes"]],
                "groups": _metric_groups(members),
            }
            for members in groups
        ],
        trained_on_same=len({_fingerprint(run, "train") for run in runs}) == 1,
        configs=pages.side_by_side([run.config.to_dict() for run in runs]),
        environments=pages.side_by_side([_flat(run.environment) for run in runs]),
        curves=pages.draw_curves([(run.name, run.training) for run in runs]),
        costs=pages.side_by_side(costs, mark=False),
        machine=machine,
        with_failures=failures,
        wrong_columns=WRONG,
        failures=[(run.name, part.failures) for run, part in zip(runs, measured, strict=True)],
    )


def _by_data(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Return the runs in groups that were measured on the same data."""
    groups: dict[tuple[str, ...], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.test_data, []).append(run)
    return list(groups.values())


def _metric_groups(runs: Sequence[FinishedRun]) -> list[pages.MetricGroup]:
    """Return the table of runs on the same data; one colour histogram is enough for all."""
    histograms = [run.evaluation["color_histogram"] for run in runs]
    shared = len(runs) > 1 and all(part == histograms[0] for part in histograms)
    parts: list[tuple[str, Mapping[str, Any]]] = []
    if shared:
        parts.append(("all of these", {"color_histogram": histograms[0]}))
    for run in runs:
        left_out = {"color_histogram"} if shared else set()
        parts.append((run.name, {k: v for k, v in run.evaluation.items() if k not in left_out}))
    return pages.metric_groups(parts)


def _timing_column(timings: Sequence[Timing]) -> dict[str, str]:
    column = {}
    for timing in timings:
        median, low, high = (
            _digits(1000 * seconds / timing.batch)
            for seconds in (timing.seconds, timing.low, timing.high)
        )
        column[f"latency an image, batch of {timing.batch}"] = f"{median} ms"
        column[f"its quartiles, batch of {timing.batch}"] = f"{low} to {high} ms"
    last = timings[-1]
    column[f"throughput, batch of {last.batch}"] = f"{last.images_per_second:,.0f} images/s"
    return column


def _digits(number: float) -> str:
    """Return a number with three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def _fingerprint(run: FinishedRun, part: str) -> str:
    return str(run.environment["data"].get(part, {}).get("fingerprint"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _numbers(
    runs: Sequence[FinishedRun], measured: Sequence[Measured], machine: str
) -> dict[str, Any]:
    rows = pages.side_by_side([run.config.to_dict() for run in runs])
    return {
        "machine": machine,
        "same_test_data": len(_by_data(runs)) == 1,
        "differences": [row.key for row in rows if row.differs],
        "runs": [
            {
                "name": run.name,
                "path": run.folder.path,
                "config": run.config.to_dict(),
                "environment": run.environment,
                "evaluation": run.evaluation,
                "costs": dataclasses.asdict(part.costs),
                "latency": [
                    {**dataclasses.asdict(timing), "images_per_second": timing.images_per_second}
                    for timing in part.timings
                ],
                "failures": _plain_failures(part.failures),
            }
            for run, part in zip(runs, measured, strict=True)
        ],
    }


def _plain_failures(part: FailurePart) -> dict[str, Any]:
    def plain(shown: pages.Shown) -> dict[str, Any]:
        values = {key: getattr(shown, key) for key in ("path", "label", "rank", "score")}
        return values if shown.score is not None else {"path": shown.path, "label": shown.label}

    return {
        "queries": part.queries,
        "failed": part.failed,
        "problem": part.problem,
        "note": part.note,
        "hardest": [
            {
                "query": plain(failure.query),
                "wrong": [plain(item) for item in failure.wrong],
                "right": plain(failure.right),
            }
            for failure in part.failures
        ],
    }

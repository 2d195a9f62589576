"""A job as a person at a terminal sees it: progress, then the numbers and where things are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from trainer.config import UserError
from trainer.config.console import plain
from trainer.config.job import JobConfig
from trainer.data.files import absolute

if TYPE_CHECKING:
    from trainer.launch.benchmark_model import ModelSpeed
    from trainer.launch.benchmark_rerank import RerankComparison
    from trainer.launch.benchmark_search import SearchComparison
    from trainer.launch.embedding.walk import Embedded
    from trainer.launch.job import JobResult
    from trainer.launch.ranking import Ranked
    from trainer.launch.triplets import Made
    from trainer.retrieval.metrics import Evaluation

#: Rows of the closing table: metric and its name for people.
HEADLINE = (("recall_at_1", "Recall@1"), ("recall_at_10", "Recall@10"), ("map_at_r", "MAP@R"))
#: Columns of the first table of an evaluation, as image retrieval with Swin V2 published its
#: numbers on Stanford Online Products, and the exact metrics of the whole ranking beside them.
PUBLISHED = (
    ("recall_at_1", "Recall\n@1"),
    ("recall_at_10", "Recall\n@10"),
    ("recall_at_100", "Recall\n@100"),
    ("recall_at_1000", "Recall\n@1000"),
    ("shifted_reciprocal_rank", "shifted_\nreciprocal_\nrank"),
    ("map", "mAP"),
    ("map_at_r", "MAP@R"),
    ("r_precision", "R-\nprecision"),
)


def quiet_tensorflow() -> None:
    """Keep TensorFlow's notes off the terminal, and let it use its fast kernels; to be called
    before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # By itself it takes oneDNN only on processors with AVX512-VNNI. On others, too, a convolution
    # takes half the time with it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # A level would not last: in a notebook TensorFlow sets its own when it is imported.
    logging.getLogger("tensorflow").addFilter(_warns)


def _warns(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def read_config(
    config: str | None, model_module: str | None, overrides: Sequence[str] = ()
) -> JobConfig:
    """Return the job config of a command, from a `.cnf` file or from a model module.

    Raises:
        UserError: neither or both are given, or what is given is wrong.
    """
    if (config is None) == (model_module is None):
        raise UserError("give a job config (.cnf) or --model-module, one of the two")
    if config is not None:
        return JobConfig.load(config, overrides)
    # The module may import TensorFlow, and most do.
    quiet_tensorflow()
    return JobConfig.from_module(str(model_module), overrides)


def run_and_show(
    config: JobConfig,
    *,
    fresh: bool = False,
    yes: bool = False,
    run_dir: str | None = None,
    debug: bool = False,
) -> bool:
    """Run a whole job on this machine, and print what it reached.

    Args:
        config: what to do.
        fresh: delete a run that is there, and begin anew.
        yes: do not ask before deleting it.
        run_dir: run folder, by default the job's name below `job_dir`.
        debug: open IPython on the terminal before the first step.

    Returns:
        Whether it was run: not, if an old run was not to be deleted.

    Raises:
        UserError: something that the user can mend.
        Stopped: the job was stopped by a signal or in the session, and saved its state.
    """
    quiet_tensorflow()
    console = plain()
    log_to(console)

    from trainer.launch import job
    from trainer.launch.clearing import agreed, find_old_run, is_first_worker
    from trainer.launch.debugging import check_debugger

    path = job.run_path(config, run_dir)
    if debug:
        check_debugger()
    if fresh and is_first_worker():
        old = find_old_run(config, path)
        if old is not None and not agreed(old, console, yes=yes):
            console.print("Nothing was run.")
            return False
    console.print(f"[bold]{config.name}[/bold] in {path}", soft_wrap=True)
    result = job.run(config, fresh=fresh, run_dir=run_dir, debug=debug)
    if result.trained:
        show_result(result, console)
    return True


def log_to(console: Console) -> None:
    """Print what the library logs, each message as it is."""
    logger = logging.getLogger("trainer")
    logger.setLevel(logging.INFO)
    logger.handlers = [
        RichHandler(console=console, show_time=False, show_path=False, show_level=False)
    ]
    logger.propagate = False


def show_result(result: JobResult, console: Console) -> None:
    """Print the metrics before and after, and the files to look at."""
    table = Table(title="Retrieval on images held out of training, percent", title_justify="left")
    table.add_column("")
    for name in ("colour histogram", "before training", "trained"):
        table.add_column(name, justify="right")
    for metric, label in HEADLINE:
        stages = (result.color_histogram, result.untrained, result.trained)
        table.add_row(label, *(f"{100 * stage[metric]:.1f}" for stage in stages))
    console.print(table)
    console.print(f"{result.steps} steps in {result.seconds / 60:.1f} minutes")
    files = {"report": result.report, "neighbours": result.picture, "run folder": result.run_dir}
    show_files(files, console)


def show_files(files: Mapping[str, str], console: Console) -> None:
    """Print where files are, a line for each, by what they are."""
    for label, path in files.items():
        console.print(f"{label:<11}{absolute(path)}", soft_wrap=True, markup=False)


def show_embedded(done: Embedded, console: Console) -> None:
    """Print how many embeddings there are, and where they and what was left out are."""
    from trainer.retrieval.embeddings_folder import BAD

    meta = done.meta
    part = f"shard {meta.shard} of {meta.shards}: " if meta.shards > 1 else ""
    left_out = meta.bad + (meta.problems if meta.shard == 1 else 0)
    line = f"{part}{meta.items:,} embeddings of {meta.dim} numbers"
    if left_out:
        line += f", {left_out:,} pictures and rows left out (see {BAD})"
    console.print(f"{line}: {done.path}", soft_wrap=True, markup=False)


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the published columns, every metric with its interval, and breakdowns if any.

    Metrics at a K that is no smaller than the gallery are left out: all of it is within K, so they
    say nothing about the ranking.
    """
    beyond = {name for name in evaluation.metrics if _cut_off(name) >= evaluation.gallery}
    table = Table(title="Retrieval, percent", title_justify="left")
    for _, label in PUBLISHED:
        table.add_column(label, justify="right")
    table.add_row(
        *(
            "-" if name in beyond else f"{100 * evaluation.metrics[name]:.2f}"
            for name, _ in PUBLISHED
        )
    )
    console.print(table)
    table = Table(title="Every metric, percent", title_justify="left")
    table.add_column("metric")
    table.add_column("mean", justify="right")
    table.add_column(f"{evaluation.confidence:.0%} interval", justify="right")
    for name, value in evaluation.metrics.items():
        if name in beyond:
            continue
        low, high = evaluation.intervals.get(name, (value, value))
        table.add_row(name, f"{100 * value:.2f}", f"{100 * low:.2f} to {100 * high:.2f}")
    console.print(table)
    for title, groups in (("category", evaluation.by_category), ("domain", evaluation.by_domain)):
        if len(groups) > 1:
            part = Table(title=f"By {title} of the query, percent", title_justify="left")
            part.add_column(title)
            part.add_column("queries", justify="right")
            for _, label in HEADLINE:
                part.add_column(label, justify="right")
            for name, group in groups.items():
                cells = (f"{100 * group[metric]:.1f}" for metric, _ in HEADLINE)
                part.add_row(name or "(none)", f"{group['queries']:.0f}", *cells)
            console.print(part)
    left_out = f", {evaluation.skipped} without a match left out" if evaluation.skipped else ""
    console.print(f"{evaluation.queries} queries in {evaluation.gallery} items{left_out}")
    if beyond:
        cuts = ", ".join(map(str, sorted({_cut_off(name) for name in beyond})))
        console.print(f"not shown: metrics at {cuts}, there being no more items than that")


def _cut_off(name: str) -> int:
    """Return the K of a metric such as `recall_at_10`, 0 for one of the whole ranking."""
    number = name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def show_search_speed(found: SearchComparison, console: Console) -> None:
    """Print what each index costs, and how fast and how well it finds at each setting."""
    costs = Table(title="Indexes", title_justify="left")
    speeds = Table(title="Search, and how much of the exact answer it finds", title_justify="left")
    for table, names in (
        (costs, ("index", "build s", "memory MB", "file MB")),
        (speeds, ("index", "setting", "queries/s", "p50 ms", "p95 ms", "p99 ms")),
    ):
        for name in names:
            table.add_column(name, justify="left" if name in ("index", "setting") else "right")
    speeds.add_column(f"recall@{found.k}", justify="right")
    before = ""
    for row in found.rows:
        name = f"{row.index}, GPU" if row.gpu else row.index
        first = name != before
        if first:
            memory = "-" if row.resident_bytes is None else f"{row.resident_bytes / 1e6:,.1f}"
            costs.add_row(name, f"{row.build_seconds:,.2f}", memory, f"{row.file_bytes / 1e6:,.1f}")
            speeds.add_section()
        speeds.add_row(
            name if first else "",
            ", ".join(f"{key}={value}" for key, value in row.setting.items()),
            f"{row.queries_per_second:,.0f}",
            *(f"{1000 * seconds:.2f}" for seconds in (row.p50, row.p95, row.p99)),
            f"{row.recall:.4f}",
        )
        before = name
    console.print(costs)
    console.print(speeds)
    inside = "; each leaves itself out" if found.inside else ""
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    for line in (
        f"{found.queries:,} queries{inside}, {found.items:,} items of {found.dimensions} "
        f"dimensions, {threads}",
        *found.notes,
    ):
        console.print(line, soft_wrap=True, markup=False)


def show_model_speed(found: ModelSpeed, console: Console) -> None:
    """Print how large each form of a model is, and how long it takes, cold and warm."""
    table = Table(title="Calls of the exported model", title_justify="left")
    words = ("type", "views")
    for name in (
        *(
            "type",
            "px",
            "views",
            "MB",
            "batch",
            "load\ns",
            "first\ncall s",
            "median\nms",
            "p95\nms",
        ),
    ):
        table.add_column(name, justify="left" if name in words else "right", no_wrap=True)
    before: tuple[str, ...] = ()
    for size, cold in found.rows:
        form = (cold.precision, str(cold.image_size), cold.tta, f"{size / 1e6:,.1f}")
        if before and form != before:
            table.add_section()
        timing = cold.timing
        table.add_row(
            *(form if form != before else ("",) * len(form)),
            str(timing.batch),
            *(f"{seconds:.2f}" for seconds in (cold.load, timing.first)),
            *(f"{1000 * seconds:.1f}" for seconds in (timing.seconds, timing.p95)),
        )
        before = form
    console.print(table)
    console.print(found.machine, soft_wrap=True, markup=False)


def show_ranks(found: Ranked, k: int, console: Console) -> None:
    """Print how large the array of a ranker is, and how good, where that is known."""
    queries, items = found.rows.shape
    fewer = f" (there are no more for the {k:,} asked for)" if items < k else ""
    console.print(f"{queries:,} queries, {items:,} items for each{fewer}", soft_wrap=True)
    if found.quality is not None:
        good = found.quality
        left_out = f", {good.skipped} without a match left out" if good.skipped else ""
        console.print(
            f"mAP@{k} {100 * good.truncated_map:.2f}%, Recall@1 {100 * good.recall_at_1:.2f}% of "
            f"{good.queries} queries{left_out}",
            soft_wrap=True,
        )


def show_reranking(found: RerankComparison, console: Console) -> None:
    """Print how well each post-processing ranks, and what it costs."""
    table = Table(title="Post-processing, percent", title_justify="left")
    measures = ("Recall\n@1", "Recall\n@10", f"mAP\n@{found.k}")
    for name in ("method", *measures, "seconds", "CPU\ns", "peak\nMB"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in found.rows:
        shares = (row.quality.recall_at_1, row.quality.recall_at_10, row.quality.truncated_map)
        memory = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"
        cells = [f"{100 * share:.2f}" for share in shares]
        table.add_row(row.method, *cells, f"{row.seconds:,.2f}", f"{row.cpu_seconds:,.2f}", memory)
    console.print(table)
    inside = "; each leaves itself out" if found.inside else ""
    for line in (
        f"{found.queries:,} queries{inside}, {found.items:,} items of {found.dimensions} "
        "dimensions",
        *found.notes,
    ):
        console.print(line, soft_wrap=True, markup=False)


def show_neighbours(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the neighbours of each query as a table."""
    optional = [name for name in ("label", "category", "domain") if any(name in r for r in rows)]
    table = Table()
    for name in ("query", "rank", "score", *optional, "item"):
        table.add_column(
            name, justify="right" if name in ("rank", "score") else "left", overflow="fold"
        )
    for row in rows:
        first = row["rank"] == 1
        table.add_row(
            str(row["query"]) if first else "",
            str(row["rank"]),
            f"{row['score']:.3f}",
            *(str(row.get(name, "")) for name in optional),
            str(row["id"]),
            end_section=False,
        )
    console.print(table)


def show_triplets(made: Made, console: Console) -> None:
    """Print what lists of triplets hold, what is not in them, and how to train on them."""

    def tell(words: str) -> None:
        console.print(words, soft_wrap=True, markup=False)

    for written in made.files:
        tell(
            f"{written.path}: {written.triplets:,} triplets of {written.pictures:,} pictures, "
            f"{written.in_class / written.triplets:.0%} with an in-class negative"
        )
        if written.skipped:
            tell(f"  {written.skipped:,} of {written.anchors:,} anchors have none")
        if written.replaced:
            tell(
                f"  {written.replaced:,} negatives are of the other kind than drawn: there was none"
            )
    if made.left_out:
        tell(f"{made.left_out:,} pictures and rows left out, see {made.log}")
    names = ("train_csv", "val_csv")
    lists = "".join(
        f" --set {name}={absolute(written.path)}"
        for name, written in zip(names, made.files, strict=False)
    )
    tell(
        f"to train: --set dataset=triplets --set sampler=triplets --set data_path={made.images} "
        f"--set dataset.images={made.images}{lists}"
    )

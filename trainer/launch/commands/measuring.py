"""Commands that measure models, rankings and indexes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from trainer.config import UserError
from trainer.config.console import Debug, one_line_errors, plain
from trainer.launch import summary
from trainer.launch.commands.options import (
    EmbeddingsFile,
    ImageSize,
    Json,
    PostOptions,
    Precision,
    RunIfNoFile,
    Split,
    Views,
    one_of_two,
    write_json,
)

app = typer.Typer()


@app.command()
@one_line_errors
def evaluate(
    run: RunIfNoFile = None,
    embeddings: EmbeddingsFile = None,
    split: Split = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="Also write a page: curves, confusions, easy and hard."),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(metavar="FILE.html", help="The page; default: evaluation.html in the run."),
    ] = None,
    neighbours: Annotated[
        int, typer.Option(help="Of each query, in the JSON file beside the page.", min=1)
    ] = 10,
    precision: Precision = "float32",
    image_size: ImageSize = None,
    tta: Views = "none",
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Retrieval metrics of a run's model on its data, or of embeddings in a file."""
    one_of_two(run, embeddings)
    if to is not None and not report:
        raise UserError("--to is the place of the page: give --report as well")
    summary.quiet_tensorflow()
    from trainer.launch.evaluating import AS_TRAINED, ModelForm, evaluate_file, evaluate_run
    from trainer.launch.run_folder import RunFolder

    form = ModelForm(precision, image_size, tta)
    if run is None and form != AS_TRAINED:
        raise UserError("--precision, --image-size and --tta are for the model of a RUN")
    if report:
        from trainer.launch.deep_report import report_file, report_run

        if run is not None:
            written = report_run(
                RunFolder.open(run), to, split=split, form=form, neighbours=neighbours
            )
        else:
            written = report_file(embeddings, to, neighbours=neighbours)  # type: ignore[arg-type]
        summary.show_evaluation(written.found.evaluation, plain())
        files = {"page": written.page, "retrieved": written.retrieved}
        summary.show_files(files, plain())
        write_json(json_file, written.found.to_dict())
        return
    if run is not None:
        result = evaluate_run(RunFolder.open(run), split, form)
    else:
        result = evaluate_file(embeddings)  # type: ignore[arg-type]
    summary.show_evaluation(result, plain())
    write_json(json_file, result.to_dict())


@app.command()
@one_line_errors
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    to: Annotated[str, typer.Option(metavar="FILE.html", help="Page to write.")],
    failures: Annotated[
        int, typer.Option(help="Hardest failures to show of each run; 0: no pictures.", min=0)
    ] = 8,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Compare finished runs on one page: configs, curves, metrics, costs, hardest failures."""
    summary.quiet_tensorflow()
    from trainer.launch.compare import compare_runs

    console = Console(highlight=False, markup=False, soft_wrap=True)
    write_json(json_file, compare_runs(runs, to, failures=failures, tell=console.print))
    console.print(f"comparison in {to}")


@app.command("benchmark-search")
@one_line_errors
def benchmark_search(
    run: RunIfNoFile = None,
    embeddings: EmbeddingsFile = None,
    split: Split = None,
    index: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Index; repeatable; default: all.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours for each query.", min=1)] = 10,
    queries: Annotated[int, typer.Option(help="At most so many, drawn.", min=1)] = 1000,
    threads: Annotated[
        int | None, typer.Option(help="Default: one for each processor.", min=1)
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls with all queries.", min=1)] = 5,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="hnsw.m=16, ivf_pq.nlist=512, ..."),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw recall against queries/s.")
    ] = None,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Compare search indexes: build time, memory, speed, recall against exact search."""
    one_of_two(run, embeddings)
    if run is not None:
        summary.quiet_tensorflow()
    from trainer.launch import benchmark_search as comparing
    from trainer.launch.run_folder import RunFolder

    options = comparing.SearchOptions(
        kinds=tuple(index or ()),
        k=k,
        queries=queries,
        threads=threads,
        repeats=repeats,
        parameters=comparing.read_settings(overrides or []),
    )
    console = plain()
    if run is not None:
        found = comparing.compare_run(RunFolder.open(run), options, split, tell=console.print)
    else:
        found = comparing.compare_file(embeddings, options, tell=console.print)  # type: ignore[arg-type]
    summary.show_search_speed(found, console)
    write_json(json_file, found.to_dict())
    if plot is not None:
        comparing.draw_comparison(found, plot)


@app.command("benchmark-rerank")
@one_line_errors
def benchmark_rerank(
    run: RunIfNoFile = None,
    embeddings: EmbeddingsFile = None,
    split: Split = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--post", metavar="NAME", help="Method; repeatable; default: all."),
    ] = None,
    overrides: PostOptions = None,
    k: Annotated[int, typer.Option("-k", help="Items for each query.", min=1)] = 1000,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Compare post-processings of rankings: quality, seconds, memory."""
    one_of_two(run, embeddings)
    from trainer.retrieval.rerank.options import METHODS, method, read_changes

    changes = read_changes(overrides or [])
    chosen = [(name, method(name, changes)) for name in methods or METHODS]
    if run is not None:
        summary.quiet_tensorflow()
    from trainer.launch.benchmark_rerank import compare_methods
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.searched import Searched

    if run is not None:
        searched = Searched.of_run(RunFolder.open(run), split)
    else:
        searched = Searched.of_file(embeddings)  # type: ignore[arg-type]
    console = plain()
    found = compare_methods(searched, chosen, k, tell=console.print)
    summary.show_reranking(found, console)
    write_json(json_file, found.to_dict())


@app.command("benchmark-model")
@one_line_errors
def benchmark_model(
    source: Annotated[
        str, typer.Argument(metavar="RUN|MODEL_DIR", help="A run, or a model it exported.")
    ],
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="float32, float16, bfloat16; repeatable."),
    ] = None,
    image_size: Annotated[
        list[int] | None, typer.Option(help="Pixels; repeatable; default: as trained.", min=1)
    ] = None,
    tta: Annotated[
        list[str] | None,
        typer.Option("--tta", metavar="VIEWS", help="none, flip, 0.8, flip+0.8; repeatable."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Images in a call; repeatable.", min=1)
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each is timed.", min=0.0)] = 2.0,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Latency of a model: load time, first call, median and 95th percentile after it."""
    summary.quiet_tensorflow()
    from trainer.launch.benchmark_model import BATCHES, forms_of, measure_speed

    forms = forms_of(precision or (), image_size or (), tta or ())
    console = plain()
    found = measure_speed(
        source, forms, tuple(batch or BATCHES), seconds=seconds, tell=console.print
    )
    summary.show_model_speed(found, console)
    write_json(json_file, found.to_dict())

"""The command `mildnet`: thin, every command calls one function of a room."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

import trainer
from trainer.config import UserError
from trainer.config.console import (
    Debug,
    DebugSession,
    Fresh,
    From,
    ModelModule,
    Yes,
    from_run,
    one_line_errors,
    plain,
)
from trainer.launch import summary
from trainer.launch.vertex.commands import jobs

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Visual product search: train, evaluate, export, index, search.",
)
data = typer.Typer(no_args_is_help=True, help="Make data sets to train on.")
app.add_typer(data, name="data")
convert = typer.Typer(no_args_is_help=True, help="Make runs of weights from elsewhere.")
app.add_typer(convert, name="convert")
app.add_typer(jobs, name="jobs")


class WithDefault(TyperGroup):
    """A command with others below it: words that begin with no name of theirs are its own.

    The command is the first of the group.
    """

    def named(self, words: list[str]) -> list[str]:
        """Return the words with the name of the command that they are for in front."""
        if words and words[0] in self.commands:
            return words
        return [next(iter(self.commands)), *words]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if (words := self.named(args)) != args and not set(args).isdisjoint(ctx.help_option_names):
            words = ["--help"]
        return super().parse_args(ctx, words)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown, default = copy.copy(self), next(iter(self.commands.values()))
        shown.help, shown.params = default.help, default.params
        TyperGroup.format_help(shown, ctx, formatter)


index = typer.Typer(
    cls=WithDefault,
    subcommand_metavar="| add ... | remove ... | merge ...",
    help="Embed a catalogue with a run's model and build an index over it.",
)
app.add_typer(index, name="index")
embed = typer.Typer(
    cls=WithDefault,
    subcommand_metavar="| merge ...",
    help="Embed a catalogue with a run's model into arrays on disk, in shards if wanted.",
)
app.add_typer(embed, name="embed")

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder of a finished job.")]
RunIfNoFile = Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder.")]
EmbeddingsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz|DIR",
        help="Arrays embeddings, labels, optional is_query; or what embed wrote.",
    ),
]
Split = Annotated[
    str | None, typer.Option(help="Comma list of splits; default: the test split of the run.")
]
Items = Annotated[
    str, typer.Option(metavar="ITEMS.csv|DIR", help="Catalogue: an items.csv, or its folder.")
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Win over the config; repeatable."),
]
Precision = Annotated[
    Literal["float32", "float16", "bfloat16"],
    typer.Option(help="Type that weights are stored and layers computed in."),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the model's input, pixels; default: as trained.", min=1)
]
Views = Annotated[
    str,
    typer.Option(
        "--tta", metavar="VIEWS", help="Views added to each picture: flip, 0.8, flip+0.9+0.8."
    ),
]
Post = Annotated[
    str, typer.Option(metavar="NAME", help="Post-processing: none, challenge, k_reciprocal, ...")
]
PostOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Of post-processing: expand=10, k1=30, ..."),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Export of the run's model to embed with; default: its own."),
]
BadShare = Annotated[
    float | None,
    typer.Option(help="Share of a catalogue that may be bad, 0 to 1; default: the run's."),
]
NewRun = Annotated[Path, typer.Option(metavar="DIR", help="Run folder to make.")]
IntoRun = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Into the run's config; repeatable."),
]


def main() -> None:
    """Entry point of the console script."""
    app()


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Visual product search: train, evaluate, export, index, search."""
    if version:
        plain().print(f"mildnet {trainer.__version__}")
        raise typer.Exit


@app.command()
@one_line_errors
def describe(
    kind: Annotated[str | None, typer.Argument(help="A kind of component, or a page.")] = None,
    name: Annotated[str | None, typer.Argument(help="A component, or a key.")] = None,
    debug: Debug = False,
) -> None:
    """What exists: components, their parameters and defaults, the keys of a config."""
    from trainer.config.describe import describe as page

    plain().print(page(kind, name))


@app.command()
@one_line_errors
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A job config (.cnf).")
    ] = None,
    model_module: ModelModule = None,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Run folder.")] = None,
    fresh: Fresh = False,
    yes: Yes = False,
    source: From = None,
    debug: DebugSession = False,
) -> None:
    """Run a whole job: train, evaluate before and after, export, index, report."""
    job = summary.read_config(config, model_module, from_run(source) + (overrides or []))
    summary.run_and_show(job, fresh=fresh, yes=yes, run_dir=run_dir, debug=debug)


@app.command()
@one_line_errors
def phases(
    file: Annotated[str, typer.Argument(metavar="PHASES.yaml", help="Configs in their order.")],
    overrides: Overrides = None,
    to: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of the runs; default: below job_dir.")
    ] = "",
    fresh_from: Annotated[
        str | None,
        typer.Option(metavar="PHASE", help="Begin this phase anew, and all after it."),
    ] = None,
    yes: Yes = False,
    list_phases: Annotated[
        bool, typer.Option("--list", help="Print how far the phases are, and run nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run jobs one after the other, each beginning with the weights of the one before.

    Given again after a stop, it goes on where it was.
    """
    from trainer.launch.phases import Phases

    several = Phases.load(file, overrides or [], to)
    console = plain()
    if list_phases:
        several.show(console)
    else:
        several.run(console, fresh=fresh_from, yes=yes)


@app.command()
@one_line_errors
def submit(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A job config (.cnf).")
    ] = None,
    shape: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="Machines: a file, or a name in training_configs; default: the config's.",
        ),
    ] = "",
    model_module: ModelModule = None,
    overrides: Overrides = None,
    source: From = None,
    data_path: Annotated[
        str | None, typer.Option(metavar="gs://...", help="Where the job finds the data.")
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="JOB", help="Go on with the run of a job that has ended.")
    ] = "",
    project: Annotated[str | None, typer.Option(help="Google Cloud project.")] = None,
    region: Annotated[str | None, typer.Option(help="Such as europe-west4.")] = None,
    bucket: Annotated[
        str | None, typer.Option(metavar="gs://...", help="For packages and run folders.")
    ] = None,
    service_account: Annotated[
        str | None, typer.Option(metavar="EMAIL", help="Account that the job runs as.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the job; repeatable.")
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--no-spot", help="Cheaper machines that may be lost.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="2h30m", help="Longest time the job may run.")
    ] = None,
    tensorboard: Annotated[
        str | None, typer.Option(metavar="NUMBER|NAME", help="TensorBoard of Vertex AI.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="URI", help="Container image with mildnet in it.")
    ] = None,
    base_image: Annotated[
        str | None, typer.Option(metavar="URI", help="Image to install the package in.")
    ] = None,
    extras: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Extras to install it with.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Variable to pass on to the job; repeatable."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Watch the job and its log until it ends.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact request; send nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a job on Vertex AI: package, bucket, machines, and its log here.

    Options win over settings.cfg (MILDNET_PROJECT, ...). Ends as the job does; see `mildnet jobs`.
    """
    from trainer.launch.vertex.settings import VertexSettings
    from trainer.launch.vertex.submitting import Submission

    settings = VertexSettings.load(
        {
            "project": project,
            "region": region,
            "bucket": bucket,
            "service_account": service_account,
            "labels": ",".join(label or ()),
            "spot": None if spot is None else ("yes" if spot else "no"),
            "timeout": timeout,
            "tensorboard": tensorboard,
            "image": image,
            "base_image": base_image,
            "extras": extras,
            "env": ",".join(env or ()),
        }
    )
    data = [] if data_path is None else [f"data_path={data_path}"]
    job = summary.read_config(config, model_module, from_run(source) + (overrides or []) + data)
    submission = Submission.prepare(job, settings, shape, resume)
    if dry_run:
        submission.show(plain(), Console(stderr=True, highlight=False))
    else:
        submission.submit(plain(), wait=wait)


@app.command()
@one_line_errors
def tune(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A job config (.cnf).")],
    space: Annotated[
        str, typer.Option(metavar="SPACE.yaml", help="Keys to search, and their values.")
    ],
    to: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of the search; default: JOB-tune.")
    ] = "",
    overrides: Overrides = None,
    sampler: Annotated[
        Literal["tpe", "random", "grid"], typer.Option(help="What picks the values.")
    ] = "tpe",
    trials: Annotated[
        int | None,
        typer.Option(help="How many there will be in all; default: 20, or all of a grid.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other values.", min=0)] = 0,
    metric: Annotated[
        str | None, typer.Option(help="Validation number that decides; default: train.monitor.")
    ] = None,
    pruner: Annotated[
        Literal["median", "hyperband", "none"],
        typer.Option(help="What ends trials that fall behind at a validation."),
    ] = "median",
    storage: Annotated[
        str,
        typer.Option(metavar="URL", help="Database shared by machines; default: DIR/study.db."),
    ] = "",
    study: Annotated[
        str, typer.Option(metavar="NAME", help="Name in the database; default: the job's.")
    ] = "",
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Trials are whole jobs: tested, exported, with a report."),
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Go on with trials of machines that are gone.")
    ] = False,
    index: Annotated[
        int | None, typer.Option(help="Run this combination of the grid alone, without a study.")
    ] = None,
    index_from_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Take the index from this variable; auto finds it."),
    ] = None,
    index_base: Annotated[int, typer.Option(help="Index of the first combination.", min=0)] = 0,
    list_combinations: Annotated[
        bool, typer.Option("--list", help="Print the combinations of the grid, and run nothing.")
    ] = False,
    summarize: Annotated[
        bool, typer.Option("--summary", help="Print what has come of it, and run nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Search the best values of a config's keys by the validation split: a job for each trial."""
    from trainer.launch.tuning import tune as tuning
    from trainer.launch.tuning.space import Space
    from trainer.launch.tuning.study import StudyOptions

    searched = Space(space, config, overrides or [])
    console = plain()
    if list_combinations:
        tuning.list_combinations(searched, console, index_base=index_base)
        return
    options = tuning.TuneOptions(
        to=to,
        metric=metric,
        whole=whole,
        study=StudyOptions(sampler, trials, seed, pruner, storage, study, take_over),
        index=index,
        index_variable=index_from_env,
        index_base=index_base,
    )
    (tuning.summarize if summarize else tuning.tune)(searched, options, console)


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
    _one_of_two(run, embeddings)
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
        _write_json(json_file, written.found.to_dict())
        return
    if run is not None:
        result = evaluate_run(RunFolder.open(run), split, form)
    else:
        result = evaluate_file(embeddings)  # type: ignore[arg-type]
    summary.show_evaluation(result, plain())
    _write_json(json_file, result.to_dict())


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
    _one_of_two(run, embeddings)
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
    _write_json(json_file, found.to_dict())
    if plot is not None:
        comparing.draw_comparison(found, plot)


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
    _write_json(json_file, found.to_dict())


@app.command()
@one_line_errors
def export(
    run: Run,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the SavedModel.")],
    precision: Precision = "float32",
    image_size: ImageSize = None,
    tta: Views = "none",
    debug: Debug = False,
) -> None:
    """Write a run's model as a SavedModel that plain TensorFlow loads."""
    summary.quiet_tensorflow()
    from trainer.launch.evaluating import ModelForm, export_run
    from trainer.launch.run_folder import RunFolder

    form = ModelForm(precision, image_size, tta)
    plain().print(f"model in {export_run(RunFolder.open(run), to, form)}")


@embed.command("catalogue", hidden=True)
@one_line_errors
def embed_catalogue(
    run: Run,
    items: Items,
    to: Annotated[
        str, typer.Option(metavar="DIR", help="Folder to make, or to go on with; gs:// too.")
    ],
    beam_options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- BEAM OPTIONS]", help="With --beam: behind --."),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="i/n", help="Part to embed: 1/4 is the first of four.")
    ] = "1/1",
    beam: Annotated[
        bool, typer.Option("--beam", help="As a pipeline of Apache Beam, for fleets.")
    ] = False,
    model: Model = None,
    max_bad_share: BadShare = None,
    snapshot: Annotated[int, typer.Option(help="Rows after which what is done is written.")] = 1024,
    debug: Debug = False,
) -> None:
    """Embed a catalogue with a run's model into arrays on disk.

    Given again after a stop, it goes on where it was. Pictures that can't be decoded are left out,
    and named in bad_images.log.
    """
    from trainer.launch.embedding.plan import parse_shard

    part = parse_shard(shard)
    if beam:
        from trainer.launch.beam.required import require_beam

        require_beam("mildnet embed --beam")
    elif beam_options:
        raise UserError(f"{beam_options[0]}: options behind -- are Beam's: give --beam as well")
    summary.quiet_tensorflow()
    from trainer.launch.embedding.walk import EmbedOptions, embed_catalogue
    from trainer.launch.run_folder import RunFolder

    options = EmbedOptions(items, to, part, model, snapshot, max_bad_share)
    console = plain()
    finished = RunFolder.open(run)
    if beam:
        from trainer.launch.embedding.pipeline import embed_by_beam

        summary.log_to(console)
        done = embed_by_beam(finished, options, beam_options or [], console.print)
    else:
        done = embed_catalogue(finished, options, console.print)
    summary.show_embedded(done, console)


@embed.command("merge")
@one_line_errors
def embed_merge(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="DIR...", help="Shards, or folders that hold them."),
    ],
    to: Annotated[str, typer.Option(metavar="DIR", help="Folder to make; gs:// too.")],
    max_bad_share: BadShare = None,
    debug: Debug = False,
) -> None:
    """Put the shards of a catalogue together: what embedding it in one go makes."""
    summary.quiet_tensorflow()
    from trainer.launch.embedding.merging import merge

    console = plain()
    summary.show_embedded(
        merge(folders, to, max_bad_share=max_bad_share, tell=console.print), console
    )


@index.command("build", hidden=True)
@one_line_errors
def index_build(
    run: Run,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the index.")],
    items: Annotated[
        str | None,
        typer.Option(metavar="ITEMS.csv|DIR", help="Catalogue: an items.csv, or its folder."),
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Instead of --items: what embed wrote of a catalogue."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="index=hnsw, index.m=32, ..."),
    ] = None,
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Embed a catalogue with a run's model and build an index over it.

    Where an index of the same model is there, only pictures that are new or have changed since are
    embedded.
    """
    if (items is None) == (embeddings is None):
        raise UserError("give --items or --embeddings, one of the two")
    summary.quiet_tensorflow()
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.searching import index_catalogue, index_embeddings

    tell = plain().print
    changes = overrides or []
    if items is not None:
        count = index_catalogue(
            RunFolder.open(run), items, to, changes, model_folder=model, tell=tell
        )
    else:
        count = index_embeddings(
            RunFolder.open(run), str(embeddings), to, changes, model_folder=model
        )
    tell(f"{count} items in {to}")


@index.command("add")
@one_line_errors
def index_add(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The run that the index was built with.")
    ],
    items: Items,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the index.")],
    model: Model = None,
    debug: Debug = False,
) -> None:
    """Add the items of a catalogue to an index, without building it anew.

    Pictures that it has not are added, and those that have changed since take the place of the old
    ones. Items that the catalogue does not name stay.
    """
    summary.quiet_tensorflow()
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.updating import add_to_index

    tell = plain().print
    change = add_to_index(RunFolder.open(run), items, to, model_folder=model, tell=tell)
    tell(f"{change}; {change.items} items in {to}")


@index.command("remove")
@one_line_errors
def index_remove(
    folder: Annotated[Path, typer.Option("--from", metavar="DIR", help="Folder of the index.")],
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Items: ids as in search results, or paths."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="LABEL", help="All items of a product; repeatable."),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="ITEMS.csv|DIR", help="All items of the pictures of a catalogue."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Remove items from an index, without building it anew."""
    from trainer.launch.updating import remove_from_index

    change = remove_from_index(folder, ids or [], labels=labels or [], source=items)
    plain().print(f"{change}; {change.items} items in {folder}")


@index.command("merge")
@one_line_errors
def index_merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the index.")],
    changes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: DIR.changes.sqlite.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Take products that were added and removed while an index was served into the index.

    Their pictures are written to DIR.pictures. No server may be using the changes meanwhile.
    """
    from trainer.launch.updating import merge_changes

    change = merge_changes(folder, changes=changes)
    plain().print(f"{change}; {change.items} items in {folder}")


@app.command()
@one_line_errors
def search(
    run: Run,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Picture files.")],
    k: Annotated[int, typer.Option("-k", help="Neighbours for each picture.", min=1)] = 10,
    index: Annotated[
        str | None, typer.Option(metavar="DIR", help="Index to search; default: the run's.")
    ] = None,
    model: Model = None,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw queries and neighbours.")
    ] = None,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Find the nearest catalogue items of picture files."""
    summary.quiet_tensorflow()
    from trainer.launch.run_folder import RunFolder
    from trainer.launch.searching import search_images

    rows = search_images(
        RunFolder.open(run), images, k, index_folder=index, model_folder=model, picture=picture
    )
    summary.show_neighbours(rows, plain())
    _write_json(json_file, rows)


@app.command()
@one_line_errors
def serve(
    run: Run,
    index: Annotated[
        str | None, typer.Option(metavar="DIR", help="Index to search; default: the run's.")
    ] = None,
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 8080,
    k: Annotated[int, typer.Option("-k", help="Neighbours where none are asked for.")] = 20,
    most_k: Annotated[int, typer.Option(help="Most neighbours that may be asked for.")] = 100,
    most_bytes: Annotated[int, typer.Option(help="Largest picture file.")] = 10_000_000,
    most_pixels: Annotated[int, typer.Option(help="Most pixels of a picture.")] = 50_000_000,
    batch: Annotated[int, typer.Option(help="Most pictures in the model at once.")] = 32,
    batch_wait: Annotated[
        float, typer.Option(help="Most milliseconds it waits for pictures being decoded.")
    ] = 4.0,
    threads: Annotated[int, typer.Option(help="Pictures decoded at once.")] = 2,
    concurrency: Annotated[int, typer.Option(help="Requests at once; 503 beyond.")] = 128,
    deadline: Annotated[float, typer.Option(help="Most seconds for a request.")] = 30.0,
    rate: Annotated[
        str, typer.Option(help="Searches of a client, such as 20/second;600/minute; none.")
    ] = "20/second",
    writable: Annotated[
        bool, typer.Option("--writable", help="Products may be added and removed.")
    ] = False,
    changes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Keeps them; default: INDEX.changes.sqlite."),
    ] = None,
    api_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keys, one a line; also MILDNET_API_KEY.")
    ] = None,
    write_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Keys for changes; also MILDNET_WRITE_KEY."),
    ] = None,
    allow_url_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Search by URL from there; *.NAME too; repeatable."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Pages from there may use the API; repeatable."),
    ] = None,
    proxy: Annotated[
        str, typer.Option(metavar="ADDRESSES", help="Proxies whose X-Forwarded-For is believed.")
    ] = "",
    drain: Annotated[
        float, typer.Option(help="Seconds to go on after a signal to stop.", min=0)
    ] = 0.0,
    stop_within: Annotated[
        int, typer.Option(help="Most seconds for requests in flight.", min=1)
    ] = 30,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line for each request.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Serve searches over HTTP, and a page to search with, until told to stop."""
    summary.quiet_tensorflow()
    from trainer.launch import serving
    from trainer.launch.run_folder import RunFolder

    options = serving.service_options(
        k=k,
        most_k=most_k,
        most_bytes=most_bytes,
        most_pixels=most_pixels,
        batch=batch,
        batch_wait=batch_wait / 1000,
        threads=threads,
        concurrency=concurrency,
        deadline=deadline,
        rate=None if rate == "none" else rate,
        writable=writable,
        url_hosts=tuple(allow_url_host or ()),
        keys=serving.read_keys(api_key_file, serving.KEY),
        write_keys=serving.read_keys(write_key_file, serving.WRITE_KEY),
        cors_origins=tuple(cors_origin or ()),
        access_log=access_log,
    )
    serving.serve(
        RunFolder.open(run),
        serving.Endpoint(host, port, proxy, drain, stop_within),
        options,
        index_folder=index,
        model_folder=model,
        changes=changes,
    )


@app.command()
@one_line_errors
def rank(
    model: Annotated[
        str, typer.Option(metavar="RUN", help="Run folder, or an exported model's folder.")
    ],
    gallery: Annotated[
        str, typer.Option(metavar="GALLERY.csv", help="Columns img_path, optional product_id.")
    ],
    queries: Annotated[
        str, typer.Option(metavar="QUERIES.csv", help="The same, optional bbox_x, _y, _w, _h.")
    ],
    to: Annotated[Path, typer.Option(metavar="FILE.npy", help="Array to write.")],
    data: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of the pictures; default: the gallery's.")
    ] = "",
    k: Annotated[int, typer.Option("-k", help="Items for each query.", min=1)] = 1000,
    post: Post = "none",
    overrides: PostOptions = None,
    borders: Annotated[
        bool, typer.Option(help="Cut white borders of the gallery's pictures off.")
    ] = True,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Rank a gallery for queries, as the product recognition challenge asks: an array of rows."""
    from trainer.retrieval.rerank.options import method, read_changes

    chosen = method(post, read_changes(overrides or []))
    summary.quiet_tensorflow()
    from trainer.data.files import require_place
    from trainer.launch.ranking import ProductRanker, write_ranks

    require_place(str(to), "ranks.npy")
    if json_file is not None:
        require_place(str(json_file), "ranks.json")
    folder = data or gallery.rpartition("/")[0] or "."
    ranker = ProductRanker(folder, gallery, queries, model=model, k=k, post=chosen, borders=borders)
    found = ranker.rank()
    write_ranks(to, found.rows)
    summary.show_ranks(found, k, plain())
    plain().print(f"ranks in {to}")
    _write_json(json_file, found.to_dict())


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
    _one_of_two(run, embeddings)
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
    _write_json(json_file, found.to_dict())


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
    _write_json(json_file, compare_runs(runs, to, failures=failures, tell=console.print))
    console.print(f"comparison in {to}")


@app.command()
@one_line_errors
def triplets(
    catalogue: Annotated[
        str, typer.Argument(metavar="CATALOGUE", help="An items.csv, or a folder of pictures.")
    ],
    to: Annotated[str, typer.Option(metavar="FILE.csv", help="List to write.")],
    val: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Second list, for validation.")
    ] = None,
    val_share: Annotated[
        float, typer.Option(help="Share of labels, or of unlabelled pictures, for it.")
    ] = 0.1,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Go by likeness; labels are not looked at.")
    ] = False,
    folder_categories: Annotated[
        bool,
        typer.Option("--folder-categories", help="Unlabelled folders are named by category."),
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Comma list of splits; default: train if there is one.")
    ] = None,
    query_domain: Annotated[str, typer.Option(help="Domain of anchors.")] = "",
    gallery_domain: Annotated[str, typer.Option(help="Domain of positives and negatives.")] = "",
    per_anchor: Annotated[int, typer.Option(help="Triplets of each anchor.")] = 2,
    per_label: Annotated[
        int | None, typer.Option(help="At most so many triplets of a label.")
    ] = None,
    in_class_share: Annotated[
        float, typer.Option(help="Share of negatives that are like the anchor.")
    ] = 0.5,
    hard: Annotated[
        bool, typer.Option("--hard", help="In-class negatives from the nearest neighbours.")
    ] = False,
    scorers: Annotated[
        str, typer.Option(help="Comma list of color, texture, shape.")
    ] = "color,texture,shape",
    trunk: Annotated[
        str, typer.Option(metavar="NAME", help="Features of a trunk as one more scorer.")
    ] = "",
    weights: Annotated[
        str, typer.Option(help="Of the trunk: imagenet, none, or a file.")
    ] = "imagenet",
    image_size: Annotated[int, typer.Option(help="Of the trunk, pixels.", min=1)] = 224,
    run: Annotated[
        str, typer.Option(metavar="RUN", help="Model of a finished run as one more scorer.")
    ] = "",
    near: Annotated[int, typer.Option(help="Positives are among so many neighbours...")] = 3,
    agree: Annotated[int, typer.Option(help="... of so many scorers.")] = 2,
    in_class_from: Annotated[
        int, typer.Option(help="In-class negatives come behind so many neighbours...")
    ] = 20,
    in_class_to: Annotated[int, typer.Option(help="... and before this one is passed.")] = 100,
    seed: Annotated[int, typer.Option(help="Another seed draws other triplets.")] = 0,
    picture: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw some of the triplets.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace lists that are there.")
    ] = False,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Write a list of triplets to train on, from labels or from likeness alone."""
    summary.quiet_tensorflow()
    from trainer.launch.triplets import Depths, TripletOptions, make_triplets

    options = TripletOptions(
        unlabelled=unlabelled,
        folder_categories=folder_categories,
        split=split,
        query_domain=query_domain,
        gallery_domain=gallery_domain,
        per_anchor=per_anchor,
        per_label=per_label,
        in_class_share=in_class_share,
        hard=hard,
        scorers=tuple(name.strip() for name in scorers.split(",") if name.strip()),
        trunk=trunk,
        weights=weights,
        image_size=image_size,
        run=run,
        depths=Depths(near=near, agree=agree, low=in_class_from, high=in_class_to),
        val_share=val_share,
        seed=seed,
    )
    made = make_triplets(catalogue, to, options, val=val, picture=picture, overwrite=overwrite)
    summary.show_triplets(made, plain())
    _write_json(json_file, made.to_dict())


@app.command("amazon-reviews")
@one_line_errors
def amazon_reviews(
    model: Annotated[
        str, typer.Option(metavar="RUN", help="Finished run whose exported model compares.")
    ],
    to: Annotated[str, typer.Option(metavar="DIR", help="Folder to make, or to go on with.")],
    reviews: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Reviews of a category, or a pattern; repeatable."),
    ],
    metadata: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Metadata of a category, or a pattern; repeatable."),
    ],
    beam_options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- BEAM OPTIONS]", help="Behind --, such as --runner."),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Least mean similarity; repeatable; default: 0.5 and 0.6, a table each."),
    ] = None,
    least_pictures: Annotated[int, typer.Option(help="Of a product that is kept.")] = 2,
    reduced: Annotated[int, typer.Option(help="Pixels at which pictures are embedded.")] = 256,
    per_host: Annotated[int, typer.Option(help="Connections to a host, of a worker.")] = 4,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second to a host, of a worker.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without an answer.")] = 15.0,
    attempts: Annotated[int, typer.Option(help="At most, for a picture, in a start.")] = 4,
    back_off: Annotated[
        float, typer.Option(help="Seconds between the first two attempts, doubled after.")
    ] = 1.0,
    retry_after: Annotated[
        float, typer.Option(help="Seconds until another start asks again, doubled with each.")
    ] = 600.0,
    threads: Annotated[
        int | None, typer.Option(help="Pictures in flight, of a worker; default: 2 x per host.")
    ] = None,
    snapshot: Annotated[
        int, typer.Option(help="Pictures after which a worker writes what it has.")
    ] = 1000,
    least_side: Annotated[int, typer.Option(help="Pixels of a picture's shorter side.")] = 16,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Go to no other hosts; *.NAME too; repeatable."),
    ] = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Private addresses to go to all the same; repeatable."),
    ] = None,
    user_agent: Annotated[str, typer.Option(help="What to call oneself.")] = "mildnet",
    most_malformed: Annotated[
        float, typer.Option(help="Share of a file's lines that may be malformed.")
    ] = 0.01,
    debug: Debug = False,
) -> None:
    """Make a data set of the Amazon review dump: user pictures that are like their products'.

    An Apache Beam pipeline, on this machine or where Beam's own options say. Given again after a
    stop, it goes on where it was; failures that may pass are tried again once they are due.
    """
    from trainer.launch.amazon_reviews import options as settings
    from trainer.launch.beam.required import require_beam

    require_beam("mildnet amazon-reviews")
    summary.quiet_tensorflow()
    console = plain()
    summary.log_to(console)
    options = settings.ReviewOptions(
        reviews=reviews,
        metadata=metadata,
        model=model,
        to=to,
        thresholds=threshold or (0.5, 0.6),
        least_pictures=least_pictures,
        reduced=reduced,
        most_malformed=most_malformed,
        fetch=settings.FetchSettings(
            options=settings.fetch_options(
                timeout=timeout,
                attempts=attempts,
                back_off=back_off,
                per_host=per_host,
                rate=rate,
                least_side=least_side,
                allow_hosts=None if allow_host is None else tuple(allow_host),
                allow_networks=tuple(allow_network or ()),
                user_agent=user_agent,
            ),
            retry_after=retry_after,
            threads=2 * per_host if threads is None else threads,
            snapshot=snapshot,
        ),
        beam=tuple(beam_options or ()),
    )
    from trainer.launch.amazon_reviews.creating import create
    from trainer.launch.amazon_reviews.showing import show_created

    show_created(create(options, tell=console.print), console)


@data.command("fashion-mnist")
@one_line_errors
def fashion_mnist(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")],
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the IDX files.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most this many pictures of each class and file.", min=1)
    ] = None,
    debug: Debug = False,
) -> None:
    """Make an items data set from Fashion-MNIST, with an open-set and a closed split."""
    summary.quiet_tensorflow()
    from trainer.data.prepare.fashion_mnist import prepare

    prepare(str(to), None if source is None else str(source), limit=limit)
    plain().print(f"data set in {to}")


@data.command("icon-themes")
@one_line_errors
def icon_themes(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder that holds themes; may be given several times."),
    ] = None,
    theme: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Theme to take instead of the usual six; several times."),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.", min=8)] = 64,
    debug: Debug = False,
) -> None:
    """Make an items data set from installed icon themes: one label an icon, one domain a theme."""
    from trainer.data.prepare.icon_themes import prepare

    prepare(str(to), [str(folder) for folder in source or []], themes=theme or (), size=size)
    plain().print(f"data set in {to}")


@convert.command("mildnet-h5")
@one_line_errors
def mildnet_h5(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="weights-improvement-*.h5 or model.h5.")
    ],
    model_id: Annotated[str, typer.Option(metavar="NAME", help="The model that was trained.")],
    to: NewRun,
    overrides: IntoRun = None,
    debug: Debug = False,
) -> None:
    """Make a run of weights that MILDNet's own code saved (tf.keras 1.10, HDF5)."""
    summary.quiet_tensorflow()
    from trainer.launch.converting import convert_mildnet_h5

    convert_mildnet_h5(file, model_id, to, overrides or [])
    plain().print(f"run in {to}")


@convert.command("swinv2")
@one_line_errors
def swinv2(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="model.safetensors, or a .bin or .pth file.")
    ],
    to: NewRun,
    window: Annotated[
        int | None, typer.Option(help="Side of a window in tokens; default: as trained.", min=1)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels; default: as trained.", min=1)
    ] = None,
    overrides: IntoRun = None,
    debug: Debug = False,
) -> None:
    """Make a run of Swin V2 weights of Hugging Face, timm or Microsoft's release."""
    summary.quiet_tensorflow()
    from trainer.launch.converting import convert_swinv2

    convert_swinv2(file, to, window=window, image_size=image_size, overrides=overrides or [])
    plain().print(f"run in {to}")


@convert.command("open-clip")
@one_line_errors
def open_clip(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A .safetensors, .bin, .pt or .pth file.")
    ],
    to: NewRun,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels; default: as trained.", min=1)
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Added to variances; default: as published for its size.")
    ] = None,
    overrides: IntoRun = None,
    debug: Debug = False,
) -> None:
    """Make a run of the ConvNeXt of an OpenCLIP model, or of a ConvNeXt of timm."""
    summary.quiet_tensorflow()
    from trainer.launch.converting import convert_open_clip

    convert_open_clip(file, to, image_size=image_size, epsilon=epsilon, overrides=overrides or [])
    plain().print(f"run in {to}")


def _one_of_two(run: str | None, embeddings: Path | None) -> None:
    if (run is None) == (embeddings is None):
        raise UserError("give a run folder or --embeddings FILE.npz, one of the two")


def _write_json(path: Path | None, values: Any) -> None:
    if path is not None:
        from trainer.data.files import write_json

        write_json(str(path), values)


if __name__ == "__main__":
    main()

"""Commands that run jobs: here, in order, in search of values, on Vertex AI."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

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
from trainer.launch.commands.options import Overrides

app = typer.Typer()


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
    Submission.prepare(job, settings, shape, resume).run(wait=wait, dry_run=dry_run)

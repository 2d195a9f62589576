"""Pick a job config and run it: `python execute.py` asks; with options it does not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from trainer.config import UserError
from trainer.config.console import Debug, Fresh, From, from_run, one_line_errors
from trainer.launch import picker, summary
from trainer.launch.commands.options import Overrides

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@one_line_errors
def execute(
    list_configs: Annotated[
        bool, typer.Option("--list", help="List the job configs and leave.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Run on this machine, without asking where.")
    ] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Run on Vertex AI, without asking where.")
    ] = False,
    shape: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Machines of a remote job; default: its own.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Watch a remote job until it ends.")
    ] = True,
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="The config: a name of --list, or a .cnf file."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Run without asking anything.")] = False,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the effective config and what would run; leave."),
    ] = False,
    fresh: Fresh = False,
    run_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="The run folder; default: made in job_dir.")
    ] = None,
    source: From = None,
    debug: Debug = False,
) -> None:
    """Pick a job config and run it, from training to the product search.

    Without options it asks. `--local --config NAME --yes` runs without a question, and so does
    `--remote --shape one_gpu --config NAME --yes` on Vertex AI, as settings.cfg says.
    """
    console = Console()
    remote = remote or bool(shape)
    here = fresh or run_dir is not None
    _check(local, remote, here=here, wait=wait)
    if list_configs:
        picker.show_choices(picker.find_configs(), console)
        return
    texts = from_run(source) + (overrides or [])
    picked = picker.pick(
        console,
        name=config,
        local=local,
        remote=remote,
        shape=shape,
        overrides=texts,
        sure=yes or dry_run,
    )
    if picked is None:
        console.print("Nothing was run.")
        return
    if picked.shape:
        _check(local, True, here=here, wait=wait)
        from trainer.launch.vertex.settings import VertexSettings
        from trainer.launch.vertex.submitting import Submission

        submission = Submission.prepare(picked.config, VertexSettings.load(), picked.shape)
        submission.run(wait=wait, dry_run=dry_run)
        return
    _check(True, False, here=here, wait=wait)
    from trainer.launch import job  # not needed to list and choose, which should be quick

    if dry_run:
        picker.show_plan(picked.config, job.run_path(picked.config, run_dir), console)
    else:
        summary.run_and_show(picked.config, fresh=fresh, yes=yes, run_dir=run_dir)


def _check(local: bool, remote: bool, *, here: bool, wait: bool) -> None:
    if local and not wait:
        raise UserError("--no-wait is of remote jobs, and this one runs here; leave it out")
    if local and remote:
        raise UserError("--local does not go with --remote or --shape; leave one of them out")
    if remote and here:
        raise UserError(
            "--fresh and --run-dir are of jobs on this machine; a remote job gets a run folder of "
            "its own in the bucket"
        )


if __name__ == "__main__":
    app()

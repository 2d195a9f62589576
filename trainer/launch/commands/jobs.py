"""The commands `mildnet jobs ...`, without Google's clients until one of them runs."""

from __future__ import annotations

import datetime
import enum
import re
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.config.console import Debug, one_line_errors, plain
from trainer.config.errors import UserError
from trainer.launch.commands.options import Json, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.launch.vertex.jobs import Job, JobService

app = typer.Typer(no_args_is_help=True, help="Look after jobs on Vertex AI.")

JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Its name, its number, or its resource name.")
]
Project = Annotated[
    str | None, typer.Option(help="Google Cloud project; default: MILDNET_PROJECT.")
]
Region = Annotated[str | None, typer.Option(help="Where it runs; default: MILDNET_REGION.")]


class State(enum.StrEnum):
    """States to choose from; typer takes no list of literals."""

    QUEUED = "queued"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@app.command("list")
@one_line_errors
def list_jobs(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only names that begin so; default: all.")
    ] = "",
    state: Annotated[
        list[State] | None, typer.Option(help="Only jobs in this state; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Lines, at most.", min=1)] = 20,
    project: Project = None,
    region: Region = None,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """List jobs, the youngest first."""
    from trainer.launch.vertex.showing import show_jobs

    service = _connect(project, region)
    found = service.list(prefix, states=state or ())
    if found:
        show_jobs(found, plain(), limit)
    else:
        plain().print(f"no such jobs in project {service.project}, {service.region}")
    write_json(json_file, [job.to_dict() for job in found])


@app.command()
@one_line_errors
def show(
    name: JobName,
    project: Project = None,
    region: Region = None,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Show a job: its state, machines, run folder, and why it failed."""
    from trainer.launch.vertex.showing import show_job

    service = _connect(project, region, name)
    found = service.find(name)
    show_job(found, service, plain())
    write_json(json_file, found.to_dict())


@app.command()
@one_line_errors
def logs(
    name: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and end as it does.")
    ] = False,
    since: Annotated[
        str, typer.Option(metavar="2h30m", help="Only the lines of so long; default: all.")
    ] = "",
    worker: Annotated[
        str, typer.Option(metavar="NAME", help="Only of this one, such as workerpool0-0.")
    ] = "",
    project: Project = None,
    region: Region = None,
    debug: Debug = False,
) -> None:
    """Print what a job's workers have written, each line with time, worker and severity.

    Ctrl-C ends the printing, and not the job.
    """
    from trainer.launch.vertex.watching import job_logs, watch

    start = _ago(since) if since else None
    service = _connect(project, region, name)
    found = service.find(name)
    console = plain()

    def tell(line: object) -> None:
        console.print(str(line), markup=False, soft_wrap=True)

    if follow:
        watch(service, found.resource, tell, worker=worker, since=start)
    elif not job_logs(service, found, worker=worker, since=start).new(tell):
        tell(f"job {found.name} is {found.state}, and has no such lines in its log")


@app.command()
@one_line_errors
def cancel(
    names: Annotated[
        list[str], typer.Argument(metavar="JOB...", help="Names, numbers, or resource names.")
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Until they have ended.")] = False,
    project: Project = None,
    region: Region = None,
    debug: Debug = False,
) -> None:
    """Stop jobs. `mildnet submit --resume JOB` goes on with such a job from its last checkpoint."""
    console = plain()
    # A name that is wrong stops nothing; a job that has ended is no reason to leave others running.
    asked, refused = [], []
    services = [_connect(project, region, name) for name in names]
    found = [service.find(name) for service, name in zip(services, names, strict=True)]
    for service, job in zip(services, found, strict=True):
        try:
            console.print(f"{job.name}: {service.cancel(job.resource).state}", soft_wrap=True)
            asked.append((job, service))
        except UserError as error:
            refused.append(str(error))
    for job, service in asked if wait else ():
        _wait_for(job, service, console)
    if refused:
        raise UserError("; ".join(refused))


def _wait_for(job: Job, service: JobService, console: Console) -> None:
    service.wait(job.resource, lambda line: console.print(f"{job.name}  {line}", soft_wrap=True))


def _connect(project: str | None, region: str | None, name: str = "") -> JobService:
    from trainer.launch.vertex.jobs import JobService
    from trainer.launch.vertex.settings import project_and_region

    # A resource name says itself where the job is, and so where its log is.
    place = re.match(r"projects/([^/]+)/locations/([^/]+)/", name)
    if place:
        project, region = project or place[1], region or place[2]
    return JobService(*project_and_region({"project": project, "region": region}))


def _ago(text: str) -> datetime.datetime:
    from trainer.launch.vertex.settings import seconds

    try:
        length = datetime.timedelta(seconds=seconds(text))
    except ValueError as error:
        raise UserError(f"--since {text}: {error}") from None
    return datetime.datetime.now(datetime.UTC) - length

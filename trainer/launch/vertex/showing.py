"""How jobs are shown on a terminal."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from trainer.launch.vertex.jobs import Job, JobService, clock_time

COLOURS = {"running": "green", "succeeded": "blue", "failed": "red", "expired": "red"}


def show_jobs(jobs: Sequence[Job], console: Console, limit: int) -> None:
    """Print a line for each job, the youngest first.

    Args:
        jobs: in the order of the lines; at least one.
        console: where.
        limit: lines, at most.
    """
    # Names are long, and somebody copies them: they come last, and whole.
    rows = [(clock_time(job.created), job.state, _took(job), job.name) for job in jobs[:limit]]
    titles = ("made", "state", "ran for", "name")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        made, state, took, name = (f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True))
        if row is titles:
            line = Text(f"{made}  {state}  {took}  {name}".rstrip(), "dim")
        else:
            colour = COLOURS.get(row[1], "")
            line = Text.assemble(f"{made}  ", (state, colour), f"  {took}  {name.rstrip()}")
        console.print(line, soft_wrap=True)
    if len(jobs) > limit:
        console.print(Text(f"and {len(jobs) - limit} older ones (--limit shows more)", "dim"))


def show_job(job: Job, service: JobService, console: Console) -> None:
    """Print what is known of a job."""
    facts = {
        "name": job.name,
        "state": job.state,
        "error": job.error,
        "made": clock_time(job.created),
        "ran for": _took(job),
        "ended": clock_time(job.ended) if job.ended else "",
        "machines": ", ".join(job.machines),
        "run folder": job.output,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "number": job.id,
        "console": service.page(job.resource),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            style = COLOURS.get(value, "") if name == "state" else ""
            line = Text.assemble((f"{name:<{width}}  ", "dim"), (value, style))
            console.print(line, soft_wrap=True)


def _took(job: Job) -> str:
    """Return how long it ran, or has been running, as `1 h 02 min`."""
    if job.started is None:
        return "-"
    seconds = ((job.ended or datetime.datetime.now(datetime.UTC)) - job.started).total_seconds()
    minutes = round(max(0.0, seconds) / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"

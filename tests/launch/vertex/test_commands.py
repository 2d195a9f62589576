"""`mildnet jobs ...` on the local services: what is printed, and how it ends."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest
from typer.testing import CliRunner

from tests.launch.vertex.service import Step, VertexServer, permission
from trainer.launch.commands.jobs import app
from trainer.launch.vertex.jobs import JobService

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(connect: Callable[..., JobService], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """What runs a command on the local services."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.launch.vertex.jobs.JobService", connect)
    monkeypatch.setenv("MILDNET_PROJECT", "my-shop")
    monkeypatch.setenv("MILDNET_REGION", "europe-west4")
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def vertex() -> Any:
    """The services, of a project that could be one."""
    with VertexServer(project="my-shop") as server:
        yield server


def local(minute: int, second: int = 0) -> str:
    """Return a time of the server as this machine's clock shows it."""
    at = datetime.datetime(2026, 3, 1, 9, minute, second, tzinfo=datetime.UTC)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def number(name: str) -> str:
    """Return the number of a job."""
    return name.rpartition("/")[2]


def test_list(vertex: VertexServer, run: Run, tmp_path: Path):
    vertex.add("shop_1", "FAILED")
    vertex.now += datetime.timedelta(minutes=1)
    vertex.add("shop_2", "PENDING")
    running = vertex.jobs[vertex.add("work_1")]
    running.start_time = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=62)
    done = run("list", "--json", "all.json")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"made{' ' * 17}state    ran for     name",
        f"{local(1)}  running  1 h 02 min  work_1",
        f"{local(1)}  pending  -           shop_2",
        f"{local(0)}  failed   -           shop_1",
    ]
    found = json.loads((tmp_path / "all.json").read_text())
    assert [job["name"] for job in found] == ["work_1", "shop_2", "shop_1"]
    assert "shop_1" not in run("list", "--state", "running", "--state", "pending").output
    assert "work_1" not in run("list", "shop").output
    assert run("list", "--limit", "1").output.splitlines()[-1] == (
        "and 2 older ones (--limit shows more)"
    )
    assert run("list", "none").output == "no such jobs in project my-shop, europe-west4\n"
    assert run("list", "--state", "done").exit_code == 2


def test_show(vertex: VertexServer, run: Run, tmp_path: Path):
    labels = {"team": "search", "by": "ada"}
    name = vertex.add(
        "shop_1", "FAILED", labels=labels, output="gs://jobs/shop_1", error="exited with 1"
    )
    done = run("show", "shop_1", "--json", "job.json")
    assert done.exit_code == 0, done.output
    page = (
        f"https://console.cloud.google.com/vertex-ai/locations/europe-west4/training/{number(name)}"
    )
    facts = dict(line.split("  ", 1) for line in done.output.splitlines())
    assert {key: value.strip() for key, value in facts.items()} == {
        "name": "shop_1",
        "state": "failed",
        "error": "exited with 1",
        "made": local(0),
        "ran for": "-",
        "ended": local(0),
        "run folder": "gs://jobs/shop_1",
        "labels": "by=ada, team=search",
        "number": number(name),
        "console": f"{page}?project=my-shop",
    }
    assert json.loads((tmp_path / "job.json").read_text())["error"] == "exited with 1"


def test_logs(vertex: VertexServer, run: Run):
    name = vertex.add("shop_1")
    assert run("logs", "shop_1").output == (
        "job shop_1 is running, and has no such lines in its log\n"
    )
    long = "loss [0.5] " + "x" * 200
    vertex.write(name, long, at=vertex.now.replace(minute=10, second=5))
    vertex.write(name, "help", worker="workerpool1-0", severity="ERROR", at=vertex.now)
    shown = run("logs", "shop_1").output.splitlines()
    # What is no markup stays as it is written, and lines are as long as they are.
    assert f"{local(10, 5)}  workerpool0-0  INFO     {long}" in shown
    assert any(line.endswith("workerpool1-0  ERROR    help") for line in shown)
    assert len(shown) == 2
    shown = run("logs", "shop_1", "--worker", "workerpool1-0").output.splitlines()
    assert [line.split()[-1] for line in shown] == ["help"]
    # The server's clock is at another time than this machine's.
    vertex.write(name, "now", at=datetime.datetime.now(datetime.UTC))
    for since in ("30m", "50s"):
        shown = run("logs", "shop_1", "--since", since).output.splitlines()
        assert [line.split()[-1] for line in shown] == ["now"]


def test_logs_to_the_end(vertex: VertexServer, run: Run):
    vertex.add("shop_1", Step("PENDING"), Step("RUNNING", ["epoch 1"]), Step("SUCCEEDED"))
    done = run("logs", "shop_1", "--follow")
    assert done.exit_code == 0
    last = [line.split()[-1] for line in done.output.splitlines()]
    assert last == ["ready", "running", "1", "succeeded"]
    vertex.add("shop_2", "RUNNING", "RUNNING", "FAILED", error="exited with 1")
    done = run("logs", "shop_2", "-f")
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == "error: job shop_2 failed: exited with 1"


def test_cancel(vertex: VertexServer, run: Run):
    vertex.add("shop_1")
    vertex.add("shop_2", "QUEUED")
    vertex.add("shop_3")
    done = run("cancel", "shop_1", "shop_2")
    assert (done.exit_code, done.output) == (0, "shop_1: cancelling\nshop_2: cancelling\n")
    done = run("cancel", "shop_3", "--wait")
    assert done.exit_code == 0
    assert done.output.splitlines()[-1].endswith("cancelled")
    assert run("cancel", "shop_1").output == "shop_1: cancelled\n"
    vertex.add("shop_4", "SUCCEEDED")
    done = run("cancel", "shop_4")
    told = "error: job shop_4 has ended already: succeeded\n"
    assert (done.exit_code, done.output) == (2, told)


def test_one_that_has_ended_leaves_none_running(vertex: VertexServer, run: Run):
    vertex.add("shop_1", "FAILED")
    vertex.add("shop_2")
    vertex.add("shop_3", "SUCCEEDED")
    vertex.add("shop_4")
    done = run("cancel", "shop_1", "shop_2", "shop_3", "shop_4", "--wait")
    assert done.exit_code == 2
    first, second, *waited, last = done.output.splitlines()
    assert (first, second) == ("shop_2: cancelling", "shop_4: cancelling")
    ended = [line.split()[0] for line in waited if line.endswith("cancelled")]
    assert ended == ["shop_2", "shop_4"]
    assert last == (
        "error: job shop_1 has ended already: failed; job shop_3 has ended already: succeeded"
    )


def test_a_resource_name_says_where_its_job_is(
    vertex: VertexServer, run: Run, monkeypatch: pytest.MonkeyPatch
):
    numbered = vertex.add("shop_1")
    name = numbered.replace(vertex.number, vertex.project)
    vertex.write(numbered, "here")
    monkeypatch.setenv("MILDNET_PROJECT", "other-shop")
    monkeypatch.setenv("MILDNET_REGION", "us-east1")
    for known in (name, numbered):
        assert run("logs", known).output.endswith("  here\n")
    assert f"?project={vertex.project}\n" in run("show", name).output
    assert run("cancel", name).output == "shop_1: cancelling\n"
    assert run("cancel", numbered, "--wait").output.endswith("cancelled\n")
    told = run("show", name, "--region", "us-east1").output
    assert told == f"error: that job is in {vertex.region}: add --region {vertex.region}\n"


def test_a_wrong_name_cancels_nothing(vertex: VertexServer, run: Run):
    vertex.add("shop_1")
    done = run("cancel", "shop_1", "shop_7")
    assert done.exit_code == 2
    assert done.output.startswith("error: no job 'shop_7' in project my-shop, europe-west4")
    assert vertex.requests("CancelCustomJob") == []


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        (["list"], {"MILDNET_PROJECT": ""}, "error: remote jobs need MILDNET_PROJECT: set it in"),
        (["list"], {"MILDNET_REGION": "europe"}, "error: environment variable MILDNET_REGION=euro"),
        (["list", "--region", "europe-west4-a"], {}, "error: --region europe-west4-a: a zone, and"),
        (["logs", "x", "--since", "now"], {}, "error: --since now: not a time; write it like 45m"),
        (["logs", "x", "--since", "999999d"], {}, "error: --since 999999d: longer than a year ("),
        (["show", "x"], {}, "error: no job 'x' in project my-shop, europe-west4: `mildnet jobs"),
    ],
)
def test_mistakes(
    words: list[str],
    variables: dict[str, str],
    told: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    done = run(*words)
    assert done.exit_code == 2
    assert told in done.output
    assert len(done.output.splitlines()) == 1


def test_errors_of_the_service_are_one_line(vertex: VertexServer, run: Run):
    vertex.fail("ListCustomJobs", permission("aiplatform.customJobs.list", "projects/my-shop"))
    done = run("list")
    assert done.exit_code == 2
    assert "ask its owner for the role roles/aiplatform.user" in done.output
    assert len(done.output.splitlines()) == 1


def test_help_needs_no_client():
    code = (
        "import sys, trainer.launch.commands.jobs; from trainer.launch.vertex import jobs, logs, "
        "watching, calls, showing; "
        "sys.exit(any(m in sys.modules for m in ('google.auth', 'grpc', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

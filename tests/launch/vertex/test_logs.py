"""Each line of a job's log is shown once, whenever it came; a log that is shut stops nothing."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.launch.vertex.conftest import QUICK, Clock
from tests.launch.vertex.service import Step, VertexServer, disabled, permission, unavailable
from trainer.config import UserError
from trainer.config.errors import Stopped
from trainer.launch.vertex import watching
from trainer.launch.vertex.calls import NotAnswering, Retries
from trainer.launch.vertex.jobs import JobService
from trainer.launch.vertex.logs import LATE, JobLogs, LogLine
from trainer.launch.vertex.watching import watch

START = datetime.datetime(2026, 3, 1, 9, 0, tzinfo=datetime.UTC)


def after(seconds: float) -> datetime.datetime:
    """Return a time so many seconds after the job was made."""
    return START + datetime.timedelta(seconds=seconds)


def logs_of(vertex: VertexServer, job: str, **options: Any) -> JobLogs:
    """Return the log of a job of the server."""
    options = {"since": START, "retries": QUICK, "channel": vertex.channel(), **options}
    return JobLogs(vertex.project, job.rpartition("/")[2], **options)


def texts(logs: JobLogs) -> list[str]:
    """Return the texts of what is new."""
    found: list[LogLine] = []
    assert logs.new(found.append) == len(found)
    return [line.text for line in found]


class TestReading:
    def test_each_entry_once(self, vertex: VertexServer):
        job, other = vertex.add("shop-1"), vertex.add("shop-2")
        logs = logs_of(vertex, job)
        assert texts(logs) == []
        vertex.write(job, "one", at=after(1))
        vertex.write(other, "not this", at=after(1))
        assert texts(logs) == ["one"]
        assert texts(logs) == []
        vertex.write(job, "two", at=after(2))
        vertex.write(job, "three", at=after(3))
        assert texts(logs) == ["two", "three"]
        assert texts(logs) == []

    def test_many_pages_in_order(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        vertex.page = 3
        for number in range(10):
            vertex.write(job, str(number), at=after(10 - number))
        assert texts(logs_of(vertex, job)) == [str(n) for n in reversed(range(10))]
        assert len(vertex.requests("ListLogEntries")) == 4

    def test_entries_of_one_moment_are_told_apart(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        logs = logs_of(vertex, job)
        for worker in ("workerpool0-0", "workerpool1-0"):
            vertex.write(job, f"{worker} a", worker=worker, at=after(1), insert_id="a")
        assert texts(logs) == ["workerpool0-0 a", "workerpool1-0 a"]
        # The same time, on a page that was read already; the same id, at another time.
        vertex.write(job, "b", at=after(1), insert_id="b")
        vertex.write(job, "a again", at=after(2), insert_id="a")
        assert texts(logs) == ["b", "a again"]

    def test_entries_that_come_late_are_not_missed(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        logs = logs_of(vertex, job)
        vertex.write(job, "early", at=after(0))
        vertex.write(job, "last", at=after(600))
        assert texts(logs) == ["early", "last"]
        vertex.write(job, "late", at=after(600) - LATE)
        vertex.write(job, "too late", at=after(600) - LATE - datetime.timedelta(seconds=1))
        assert texts(logs) == ["late"]
        # What is behind is asked for no more, and no more remembered.
        assert 'timestamp>="2026-03-01T09:08:00' in vertex.requests("ListLogEntries")[-1].filter
        assert len(logs._seen) == 2

    def test_times_finer_than_a_microsecond(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        logs = logs_of(vertex, job)
        entry = vertex.write(job, "one", at=after(1))
        entry.timestamp = type(entry.timestamp).from_rfc3339("2026-03-01T09:10:00.123456789Z")
        assert texts(logs) == ["one"]
        texts(logs)
        assert 'timestamp>="2026-03-01T09:08:00.123456' in vertex.calls[-1][1].filter
        assert texts(logs) == []

    def test_from_a_time_on_and_of_a_worker(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        vertex.write(job, "old", at=after(1))
        vertex.write(job, "new", at=after(60))
        vertex.write(job, "other", at=after(61), worker="workerpool1-2")
        assert texts(logs_of(vertex, job, since=after(30))) == ["new", "other"]
        assert texts(logs_of(vertex, job, worker="workerpool1-2")) == ["other"]

    def test_a_service_that_is_away_loses_and_doubles_nothing(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        vertex.page = 1
        vertex.write(job, "one", at=after(1))
        vertex.write(job, "two", at=after(2))
        logs = logs_of(vertex, job, retries=Retries(first=0.001, longest=0.001, patience=0.01))
        found: list[str] = []

        def each(line: LogLine) -> None:
            found.append(line.text)
            if line.text == "one" and len(found) == 1:
                vertex.fail("ListLogEntries", unavailable(), times=1000)

        with pytest.raises(NotAnswering, match="Cloud Logging does not answer"):
            logs.new(each)
        vertex._failures.clear()
        logs.new(each)
        assert found == ["one", "two"]


class TestLines:
    @pytest.mark.parametrize(
        ("entry", "text"),
        [
            ({"text": "plain\n"}, "plain"),
            ({"payload": {"message": "loss 0.5", "levelname": "INFO"}}, "loss 0.5"),
            ({"payload": {"loss": 0.5, "at": [1, "ä"]}}, '{"at": [1.0, "ä"], "loss": 0.5}'),
            ({"text": "\x1b[31mred\x1b[0m\x07 and\tblue"}, "red and\tblue"),
            ({"text": " 10%\r 50%\r100%\r"}, "100%"),
            ({"text": "Traceback:\r\n  File\r\nError"}, "Traceback:\n  File\nError"),
            ({"text": ""}, ""),
        ],
    )
    def test_texts(self, entry: dict[str, Any], text: str, vertex: VertexServer):
        job = vertex.add("shop-1")
        vertex.write(job, **entry)
        assert texts(logs_of(vertex, job)) == [text]

    def test_time_worker_and_severity(self, vertex: VertexServer):
        job = vertex.add("shop-1")
        vertex.write(job, "no\nmore", at=after(61), worker="workerpool1-2", severity="ERROR")
        vertex.write(job, "made", at=after(62), worker="service", severity="DEFAULT")
        found: list[LogLine] = []
        logs_of(vertex, job).new(found.append)
        local = [after(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") for seconds in (61, 62)]
        assert [str(line) for line in found] == [
            f"{local[0]}  workerpool1-2  ERROR    no\n{' ' * 45}more",
            f"{local[1]}  service                 made",
        ]


class TestWatch:
    SCRIPT = (
        Step("PENDING"),
        Step("RUNNING", ["starts"]),
        Step("RUNNING", ["epoch 1", "epoch 2"]),
        Step("SUCCEEDED", ["model saved"]),
    )

    def watched(self, vertex: VertexServer, service: JobService, **options: Any) -> list[str]:
        """Watch a job of the script, and return what was told, without times."""
        name = vertex.add("shop-1", *self.SCRIPT)
        told: list[str] = []
        watch(service, name, told.append, **options)
        return [line.partition("  ")[2] if line[:2] == "20" else line for line in told]

    def test_states_and_lines_until_the_end(self, vertex: VertexServer, service: JobService):
        line = "workerpool0-0  INFO     "
        assert self.watched(vertex, service) == [
            "pending: machines are being made ready",
            "running",
            f"{line}starts",
            f"{line}epoch 1",
            f"{line}epoch 2",
            "succeeded",
            f"{line}model saved",
        ]

    def test_lines_that_can_be_read_only_after_the_end(
        self, vertex: VertexServer, service: JobService, clock: Clock
    ):
        sleep = clock.sleep

        def late(seconds: float) -> None:
            if seconds == watching.LAST_PAUSE and len(clock.slept) < 5:
                vertex.write(next(iter(vertex.jobs)), f"after {len(clock.slept)}")
            sleep(seconds)

        service.sleep = late
        told = self.watched(vertex, service)
        assert told[-2:] == [f"workerpool0-0  INFO     after {n}" for n in (3, 4)]
        assert clock.slept[-watching.LAST_LOOKS :] == [watching.LAST_PAUSE] * watching.LAST_LOOKS

    def test_a_log_that_never_ends_does(
        self, vertex: VertexServer, service: JobService, clock: Clock
    ):
        sleep = clock.sleep

        def chatter(seconds: float) -> None:
            vertex.write(next(iter(vertex.jobs)), "still here")
            sleep(seconds)

        service.sleep = chatter
        self.watched(vertex, service)
        assert clock.slept.count(watching.LAST_PAUSE) == watching.MOST_LAST_LOOKS

    @pytest.mark.parametrize(
        ("failure", "told"),
        [
            (
                permission("logging.logEntries.list", "logging.googleapis.com/projects/shop"),
                "lack a permission logging.logEntries.list in project shop: ask its owner for the "
                "role roles/logging.viewer",
            ),
            (
                disabled("logging.googleapis.com", "shop"),
                "gcloud services enable logging.googleapis.com --project shop",
            ),
        ],
    )
    def test_a_log_that_may_not_be_read_is_told_once(
        self, failure: Any, told: str, vertex: VertexServer, service: JobService
    ):
        vertex.fail("ListLogEntries", failure, times=100)
        lines = self.watched(vertex, service)
        assert [line.split(":")[0] for line in lines] == [
            "pending",
            "the log cannot be shown, the job goes on",
            "running",
            "succeeded",
        ]
        assert told in lines[1]
        assert len(vertex.requests("ListLogEntries")) == 1

    def test_a_log_that_is_away_for_a_while_comes_back(
        self, vertex: VertexServer, service: JobService
    ):
        service.retries = Retries(first=0.001, longest=0.001, patience=0.005)
        sleep = service.sleep

        def slept(seconds: float) -> None:
            # Back by the time the job is seen to run for the second time.
            if len(vertex.requests("GetCustomJob")) == 2:
                vertex._failures.clear()
            sleep(seconds)

        service.sleep = slept
        vertex.fail("ListLogEntries", unavailable(), times=100_000)
        lines = self.watched(vertex, service)
        assert [line.split(":")[0].split()[-1] for line in lines] == [
            "pending",
            "now",
            "running",
            "starts",
            "1",
            "2",
            "succeeded",
            "saved",
        ]

    def test_a_job_that_fails(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1", "RUNNING", "FAILED", error="exited with status 1")
        with pytest.raises(UserError, match=r"^job shop-1 failed: exited with status 1$"):
            watch(service, name, lambda line: None)

    def test_a_job_that_is_cancelled_meanwhile(self, vertex: VertexServer, service: JobService):
        name = vertex.add("shop-1")
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line.split("  ")[-1])
            if told == ["running"]:
                service.cancel(name)

        with pytest.raises(Stopped, match=r"^job shop-1 was cancelled$") as caught:
            watch(service, name, tell)
        assert caught.value.exit_code == 1
        assert told == ["running", "cancelled"]

    def test_a_job_that_had_ended_before_is_not_waited_for(
        self, vertex: VertexServer, service: JobService, clock: Clock
    ):
        name = vertex.add("shop-1", "SUCCEEDED")
        vertex.write(name, "done")
        told: list[str] = []
        watch(service, name, told.append)
        assert len(told) == 2
        assert clock.slept == []

    def test_ctrl_c_leaves_the_job_alone(
        self, vertex: VertexServer, service: JobService, monkeypatch: pytest.MonkeyPatch
    ):
        name = vertex.add("shop-1")
        monkeypatch.setenv("MILDNET_PROJECT", service.project)
        monkeypatch.setenv("MILDNET_REGION", "us-east1")

        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        service.sleep = interrupted
        with pytest.raises(Stopped) as caught:
            watch(service, name, lambda line: None)
        assert str(caught.value) == (
            "no longer watching; the job goes on: `mildnet jobs logs shop-1 --follow --region "
            "europe-west4` watches it again, `mildnet jobs cancel shop-1 --region europe-west4` "
            "stops it"
        )
        assert caught.value.exit_code == 130
        assert vertex.requests("CancelCustomJob") == []

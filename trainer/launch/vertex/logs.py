"""What the workers of a job write: lines of Cloud Logging, read again and again."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.launch.vertex import calls
from trainer.launch.vertex.calls import CloudService, Retries
from trainer.launch.vertex.jobs import clock_time

CLOUD_LOGGING = CloudService("Cloud Logging", "logging.googleapis.com", "roles/logging.viewer")

#: How much later than its neighbours an entry may come to be readable, without being missed.
LATE = datetime.timedelta(minutes=2)

#: Entries of an answer; the service gives a thousand at most.
PAGE = 1000

#: Colours and movements of a terminal, and whatever else is no text.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class LogLine:
    """An entry of the log.

    Args:
        time: when it was written.
        worker: `workerpool0-0` is the chief; `service` is Vertex AI itself.
        severity: `INFO`, `ERROR`, ...; "" where none was given.
        text: one line, or several.
    """

    time: datetime.datetime
    worker: str
    severity: str
    text: str

    def __str__(self) -> str:
        """Return it as it is shown: time, worker, severity, and lines of text below each other."""
        head = f"{clock_time(self.time)}  {self.worker:<13}  {self.severity:<7}  "
        return head + f"\n{' ' * len(head)}".join(self.text.splitlines() or [""])


class JobLogs:
    """The log of a job, from which each entry is taken once.

    Entries become readable seconds after they were written, and not in their order: those of the
    last two minutes are asked for again each time, and told apart by their log, time and id.

    Args:
        project: id of the Google Cloud project.
        job_id: the number of the job.
        since: time before which nothing is read, such as that at which the job was made.
        worker: only what this one has written; default: all.
        credentials: of `google.auth`; default: those of this machine.
        channel: gRPC channel to use as it is, in tests.
        retries: how often calls are made again where nobody answers.
    """

    def __init__(
        self,
        project: str,
        job_id: str,
        *,
        since: datetime.datetime,
        worker: str = "",
        credentials: Any = None,
        channel: Any = None,
        retries: Retries | None = None,
    ) -> None:
        calls.require_vertex("the log of a job")
        from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
        from google.cloud.logging_v2.services.logging_service_v2.transports import (
            LoggingServiceV2GrpcTransport,
        )

        self.project, self.job_id, self.worker = project, job_id, worker
        self.retries = retries or Retries()
        self._start = self._newest = since
        self._seen: dict[tuple[str, Any, str], Any] = {}
        self._client = calls.client(
            LoggingServiceV2Client,
            LoggingServiceV2GrpcTransport,
            CLOUD_LOGGING.api,
            credentials,
            channel,
        )

    def new(self, each: Callable[[LogLine], object]) -> int:
        """Hand on every entry that was not handed on before, and return how many there were.

        Args:
            each: called with one after the other, oldest first.

        Raises:
            NotAnswering: the service was away all the time; what was handed on stays so.
            UserError: the log may not be read.
        """
        from google.logging.type.log_severity_pb2 import LogSeverity

        count, token = 0, ""
        chosen = {"resource.type": "ml_job", "resource.labels.job_id": self.job_id}
        if self.worker:
            chosen["resource.labels.task_name"] = self.worker
        terms = [f"{name}={json.dumps(value)}" for name, value in chosen.items()]
        terms.append(f'timestamp>="{_rfc3339(self._start)}"')
        while True:
            request = {
                "resource_names": [f"projects/{self.project}"],
                "filter": " AND ".join(terms),
                "order_by": "timestamp asc",
                "page_size": PAGE,
                "page_token": token,
            }
            answer = calls.call(
                self._client.list_log_entries,
                request,
                retries=self.retries,
                service=CLOUD_LOGGING,
                project=self.project,
            )
            page = next(answer.pages)
            for entry in page.entries:
                key = (entry.log_name, entry.timestamp, entry.insert_id)
                if key in self._seen:
                    continue
                self._seen[key] = entry.timestamp
                self._newest = max(self._newest, entry.timestamp)
                severity = LogSeverity.Name(entry.severity) if entry.severity else ""
                worker = entry.resource.labels.get("task_name", "")
                each(LogLine(entry.timestamp, worker, severity, _text(entry)))
                count += 1
            token = page.next_page_token
            if not token:
                break
        self._start = max(self._start, self._newest - LATE)
        self._seen = {key: at for key, at in self._seen.items() if at >= self._start}
        return count


def _rfc3339(at: datetime.datetime) -> str:
    # Times of the service are finer than a microsecond, and know how to say so.
    if hasattr(at, "rfc3339"):
        return str(at.rfc3339())
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _text(entry: Any) -> str:
    """Return the text of an entry: its message, or else all that it holds."""
    from google.protobuf.json_format import MessageToDict

    message = type(entry).pb(entry)
    payload = message.WhichOneof("payload")
    if payload == "json_payload":
        values = MessageToDict(message.json_payload)
        text = values.get("message")
        if not isinstance(text, str):
            text = json.dumps(values, ensure_ascii=False, sort_keys=True)
    elif payload == "proto_payload":
        text = message.proto_payload.type_url
    else:
        text = message.text_payload
    # A progress bar writes over itself: its last state is what somebody would have seen.
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip().split("\n"))
    return "\n".join(_CONTROL.sub("", line) for line in lines)

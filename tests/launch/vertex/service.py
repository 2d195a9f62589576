"""Vertex AI's job service and Cloud Logging on this machine, spoken in the clients' own messages.

    with VertexServer() as vertex:
        vertex.script = [Step("PENDING"), Step("RUNNING", ["epoch 1"]), Step("SUCCEEDED")]
        vertex.fail("CreateCustomJob", quota("custom_model_training_nvidia_l4_gpus"))
        service = JobService("shop", "europe-west4", channel=vertex.channel())
        ...
        vertex.request("CreateCustomJob").custom_job  # what came

One server answers for both services, so that one channel serves both clients.
"""

from __future__ import annotations

import datetime
import itertools
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.api.monitored_resource_pb2 import MonitoredResource
from google.auth.transport.grpc import AuthMetadataPlugin
from google.cloud.aiplatform_v1.types import CustomJob, JobState, job_service
from google.cloud.logging_v2.types import (
    ListLogEntriesRequest,
    ListLogEntriesResponse,
    LogEntry,
)
from google.logging.type import log_severity_pb2
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.launch.vertex.validating import violations

#: States that a job does not leave.
ENDED = {
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLED,
    JobState.JOB_STATE_EXPIRED,
    JobState.JOB_STATE_PARTIALLY_SUCCEEDED,
}

JOBS = "google.cloud.aiplatform.v1.JobService"
LOGS = "google.logging.v2.LoggingServiceV2"


@dataclass(frozen=True)
class Step:
    """A state that a job comes to, and what its workers have written by then.

    Args:
        state: `PENDING`, `RUNNING`, ...: a name of `JobState` without `JOB_STATE_`.
        lines: texts, or whole `LogEntry` messages.
        error: message of a job that failed.
    """

    state: str
    lines: Sequence[str | LogEntry] = ()
    error: str = ""


@dataclass(frozen=True)
class Failure:
    """An answer that is an error, as the services give it."""

    code: grpc.StatusCode
    message: str
    details: Sequence[Any] = ()
    after: bool = False  #: the work is done first: only the answer is lost
    seconds: float = 0.0  #: the work is done first, and its answer comes after so long

    def status(self) -> Any:
        """Return what gRPC sends."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        return rpc_status.to_status(status)


def unavailable() -> Failure:
    """The service is away for a moment."""
    return Failure(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")


def lost() -> Failure:
    """The work was done, and the connection ended before the answer came."""
    return Failure(grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer", after=True)


def slow(seconds: float) -> Failure:
    """The work was done, and its answer takes so many seconds."""
    return Failure(grpc.StatusCode.OK, "", seconds=seconds)


def quota(metric: str) -> Failure:
    """A quota of machines or accelerators is used up."""
    return Failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"The following quota metrics exceed quota limits: aiplatform.googleapis.com/{metric}",
    )


def denied(reason: str, message: str, **facts: str) -> Failure:
    """The account may not do this, for a reason that Google's services name so."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com", metadata=facts)
    return Failure(grpc.StatusCode.PERMISSION_DENIED, message, [info])


def permission(name: str, resource: str) -> Failure:
    """The account has no role with this permission."""
    message = f"Permission '{name}' denied on resource '//{resource}' (or it may not exist)."
    return denied("IAM_PERMISSION_DENIED", message, permission=name, resource=resource)


def disabled(api: str, project: str) -> Failure:
    """The API is not enabled in the project."""
    message = f"{api} has not been used in project {project} before or it is disabled."
    return denied("SERVICE_DISABLED", message, service=api, consumer=f"projects/{project}")


def invalid(fields: Iterable[tuple[str, str]]) -> Failure:
    """Fields of the request are not as they should be."""
    detail = error_details_pb2.BadRequest()
    for name, description in fields:
        detail.field_violations.add(field=name, description=description)
    message = "List of found errors:" + "".join(
        f"\t{number}.Field: {violation.field}; Message: {violation.description}"
        for number, violation in enumerate(detail.field_violations, start=1)
    )
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, message, [detail])


class _Refused(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass
class _Job:
    message: CustomJob
    steps: list[Step]
    asked: int = 0


@dataclass
class VertexServer:
    """Both services, while its `with` block runs, on a port of 127.0.0.1 that was free.

    Each `GetCustomJob` after the first brings a job to the next step of its script, so a test
    says what happens and no clock does. Times are the server's own, a minute for each request.

    Attributes:
        script: what becomes of jobs that are made from now on.
        page: most jobs, or log entries, in an answer.
        jobs: the jobs by resource name, in the order in which they came.
        entries: all log entries, in the order in which they came.
        calls: method and request of each call, in their order.
        metadata: what each call came with besides: user agent, routing.
    """

    project: str = "shop"
    region: str = "europe-west4"
    number: str = "1234567890"  #: of the project; the service names jobs by it
    script: list[Step] = field(
        default_factory=lambda: [Step("PENDING"), Step("RUNNING"), Step("SUCCEEDED")]
    )
    page: int = 100
    jobs: dict[str, CustomJob] = field(default_factory=dict)
    entries: list[LogEntry] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    now: datetime.datetime = datetime.datetime(2026, 3, 1, 9, 0, tzinfo=datetime.UTC)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._states: dict[str, _Job] = {}
        self._ids = itertools.count(4_200_000_000_000_000_001)
        self._inserts = itertools.count(1)
        self._failures: dict[str, deque[Failure]] = defaultdict(deque)
        self._channels: list[grpc.Channel] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            (
                self._handlers(
                    JOBS,
                    CreateCustomJob=(job_service.CreateCustomJobRequest, CustomJob, self._create),
                    GetCustomJob=(job_service.GetCustomJobRequest, CustomJob, self._get),
                    ListCustomJobs=(
                        job_service.ListCustomJobsRequest,
                        job_service.ListCustomJobsResponse,
                        self._list,
                    ),
                    CancelCustomJob=(job_service.CancelCustomJobRequest, Empty, self._cancel),
                ),
                self._handlers(
                    LOGS,
                    ListLogEntries=(ListLogEntriesRequest, ListLogEntriesResponse, self._entries),
                ),
            )
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        # Clients send tokens only where nobody else can read them: this port takes those of this
        # machine.
        self._token_port = self._server.add_secure_port(
            "127.0.0.1:0", grpc.local_server_credentials()
        )

    def __enter__(self) -> VertexServer:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._stopped.set()
        for channel in self._channels:
            channel.close()
        self._server.stop(0).wait()

    def channel(self, credentials: Any = None) -> grpc.Channel:
        """Return a new channel to this server, which ends with it.

        Args:
            credentials: of `google.auth`, whose token each call brings; default: none.
        """
        # A proxy of this machine has no business between two of its own ports.
        options = [("grpc.enable_http_proxy", 0)]
        if credentials is None:
            channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options)
        else:
            token = grpc.metadata_call_credentials(AuthMetadataPlugin(credentials, None))
            both = grpc.composite_channel_credentials(grpc.local_channel_credentials(), token)
            channel = grpc.secure_channel(f"127.0.0.1:{self._token_port}", both, options)
        self._channels.append(channel)
        return channel

    @property
    def parent(self) -> str:
        """Place of the jobs, as clients name it."""
        return f"projects/{self.project}/locations/{self.region}"

    def fail(self, method: str, failure: Failure, times: int = 1) -> None:
        """Answer the next calls of a method with a failure."""
        self._failures[method].extend([failure] * times)

    def requests(self, method: str) -> list[Any]:
        """Return what came for a method, in its order."""
        return [request for name, request in self.calls if name == method]

    def request(self, method: str) -> Any:
        """Return the only request that came for a method."""
        (request,) = self.requests(method)
        return request

    def add(
        self,
        display_name: str,
        *states: str | Step,
        labels: dict[str, str] | None = None,
        output: str = "",
        error: str = "",
    ) -> str:
        """Put a job there that comes to these states, and return its resource name.

        Args:
            display_name: of the job.
            states: the first is its state now; default: it runs, and goes on running.
            labels: of the job.
            output: its gs:// folder.
            error: why it failed, with its last state.
        """
        message = CustomJob(display_name=display_name, labels=labels or {})
        message.job_spec.base_output_directory.output_uri_prefix = output
        chosen = states or ("RUNNING",)
        steps = [step if isinstance(step, Step) else Step(step) for step in chosen]
        if error:
            steps[-1] = replace(steps[-1], error=error)
        with self._lock:
            return self._make(message, steps).name

    def write(
        self,
        job: str,
        text: str = "",
        *,
        worker: str = "workerpool0-0",
        severity: str = "INFO",
        at: datetime.datetime | None = None,
        insert_id: str = "",
        payload: dict[str, Any] | None = None,
    ) -> LogEntry:
        """Add an entry to the log of a job, and return it.

        Args:
            job: its resource name.
            text: as text; Vertex AI itself writes a `payload` with `message`.
            worker: the task that wrote it.
            severity: a name of Cloud Logging's.
            at: when it was written; default: now. It can be read from now on in any case.
            insert_id: default: one of its own.
            payload: a structure instead of a text.
        """
        number = next(self._inserts)
        entry = LogEntry(
            log_name=f"projects/{self.project}/logs/{worker}",
            resource=MonitoredResource(
                type="ml_job",
                labels={
                    "job_id": job.rpartition("/")[2],
                    "project_id": self.project,
                    "task_name": worker,
                },
            ),
            timestamp=at or self.now + datetime.timedelta(milliseconds=number % 1000),
            insert_id=insert_id or f"insert{number:06}",
            severity=log_severity_pb2.LogSeverity.Value(severity),
        )
        if payload is None:
            entry.text_payload = text
        else:
            entry.json_payload = payload
        self.entries.append(entry)
        return entry

    def _handlers(
        self, service: str, **methods: tuple[type, type, Callable[[Any], Any]]
    ) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            service, {name: self._handler(name, *method) for name, method in methods.items()}
        )

    def _handler(
        self, method: str, request: Any, response: Any, work: Callable[[Any], Any]
    ) -> grpc.RpcMethodHandler:
        def answer(message: Any, context: grpc.ServicerContext) -> Any:
            with self._lock:
                self.calls.append((method, message))
                self.metadata.append(dict(context.invocation_metadata()))
                self.now += datetime.timedelta(minutes=1)
                waiting = self._failures[method]
                failure = waiting.popleft() if waiting else None
                try:
                    if failure is not None and not (failure.after or failure.seconds):
                        raise _Refused(failure)
                    found = work(message)
                except _Refused as refused:
                    context.abort_with_status(refused.failure.status())
            if failure is not None:
                self._stopped.wait(failure.seconds)
                if failure.code is not grpc.StatusCode.OK:
                    context.abort_with_status(failure.status())
            return found

        serialize = Empty.SerializeToString if response is Empty else response.serialize
        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.deserialize, response_serializer=serialize
        )

    def _make(self, message: CustomJob, steps: list[Step]) -> CustomJob:
        made = CustomJob(message)
        parent = f"projects/{self.number}/locations/{self.region}"
        made.name = f"{parent}/customJobs/{next(self._ids)}"
        made.create_time = self.now
        self.jobs[made.name] = made
        self._states[made.name] = _Job(made, steps)
        self._enter(self._states[made.name])
        return made

    def _enter(self, job: _Job) -> None:
        step, message = job.steps[0], job.message
        message.state = JobState[f"JOB_STATE_{step.state}"]
        message.update_time = self.now
        if message.state == JobState.JOB_STATE_RUNNING and not message.start_time:
            message.start_time = self.now
        if message.state in ENDED:
            message.end_time = self.now
        if step.error:
            message.error = status_pb2.Status(code=3, message=step.error)
        for line in step.lines:
            if isinstance(line, str):
                self.write(message.name, payload={"message": line, "levelname": "INFO"})
            else:
                self.entries.append(line)

    def _create(self, request: job_service.CreateCustomJobRequest) -> CustomJob:
        if request.parent != self.parent:
            raise _Refused(invalid([("parent", f"expected {self.parent}, got {request.parent}")]))
        found = violations(request.custom_job)
        if found:
            raise _Refused(invalid(found))
        return CustomJob(self._make(request.custom_job, list(self.script)))

    def _named(self, name: str) -> _Job:
        found = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/customJobs/(\d+)", name)
        if found is None:
            raise _Refused(invalid([("name", f"not the name of a custom job: {name}")]))
        project, region, number = found.groups()
        key = f"projects/{self.number}/locations/{region}/customJobs/{number}"
        if project not in (self.project, self.number) or key not in self._states:
            message = f"The CustomJob does not exist: {name}"
            raise _Refused(Failure(grpc.StatusCode.NOT_FOUND, message))
        return self._states[key]

    def _get(self, request: job_service.GetCustomJobRequest) -> CustomJob:
        job = self._named(request.name)
        job.asked += 1
        if job.asked > 1 and len(job.steps) > 1:
            job.steps.pop(0)
            self._enter(job)
        return CustomJob(job.message)

    def _list(
        self, request: job_service.ListCustomJobsRequest
    ) -> job_service.ListCustomJobsResponse:
        if request.parent != self.parent:
            raise _Refused(invalid([("parent", f"expected {self.parent}, got {request.parent}")]))
        # The service gives the newest first.
        chosen = [job for job in reversed(self.jobs.values()) if _matches(request.filter, job)]
        start = int(request.page_token or 0)
        end = start + min(self.page, request.page_size or self.page)
        return job_service.ListCustomJobsResponse(
            custom_jobs=chosen[start:end], next_page_token=str(end) if end < len(chosen) else ""
        )

    def _cancel(self, request: job_service.CancelCustomJobRequest) -> Empty:
        job = self._named(request.name)
        if job.message.state in ENDED | {JobState.JOB_STATE_CANCELLING}:
            state = JobState(job.message.state).name
            message = f"The job is in state {state} and cannot be cancelled."
            raise _Refused(Failure(grpc.StatusCode.FAILED_PRECONDITION, message))
        job.steps, job.asked = [Step("CANCELLING"), Step("CANCELLED")], 0
        self._enter(job)
        return Empty()

    def _entries(self, request: ListLogEntriesRequest) -> ListLogEntriesResponse:
        # The service translates the number of a project to its id.
        (asked,) = request.resource_names
        if asked not in (f"projects/{self.project}", f"projects/{self.number}"):
            raise _Refused(invalid([("resource_names", f"got {list(request.resource_names)}")]))
        if not 0 <= request.page_size <= 1000:
            raise _Refused(invalid([("page_size", f"got {request.page_size}")]))
        chosen = sorted(
            (entry for entry in self.entries if _selected(request.filter, entry)),
            key=lambda entry: (entry.timestamp, entry.insert_id),
        )
        start = int(request.page_token or 0)
        end = start + min(self.page, request.page_size or 50)
        return ListLogEntriesResponse(
            entries=chosen[start:end], next_page_token=str(end) if end < len(chosen) else ""
        )


def _terms(text: str) -> list[tuple[str, str, str]]:
    """Return field, comparison and value of the comparisons that a filter joins by AND."""
    terms = []
    for part in text.split(" AND ") if text else ():
        found = re.fullmatch(r'\s*([\w.]+)\s*(=|!=|>=|>|:)\s*"((?:[^"\\]|\\.)*)"\s*', part)
        if found is None:
            raise _Refused(invalid([("filter", f"cannot be read: {part}")]))
        name, comparison, value = found.groups()
        terms.append((name, comparison, re.sub(r"\\(.)", r"\1", value)))
    return terms


def _matches(text: str, job: CustomJob) -> bool:
    fields = {"display_name": job.display_name, "state": JobState(job.state).name}
    for name, comparison, value in _terms(text):
        if name not in fields:
            raise _Refused(invalid([("filter", f"no field {name}")]))
        own = fields[name]
        if comparison == ":":
            # The service's wildcard takes no notice of case.
            pattern = ".*".join(map(re.escape, value.split("*")))
            if re.fullmatch(pattern, own, re.IGNORECASE) is None:
                return False
        elif (own == value) != (comparison == "="):
            return False
    return True


def _selected(text: str, entry: LogEntry) -> bool:
    fields = {
        "resource.type": entry.resource.type,
        "severity": log_severity_pb2.LogSeverity.Name(entry.severity),
    }
    fields |= {f"resource.labels.{key}": value for key, value in entry.resource.labels.items()}
    for name, comparison, value in _terms(text):
        if name == "timestamp" and comparison == ">=":
            # Nanoseconds are more than `fromisoformat` reads.
            start = type(entry.timestamp).from_rfc3339(value)
            if entry.timestamp < start:
                return False
        elif comparison != "=":
            raise _Refused(invalid([("filter", f"{name}{comparison}")]))
        elif fields.get(name) != value:
            return False
    return True

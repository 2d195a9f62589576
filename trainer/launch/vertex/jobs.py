"""Custom jobs of Vertex AI: make, find, list, cancel them, and wait for them."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.config.errors import UserError
from trainer.launch.vertex import calls
from trainer.launch.vertex.calls import CloudService, NotAnswering, Retries
from trainer.launch.vertex.settings import place_options

VERTEX_AI = CloudService("Vertex AI", "aiplatform.googleapis.com", "roles/aiplatform.user")

#: States that a job does not leave.
ENDED = frozenset({"succeeded", "failed", "cancelled", "expired", "partially succeeded"})

#: What a state says to somebody who meets it for the first time.
MEANING = {
    "queued": "it waits for its turn",
    "pending": "machines are being made ready",
    "cancelling": "it is asked to stop",
    "paused": "it was stopped and can be resumed",
}

#: Jobs of an answer; the service gives a hundred at most.
PAGE = 100

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """A custom job as the service told of it."""

    resource: str  #: `projects/NUMBER/locations/REGION/customJobs/ID`
    name: str  #: display name
    state: str  #: `pending`, `running`, `succeeded`, ...
    created: datetime.datetime
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    updated: datetime.datetime | None = None
    error: str = ""
    output: str = ""  #: gs:// folder
    machines: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, message: Any) -> Job:
        """Return what a `CustomJob` message says."""
        from google.cloud.aiplatform_v1.types import JobState

        state = JobState(message.state).name.removeprefix("JOB_STATE_")
        spec = message.job_spec
        return cls(
            resource=message.name,
            name=message.display_name,
            state=state.lower().replace("_", " "),
            created=message.create_time,
            started=message.start_time or None,
            ended=message.end_time or None,
            updated=message.update_time or None,
            error=" ".join(message.error.message.split()) if "error" in message else "",
            output=spec.base_output_directory.output_uri_prefix,
            machines=tuple(_machine(pool) for pool in spec.worker_pool_specs if pool.replica_count),
            labels=dict(message.labels),
        )

    @property
    def id(self) -> str:
        """The number by which the service knows it."""
        return self.resource.rpartition("/")[2]

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in ENDED

    @property
    def since(self) -> datetime.datetime:
        """When it came to its state."""
        if self.over:
            return self.ended or self.updated or self.created
        if self.state == "running":
            # A job that was interrupted starts again, and keeps the time of its first start.
            return max(self.started or self.created, self.updated or self.created)
        return self.updated or self.created

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        times = {"created": self.created, "started": self.started, "ended": self.ended}
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            **{key: None if at is None else at.isoformat() for key, at in times.items()},
            "error": self.error,
            "output": self.output,
            "machines": list(self.machines),
            "labels": dict(self.labels),
            "resource": self.resource,
        }


# A class with a method `list` cannot name the type.
Jobs = list[Job]
Names = list[str]


@dataclass(frozen=True)
class Pace:
    """How often a job that goes on is looked at.

    Args:
        first: seconds until the second look, and after each change.
        longest: seconds between two looks, at most, while nothing happens.
        growth: how much longer each interval is than the one before.
        silence: seconds without an answer of the service after which nobody waits any longer.
    """

    first: float = 10.0
    longest: float = 30.0
    growth: float = 1.5
    silence: float = 3600.0


class JobService:
    """The custom jobs of a project in a region.

    Args:
        project: id of the Google Cloud project.
        region: such as `europe-west4`.
        credentials: of `google.auth`; default: those of this machine.
        channel: gRPC channel to use as it is, without credentials, in tests.
        retries: how often calls are made again where nobody answers.
        sleep: what waits so many seconds.
        clock: what tells the seconds.

    Raises:
        UserError: the extra `vertex` is not installed, or there are no credentials.
    """

    def __init__(
        self,
        project: str,
        region: str,
        *,
        credentials: Any = None,
        channel: Any = None,
        retries: Retries | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        calls.require_vertex("a job on Vertex AI")
        from google.cloud.aiplatform_v1.services.job_service import JobServiceClient
        from google.cloud.aiplatform_v1.services.job_service.transports import (
            JobServiceGrpcTransport,
        )

        self.project, self.region = project, region
        if channel is None:
            credentials = credentials or calls.default_credentials()
        self.credentials, self.channel = credentials, channel
        self.retries = retries or Retries()
        self.sleep, self.clock = sleep, clock
        host = f"{region}-aiplatform.googleapis.com"
        self._client = calls.client(
            JobServiceClient, JobServiceGrpcTransport, host, credentials, channel
        )

    @property
    def parent(self) -> str:
        """Where the jobs are, as the service calls it."""
        return f"projects/{self.project}/locations/{self.region}"

    def page(self, name: str) -> str:
        """Return the address of a job's page in Google's console.

        Args:
            name: its resource name.
        """
        return (
            f"https://console.cloud.google.com/vertex-ai/locations/{self.region}/training/"
            f"{name.rpartition('/')[2]}?project={self.project}"
        )

    def command(self, words: str) -> str:
        """Return a command to type: `mildnet jobs ...`, which looks at the jobs that this does.

        Args:
            words: what it is to do, such as `cancel shop_1`.
        """
        return f"mildnet jobs {words}{place_options(self.project, self.region)}"

    def create(self, message: Any) -> str:
        """Have a job made and started, once, and return its resource name.

        Where an answer does not come, the job may have been made all the same: before it is asked
        for again, a job of that name with the same output folder that was not there before is
        looked for. Should two have come of it, the younger one is cancelled.

        Args:
            message: a `CustomJob`.

        Raises:
            NotAnswering: the service was away all the time, or it is not known what it did.
            UserError: it refuses the job, by its quotas, permissions or rules.
        """
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        before = {job.resource for job in self._like(message)}
        unanswered = False

        def made() -> Job | None:
            found = [job for job in self._like(message) if job.resource not in before]
            return min(found, key=_age, default=None)

        def attempt() -> str:
            nonlocal unanswered
            if unanswered and (earlier := made()) is not None:
                return earlier.resource
            try:
                request = {"parent": self.parent, "custom_job": message}
                timeout = self.retries.timeout
                return self._client.create_custom_job(request, retry=None, timeout=timeout).name
            except GoogleAPIError as error:
                unanswered = unanswered or calls.transient(error)
                raise

        try:
            name = self.retries.policy(calls.transient)(attempt)()
        except (GoogleAPIError, GoogleAuthError, NotAnswering) as error:
            known = isinstance(error, NotAnswering)
            told = error if known else calls.explained(error, VERTEX_AI, self.project)
            if not unanswered:
                raise told from error
            # Even a quota may be used up by the very job whose answer was lost.
            if (found := self._quietly(made)) is not None:
                return found.resource
            raise type(told)(
                f"{told}; it is not known whether job {message.display_name} was made: "
                f"`{self.command(f'list {message.display_name}')}` shows it"
            ) from error
        first = self._quietly(made) if unanswered else None
        if first is not None and first.resource != name:
            self.cancel(name)
            return first.resource
        return name

    def get(self, name: str) -> Job:
        """Return a job as it is now.

        Args:
            name: its resource name.

        Raises:
            UserError: there is none, or the service does not answer.
        """
        return Job.of(self._call(self._client.get_custom_job, {"name": name}))

    def find(self, text: str) -> Job:
        """Return the job that a text stands for.

        Args:
            text: display name, number or resource name.

        Raises:
            UserError: no job has that name, or more than one.
        """
        if "/" in text:
            place = re.fullmatch(r"projects/[^/]+/locations/([^/]+)/customJobs/\d+", text)
            if place is None:
                raise UserError(
                    f"{text!r} is not the name of a job: give its display name, its number, or "
                    "projects/PROJECT/locations/REGION/customJobs/NUMBER"
                )
            if place[1] != self.region:
                raise UserError(f"that job is in {place[1]}: add --region {place[1]}")
            return self.get(text)
        if text.isdecimal():
            return self.get(f"{self.parent}/customJobs/{text}")
        found = self._list(f"display_name={_quoted(text)}")
        if not found:
            raise UserError(
                f"no job {text!r} in project {self.project}, {self.region}: "
                f"`{self.command('list')}` shows what is there"
            )
        if len(found) > 1:
            which = ", ".join(f"{job.id} ({job.state})" for job in found)
            raise UserError(
                f"{len(found)} jobs are called {text!r}: give the number of one: {which}"
            )
        return found[0]

    def list(self, prefix: str = "", *, states: Iterable[str] = ()) -> Jobs:
        """Return the jobs whose display names begin with a prefix, the youngest first.

        Args:
            prefix: default: all.
            states: only jobs in one of these; default: in any.
        """
        found = self._list(f"display_name:{_quoted(prefix + '*')}" if prefix else "")
        wanted = set(states)
        # The service takes no notice of capitals.
        return [
            job
            for job in found
            if job.name.startswith(prefix) and (not wanted or job.state in wanted)
        ]

    def names(self, prefix: str) -> Names:
        """Return the display names of all jobs that begin with a prefix, each once, sorted."""
        return sorted({job.name for job in self.list(prefix)})

    def writing_to(self, folder: str) -> Jobs:
        """Return the jobs that are not over and have this output folder, the oldest first."""
        return [
            job
            for job in reversed(self.list())
            if job.output.rstrip("/") == folder.rstrip("/") and not job.over
        ]

    def cancel(self, name: str) -> Job:
        """Ask a job to stop, and return it as it is then: it takes some minutes to end.

        Args:
            name: its resource name.

        Raises:
            UserError: it has ended already, or the service refuses.
        """
        try:
            self._call(self._client.cancel_custom_job, {"name": name})
        except UserError:
            # The answer to a first attempt may be what was lost.
            job = self.get(name)
            if job.state not in ("cancelling", "cancelled"):
                if job.over:
                    raise UserError(f"job {job.name} has ended already: {job.state}") from None
                raise
            return job
        return self.get(name)

    def wait(
        self,
        name: str,
        tell: Tell,
        *,
        pace: Pace | None = None,
        meanwhile: Callable[[Job | None], bool] | None = None,
    ) -> Job:
        """Look at a job until it has ended, tell what becomes of it, and return it.

        A service that does not answer for a while changes nothing: the job goes on, and so does
        the waiting.

        Args:
            name: its resource name.
            tell: gets a line for each new state.
            pace: how often it is looked at.
            meanwhile: called after each look with the job, or None where the service did not
                answer; returns whether something happened, so that the next look should be soon.

        Raises:
            NotAnswering: the service was silent for too long.
            UserError: there is no such job any more, or it may not be looked at.
        """
        pace = pace or Pace()
        state, interval = "", pace.first
        silent_since: float | None = None
        while True:
            asked, job, happened = self.clock(), None, False
            try:
                job = self.get(name)
            except NotAnswering as error:
                if silent_since is None:
                    silent_since = asked
                    tell(f"{VERTEX_AI.name} does not answer; the job goes on, and so does this")
                elif self.clock() - silent_since > pace.silence:
                    raise NotAnswering(
                        f"{error}; the job goes on: `mildnet jobs logs {name} --follow` waits again"
                    ) from error
            else:
                if silent_since is not None:
                    tell(f"{VERTEX_AI.name} answers again")
                    silent_since = None
                if job.state != state:
                    state, happened = job.state, True
                    tell(state_line(job))
            if meanwhile is not None:
                happened = meanwhile(job) or happened
            if job is not None and job.over:
                return job
            interval = pace.first if happened else min(interval * pace.growth, pace.longest)
            self.sleep(interval)

    @staticmethod
    def _quietly(look: Callable[[], Job | None]) -> Job | None:
        # What is known already is worth more than why no more of it can be.
        try:
            return look()
        except UserError:
            return None

    def _call(self, method: Callable[..., Any], request: Mapping[str, Any]) -> Any:
        return calls.call(
            method, request, retries=self.retries, service=VERTEX_AI, project=self.project
        )

    def _list(self, chosen: str) -> Jobs:
        found, token = [], ""
        while True:
            request = {
                "parent": self.parent,
                "filter": chosen,
                "page_size": PAGE,
                "page_token": token,
            }
            # The client's pager would ask for further pages without our patience.
            answer = next(self._call(self._client.list_custom_jobs, request).pages)
            found += [Job.of(message) for message in answer.custom_jobs]
            token = answer.next_page_token
            if not token:
                return sorted(found, key=_age, reverse=True)

    def _like(self, message: Any) -> Jobs:
        output = message.job_spec.base_output_directory.output_uri_prefix
        found = self._list(f"display_name={_quoted(message.display_name)}")
        return [job for job in found if job.output == output]


def state_line(job: Job) -> str:
    """Return a line that says since when a job is in its state, and why it failed."""
    about = job.error if job.over else MEANING.get(job.state, "")
    return f"{clock_time(job.since)}  {job.state}" + (f": {about}" if about else "")


def clock_time(at: datetime.datetime | None) -> str:
    """Return a time as the clock of this machine would have shown it."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _age(job: Job) -> tuple[datetime.datetime, str]:
    return job.created, job.id


def _quoted(text: str) -> str:
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{escaped}"'


def _machine(pool: Any) -> str:
    from google.cloud.aiplatform_v1.types import AcceleratorType

    machine = pool.machine_spec
    text = f"{pool.replica_count} x {machine.machine_type}"
    if machine.accelerator_count:
        kind = AcceleratorType(machine.accelerator_type).name
        text += f" with {machine.accelerator_count} x {kind}"
    if machine.tpu_topology:
        text += f" of {machine.tpu_topology}"
    return text

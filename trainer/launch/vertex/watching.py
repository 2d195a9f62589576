"""Watching a job from here: its states and the lines of its workers, until it has ended."""

from __future__ import annotations

import datetime

from trainer.config.errors import Stopped, UserError
from trainer.launch.vertex.calls import NotAnswering
from trainer.launch.vertex.jobs import Job, JobService, Pace, Tell
from trainer.launch.vertex.logs import JobLogs

#: Seconds between two looks at the log of a job that has ended, and how many of them in a row
#: have to find nothing: what was written last can be read a little later.
LAST_LOOKS, LAST_PAUSE = 3, 5.0

#: Looks at the log of an ended job, at most.
MOST_LAST_LOOKS = 20


def watch(
    service: JobService,
    name: str,
    tell: Tell,
    *,
    worker: str = "",
    since: datetime.datetime | None = None,
    pace: Pace | None = None,
) -> Job:
    """Tell what becomes of a job, and what its workers write, until it has succeeded.

    A log that cannot be read is told once and changes nothing else.

    Args:
        service: where the job is.
        name: its resource name.
        tell: gets the lines.
        worker: only the log of this one; default: of all.
        since: only lines written after this; default: all.
        pace: how often to look.

    Returns:
        The job, which has succeeded.

    Raises:
        UserError: it failed or expired.
        Stopped: it was cancelled; or Ctrl-C: the job goes on.
    """
    follower = _Follower(service, tell, worker, since)
    try:
        job = service.wait(name, tell, pace=pace, meanwhile=follower.look)
        follower.drain()
    except KeyboardInterrupt:
        called = follower.job.name if follower.job is not None else name
        raise Stopped(
            f"no longer watching; the job goes on: `{service.command(f'logs {called} --follow')}` "
            f"watches it again, `{service.command(f'cancel {called}')}` stops it"
        ) from None
    if job.state == "cancelled":
        raise Stopped(f"job {job.name} was cancelled", exit_code=1)
    if job.state not in ("succeeded", "partially succeeded"):
        raise UserError(f"job {job.name} {job.state}: {job.error or 'no reason was given'}")
    return job


def job_logs(
    service: JobService, job: Job, *, worker: str = "", since: datetime.datetime | None = None
) -> JobLogs:
    """Return the log of a job, from its beginning or from a time on."""
    return JobLogs(
        service.project,
        job.id,
        since=since or job.created,
        worker=worker,
        credentials=service.credentials,
        channel=service.channel,
        retries=service.retries,
    )


class _Follower:
    """Reads the log of a job as long as that goes."""

    def __init__(
        self, service: JobService, tell: Tell, worker: str, since: datetime.datetime | None
    ) -> None:
        self.service, self.tell, self.worker, self.since = service, tell, worker, since
        self.job: Job | None = None
        self.logs: JobLogs | None = None
        self.away = self.fresh = False

    def look(self, job: Job | None) -> bool:
        """Tell what is new, and return whether something was."""
        if self.job is None and job is not None:
            self.job, self.fresh = job, not job.over
            self.logs = job_logs(self.service, job, worker=self.worker, since=self.since)
        return self._read()

    def drain(self) -> None:
        """Wait for what can be read only after the end, where that was just now."""
        quiet = 0
        for _ in range(MOST_LAST_LOOKS if self.fresh else 0):
            if self.logs is None or quiet == LAST_LOOKS:
                return
            self.service.sleep(LAST_PAUSE)
            quiet = 0 if self._read() else quiet + 1

    def _read(self) -> bool:
        if self.logs is None:
            return False
        try:
            count = self.logs.new(lambda line: self.tell(str(line)))
        except NotAnswering as error:
            if not self.away:
                self.tell(f"the log cannot be read for now: {error}")
            self.away = True
            return False
        except UserError as error:
            self.tell(f"the log cannot be shown, the job goes on: {error}")
            self.logs = None
            return False
        self.away = False
        return count > 0

"""`mildnet submit`: a job for Vertex AI, checked here, staged in the bucket, and made there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainer.config import JobConfig, UserError
from trainer.data.files import is_remote
from trainer.launch.vertex import package, request
from trainer.launch.vertex.extras import extras_of
from trainer.launch.vertex.naming import next_name, stem_of
from trainer.launch.vertex.package import Package
from trainer.launch.vertex.request import Place
from trainer.launch.vertex.settings import VertexSettings
from trainer.launch.vertex.shapes import Shape, names
from trainer.launch.vertex.staging import Bucket, Staged

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

    from trainer.launch.vertex.jobs import JobService

#: Files of weights; the ending tells them from names of what a library brings.
_FILES = (".bin", ".h5", ".keras", ".npz", ".pt", ".pth", ".safetensors", ".zip")
#: Keys whose files are looked for in the data path.
_IN_DATA = ("train_csv", "val_csv")
#: Keys whose paths are of this machine, of no file, or looked at elsewhere.
_NO_FILES = ("config", "job_dir", "model_module", "trainer", "data_path")


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be sent. Make one with :meth:`prepare`.

    Attributes:
        config: with the strategy of the shape.
        settings: project, place and form.
        shape: its machines.
        package: the source package; None where the image has mildnet in it.
        resume: name of the job whose run it goes on with; "" for a run of its own.
    """

    config: JobConfig
    settings: VertexSettings
    shape: Shape
    package: Package | None
    resume: str = ""

    @classmethod
    def prepare(
        cls, config: JobConfig, settings: VertexSettings, shape: str = "", resume: str = ""
    ) -> Submission:
        """Check a job against its machines and place, and build its package; nothing is sent.

        Args:
            config: what to do.
            settings: project, place and form.
            shape: file or name of the machines; default: the config's `config`.
            resume: name of a job whose run folder is to be gone on with.

        Raises:
            UserError: something does not fit, or is on this machine alone.
        """
        machines = Shape.load(shape_name(config, shape))
        request.check(settings, machines)
        if "/" in resume or resume in (".", ".."):
            raise UserError(f"--resume {resume}: give the name of a job, such as {config.name}_1")
        check_places(config)
        if config.dataset == "synthetic":
            # Drawn by the job itself, into a folder of its own.
            config = dataclasses.replace(config, data_path="")
        fitted = machines.fit(config)
        built = None
        if not settings.image:
            chosen = settings.extras
            needed = extras_of(fitted, gpu=machines.gpus > 0)
            built = package.build(fitted, needed if chosen is None else chosen)
        return cls(fitted, settings, machines, built, resume)

    def place(self, name: str) -> Place:
        """Return where the parts of the job are, if it gets this name."""
        bucket = self.settings.bucket
        run = f"{bucket}/{self.resume or name}"
        place = Place(run, f"{bucket}/configs/{name}.cnf")
        if self.package is None:
            return place
        constraints = ""
        if self.package.constraints is not None:
            constraints = f"{bucket}/{self.package.constraints_place}"
        return dataclasses.replace(
            place, package=f"{bucket}/{self.package.place}", constraints=constraints
        )

    def files(self, name: str) -> list[Staged]:
        """Return what has to be in the bucket before the job begins, the config first."""
        place = self.place(name)
        config = dataclasses.replace(
            self.config, name=self.resume or name, job_dir=self.settings.bucket
        )
        files = [Staged(place.config, config.to_cnf().encode())]
        if self.package is not None:
            files.append(Staged(place.package, self.package.content))
            if self.package.constraints is not None:
                files.append(Staged(place.constraints, self.package.constraints.encode()))
        return files

    def request(self, name: str) -> aiplatform_v1.CustomJob:
        """Return the request for the job, if it gets this name."""
        return request.build(self.settings, self.shape, name, self.place(name))

    def show(self, console: Console, notes: Console) -> None:
        """Print the request as JSON, and beside it what would be staged; needs no network.

        Args:
            console: gets the JSON alone, for programs.
            notes: gets the rest.
        """
        name = next_name(self.config.name, ())
        job = self.request(name)
        for file in self.files(name):
            _say(notes, f"would stage {file.uri} ({len(file.content):,} bytes)")
        host = f"{self.settings.region}-aiplatform.googleapis.com"
        _say(notes, f"would then send to https://{host}/v1/{self.settings.parent}/customJobs:")
        _say(console, request.as_json(job, self.settings.environment))
        _say(
            notes,
            f"nothing was sent; in the end the name has the next free number in place of {name}",
        )

    def submit(
        self,
        console: Console,
        *,
        wait: bool = True,
        service: JobService | None = None,
        bucket: Bucket | None = None,
        **watching: Any,
    ) -> str:
        """Stage the job's parts, have the job made, and watch it.

        Args:
            console: is told of every step.
            wait: watch the job until it has ended, rather than leave it to itself.
            service: default: that of the settings' project and region.
            bucket: default: that of the settings.
            **watching: further options of :func:`trainer.launch.vertex.watching.watch`.

        Returns:
            The job's name.

        Raises:
            UserError: bucket or service refuse, or the job failed.
            Stopped: Ctrl-C, which ends the watching and not the job; or it was cancelled.
        """
        from trainer.launch.vertex.jobs import JobService
        from trainer.launch.vertex.watching import watch

        settings = self.settings
        service = service or JobService(settings.project, settings.region)
        bucket = bucket or Bucket(settings.bucket, settings.project)
        # The bucket comes first: without it there is no use in asking further. It alone knows of
        # jobs in other regions.
        numbered = f"{stem_of(self.config.name)}_"
        taken = [*bucket.runs(numbered), *bucket.configs(numbered), *service.names(numbered)]
        if self.resume:
            self._check_resume(service, bucket)
        name = next_name(self.config.name, taken)
        while not bucket.claim(self.files(name)[0]):
            # Somebody else has just taken that name.
            name = next_name(self.config.name, [*taken, name])
        config, *others = self.files(name)
        written = [config.uri, *bucket.put(others)]
        for file in (config, *others):
            _say(console, f"{'staged' if file.uri in written else 'there is'} {file.uri}")
        resource = service.create(self.request(name))
        _say(console, f"job          {name}")
        _say(console, f"machines     {self.shape}")
        _say(console, f"run folder   {self.place(name).run}")
        _say(console, f"console      {service.page(resource)}")
        if wait:
            _say(console, "Ctrl-C stops watching, not the job.")
            watch(service, resource, lambda line: _say(console, line), **watching)
        else:
            _say(console, f"watch it     mildnet jobs logs {name} --follow")
            _say(console, f"stop it      mildnet jobs cancel {name}")
        return name

    def _check_resume(self, service: JobService, bucket: Bucket) -> None:
        run = f"{self.settings.bucket}/{self.resume}"
        if not bucket.exists(f"{run}/config.json"):
            raise UserError(f"--resume {self.resume}: there is no run in {run} (no config.json)")
        for job in service.list():
            if job.output.rstrip("/") == run and not job.over:
                raise UserError(
                    f"--resume {self.resume}: job {job.name} is {job.state} and writes to {run}; "
                    f"wait for it, or stop it with `mildnet jobs cancel {job.name}`"
                )


def shape_name(config: JobConfig, shape: str = "") -> str:
    """Return the name or file of a job's machines: as asked, or as its config says.

    Raises:
        UserError: neither says any.
    """
    if not shape and not config.config:
        raise UserError(
            f"no machines are named; give --shape, one of {', '.join(names())}, or set config in "
            "the job config"
        )
    return shape or config.config


def check_places(config: JobConfig) -> None:
    """Check that a job finds elsewhere what its config names.

    Raises:
        UserError: data, weights or another file are on this machine alone.
    """
    place = config.data_path
    if config.dataset != "synthetic" and not config.model_module:
        if not place:
            raise UserError(
                "no data path is set: copy the data to the bucket, and set "
                "MILDNET_DATA_PATH=gs://bucket/folder, or give --data-path"
            )
        where = f"{_at(config, 'data_path')}data_path={place}"
        if is_remote(place) and not _elsewhere(place) and not place.startswith("file:"):
            raise UserError(
                f"{where} is an address that a job can't read; copy the data to the bucket, and "
                "give --data-path gs://..."
            )
        if not _elsewhere(place):
            raise UserError(
                f"{where} is a place on this machine, which "
                "a remote job does not see; copy the data to the bucket "
                f"(gcloud storage cp -r {place} gs://bucket/data), and give --data-path gs://..."
            )
    for key, value in _local_files(config):
        if is_remote(value) and not value.startswith("file:"):
            raise UserError(
                f"{_at(config, key)}{key}={value} is an address that a job can't read there; copy "
                f"the file to the bucket, and give {_form(key)}"
            )
        raise UserError(
            f"{_at(config, key)}{key}={value} is a file on this machine, which a remote job does "
            f"not see; copy it to the bucket, and give {_form(key)}"
        )


def _local_files(config: JobConfig) -> Iterator[tuple[str, str]]:
    if config.init_from and not _elsewhere(config.init_from):
        yield "init_from", config.init_from
    for key, value in config.to_dict().items():
        if key in _NO_FILES or not isinstance(value, str):
            continue
        named = key.startswith("model.") and value.lower().endswith(_FILES)
        # A net's own weights are read as a file of the machine, which a mounted bucket has.
        if value.startswith("/gcs/") or (_elsewhere(value) and not named):
            continue
        # What the data sets name is below the data path, unless it is a whole path.
        if key in _IN_DATA or key.startswith("dataset."):
            local = os.path.isabs(value)
        else:
            local = named or (os.sep in value and os.path.exists(value))
        if local or value.startswith("file:"):
            yield key, value


def _elsewhere(path: str) -> bool:
    return path.startswith(("gs://", "/gcs/"))


def _form(key: str) -> str:
    return "its path /gcs/bucket/..." if key.startswith("model.") else "its gs:// address"


def _at(config: JobConfig, key: str) -> str:
    return f"{config.origins[key]}: " if key in config.origins else ""


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)

"""`mildnet submit`: a job for Vertex AI, checked here, staged in the bucket, and made there."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainer.config import JobConfig, UserError
from trainer.config.console import plain
from trainer.data.files import is_remote
from trainer.launch.run_folder import RunFolder
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
#: Keys whose files are looked for in the data path or in the run folder.
_BELOW = ("train_csv", "val_csv", "dataset.", "tracker.")
#: Keys whose paths are of this machine, of no file, or looked at elsewhere.
_NO_FILES = ("config", "job_dir", "model_module", "trainer", "data_path")
#: What stands before the places that a text names: `hub:PLACE`, `hub(handle='PLACE')`, lists.
_BEFORE = re.compile(r"""[\s,=('"]+|:(?!//)""")
#: Addresses under which a machine reaches itself.
_LOOPBACK = re.compile(r"://(localhost|127\.[\d.]+|0\.0\.0\.0|\[::1?\])(?![\w.-])", re.IGNORECASE)


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

    def run(self, *, wait: bool, dry_run: bool) -> None:
        """Do what a command says: print what would be sent, or submit the job."""
        if dry_run:
            self.show(plain(), Console(stderr=True, highlight=False))
        else:
            self.submit(plain(), wait=wait)

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
        project, region = self.settings.project, self.settings.region
        place = f"{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}"
        _say(notes, f"would then send to https://{place}/customJobs:")
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
        if self.resume:
            self._check_alone(service, resource, name)
        if wait:
            _say(console, "Ctrl-C stops watching, not the job.")
            watch(service, resource, lambda line: _say(console, line), **watching)
        else:
            _say(console, f"watch it     {service.command(f'logs {name} --follow')}")
            _say(console, f"stop it      {service.command(f'cancel {name}')}")
        return name

    def _check_resume(self, service: JobService, bucket: Bucket) -> None:
        run = f"{self.settings.bucket}/{self.resume}"
        if not bucket.exists(f"{run}/config.json"):
            raise UserError(f"--resume {self.resume}: there is no run in {run} (no config.json)")
        # The job itself would find out, on machines that cost.
        RunFolder(run, bucket.read).check_same(
            self.config, "--resume takes the config, and the kind of machines, of that run"
        )
        for job in service.writing_to(run):
            raise UserError(
                f"--resume {self.resume}: job {job.name} is {job.state} and writes to {run}; "
                f"wait for it, or stop it with `{service.command(f'cancel {job.name}')}`"
            )

    def _check_alone(self, service: JobService, resource: str, name: str) -> None:
        """Leave the run to a job that somebody else has resumed it with at the same moment."""
        first = next(iter(service.writing_to(self.place(name).run)), None)
        if first is not None and first.resource != resource:
            service.cancel(resource)
            raise UserError(
                f"--resume {self.resume}: job {first.name}, which was submitted a moment before, "
                f"writes to that run folder as well; {name} was cancelled"
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
        where = f"{config.where('data_path')}data_path={place}"
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
    for key, value, place in _local_places(config):
        at = f"{config.where(key)}{key}={value}"
        at += f": {place} is" if place != value else " is"
        if is_remote(place) and not place.startswith("file:"):
            raise UserError(
                f"{at} an address that a job can't read there; copy the file to the bucket, and "
                f"give {_form(key)}"
            )
        raise UserError(
            f"{at} a place on this machine, which a remote job does not see; copy it to the "
            f"bucket, and give {_form(key)}"
        )
    for key, value in config.to_dict().items():
        if key not in _NO_FILES and isinstance(value, str) and _LOOPBACK.search(value):
            raise UserError(
                f"{config.where(key)}{key}={value} is an address of this machine, which a remote "
                "job does not reach; give one that it does"
            )


def _local_places(config: JobConfig) -> Iterator[tuple[str, str, str]]:
    """Return key, value, and what of it is on this machine alone or can't be read."""
    for key, value in config.to_dict().items():
        if key in _NO_FILES or not isinstance(value, str) or not value:
            continue
        if key == "init_from" and not _elsewhere(value):
            yield key, value, value
        for place in dict.fromkeys([value, *_BEFORE.split(value)]):
            if _local(key, place.rstrip(")")):
                yield key, value, place.rstrip(")")


def _local(key: str, place: str) -> bool:
    # A net's own weights are read as a file of the machine, which a mounted bucket has.
    weights = key == "model.weights" and place.lower().endswith(_FILES)
    if place.startswith("/gcs/") or (is_remote(place) and not weights):
        return place.startswith("file:")
    if weights or place.startswith(("/", "~", "file:")):
        return True
    # Whatever else is named there is below the data path or the run folder.
    if key.startswith(_BELOW):
        return False
    file = key.startswith("model.") and place.lower().endswith(_FILES)
    return file or place.startswith(("./", "../")) or (os.sep in place and os.path.exists(place))


def _elsewhere(path: str) -> bool:
    return path.startswith(("gs://", "/gcs/"))


def _form(key: str) -> str:
    return "its path /gcs/bucket/..." if key.startswith("model.") else "its gs:// address"


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)

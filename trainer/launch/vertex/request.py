"""The request for a job: settings, shape and run folder as a `CustomJob` of Vertex AI."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import UserError
from trainer.launch.vertex import calls
from trainer.launch.vertex.naming import LONGEST
from trainer.launch.vertex.settings import BASE_IMAGE, VertexSettings
from trainer.launch.vertex.shapes import Pool, Shape

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

MODULE = "trainer.task"

#: Where the service's own containers are, which take a package as it is.
_PREBUILT = re.compile(r"[a-z]+-docker\.pkg\.dev/vertex-ai/training/.+")
#: Where the service puts the driver; images of NVIDIA say so themselves, Python's do not.
_DRIVER = {
    "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}


@dataclass(frozen=True)
class Place:
    """Where the parts of a job are, all in the bucket.

    Attributes:
        run: the run folder, `gs://...`; Vertex AI is told to put its outputs there, too.
        config: the config's file.
        package: the source package; "" where the image has mildnet in it.
        constraints: versions to install it with; "" for none.
    """

    run: str
    config: str
    package: str = ""
    constraints: str = ""


def mounted(uri: str) -> str:
    """Return the path of a `gs://` address in the file system of a job: `/gcs/bucket/...`."""
    return "/gcs/" + uri.removeprefix("gs://")


def check(settings: VertexSettings, shape: Shape) -> None:
    """Check that settings and shape go together.

    Raises:
        UserError: they do not.
    """
    if settings.spot and shape.tpu_pod:
        raise UserError(
            f"{shape.path}: a TPU of several machines is not to be had as spot machines; set "
            "MILDNET_SPOT=no, or give --no-spot"
        )
    if shape.tpu and not settings.image and settings.base_image == BASE_IMAGE:
        raise UserError(
            f"{shape.path}: a TPU needs an image with TensorFlow for TPUs; set MILDNET_IMAGE, or "
            "give --image (docs/vertex_ai.md says how to make one)"
        )


def build(
    settings: VertexSettings, shape: Shape, name: str, place: Place
) -> aiplatform_v1.CustomJob:
    """Return the request for one job.

    Args:
        settings: project, region and form.
        shape: its machines.
        name: of the job.
        place: where its parts are.

    Raises:
        UserError: settings and shape do not go together, the name is too long, or the client
            library is missing.
    """
    check(settings, shape)
    if len(name) > LONGEST:
        raise UserError(
            f"name={name}: a job's name has at most {LONGEST} characters, not {len(name)}"
        )
    calls.require_vertex("a job on Vertex AI")
    from google.cloud import aiplatform_v1 as vertex

    scheduling = vertex.Scheduling(
        # A worker that comes back alone finds the others in the middle of a step.
        restart_job_on_worker_restart=shape.machines > 1,
    )
    if settings.spot:
        scheduling.strategy = vertex.Scheduling.Strategy.SPOT
    if settings.timeout is not None:
        scheduling.timeout = {"seconds": settings.timeout}
    task = _task(vertex, settings, shape, place)
    spec = vertex.CustomJobSpec(
        worker_pool_specs=[_pool(vertex, pool, task) for pool in shape.pools],
        scheduling=scheduling,
        service_account=settings.service_account,
        base_output_directory=vertex.GcsDestination(output_uri_prefix=place.run),
        tensorboard=settings.tensorboard,
    )
    return vertex.CustomJob(display_name=name, job_spec=spec, labels=dict(settings.labels))


def as_json(job: aiplatform_v1.CustomJob, hidden: Mapping[str, str] | None = None) -> str:
    """Return a request as JSON, as the REST interface takes it.

    Args:
        job: the request.
        hidden: variables whose values are not shown.
    """
    values = json.loads(
        type(job).to_json(
            job,
            use_integers_for_enums=False,
            preserving_proto_field_name=False,
            always_print_fields_with_no_presence=False,
        )
    )
    for pool in values["jobSpec"]["workerPoolSpecs"]:
        for task in (pool.get("containerSpec", {}), pool.get("pythonPackageSpec", {})):
            for variable in task.get("env", ()):
                if variable["name"] in (hidden or {}):
                    variable["value"] = "(not shown)"
    return json.dumps(values, indent=2, ensure_ascii=False)


def _pool(vertex: Any, pool: Pool, task: Mapping[str, Any]) -> aiplatform_v1.WorkerPoolSpec:
    machine = vertex.MachineSpec(machine_type=pool.machine_type, tpu_topology=pool.topology)
    if pool.accelerator:
        machine.accelerator_type = vertex.AcceleratorType[pool.accelerator]
        machine.accelerator_count = pool.accelerators
    spec = vertex.WorkerPoolSpec(machine_spec=machine, replica_count=pool.replicas, **task)
    if pool.disk_type or pool.disk_gb:
        spec.disk_spec = vertex.DiskSpec(
            boot_disk_type=pool.disk_type or "pd-ssd", boot_disk_size_gb=pool.disk_gb or 100
        )
    return spec


def _task(vertex: Any, settings: VertexSettings, shape: Shape, place: Place) -> dict[str, Any]:
    arguments = [mounted(place.config), "--job-dir", place.run]
    if settings.image:
        env = _variables(vertex, settings.environment)
        return {
            "container_spec": vertex.ContainerSpec(
                image_uri=settings.image, args=arguments, env=env
            )
        }
    if _PREBUILT.fullmatch(settings.base_image):
        return {
            "python_package_spec": vertex.PythonPackageSpec(
                executor_image_uri=settings.base_image,
                package_uris=[place.package],
                python_module=MODULE,
                args=arguments,
                env=_variables(vertex, settings.environment),
            )
        }
    driver = _DRIVER if shape.gpus else {}
    return {
        "container_spec": vertex.ContainerSpec(
            image_uri=settings.base_image,
            command=["sh", "-c", _install_and_run(place), "mildnet"],
            args=arguments,
            env=_variables(vertex, {**driver, **settings.environment}),
        )
    }


def _install_and_run(place: Place) -> str:
    install = ["python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    install.append("--root-user-action=ignore")
    if place.constraints:
        install += ["-c", mounted(place.constraints)]
    install.append(mounted(place.package))
    # exec: the job itself gets the signal that a spot machine is taken away.
    return f'{shlex.join(install)} && exec python -m {MODULE} "$@"'


def _variables(vertex: Any, values: Mapping[str, str]) -> list[Any]:
    return [vertex.EnvVar(name=name, value=value) for name, value in values.items()]

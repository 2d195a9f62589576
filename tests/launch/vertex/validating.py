"""What Vertex AI refuses in a custom job, as its reference says, field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJob, Scheduling, WorkerPoolSpec

#: A chief, workers, parameter servers or reduction servers, an evaluator.
MOST_POOLS = 4

#: Accelerators that machines come with, by machine type: one row for each in the documentation.
BUILT_IN = {
    "a2-highgpu-1g": ("NVIDIA_TESLA_A100", 1),
    "a2-highgpu-2g": ("NVIDIA_TESLA_A100", 2),
    "a2-highgpu-4g": ("NVIDIA_TESLA_A100", 4),
    "a2-highgpu-8g": ("NVIDIA_TESLA_A100", 8),
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    "a2-ultragpu-1g": ("NVIDIA_A100_80GB", 1),
    "a2-ultragpu-2g": ("NVIDIA_A100_80GB", 2),
    "a2-ultragpu-4g": ("NVIDIA_A100_80GB", 4),
    "a2-ultragpu-8g": ("NVIDIA_A100_80GB", 8),
    "a3-highgpu-1g": ("NVIDIA_H100_80GB", 1),
    "a3-highgpu-2g": ("NVIDIA_H100_80GB", 2),
    "a3-highgpu-4g": ("NVIDIA_H100_80GB", 4),
    "a3-highgpu-8g": ("NVIDIA_H100_80GB", 8),
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
    "a4x-highgpu-4g": ("NVIDIA_GB200", 4),
    "g2-standard-4": ("NVIDIA_L4", 1),
    "g2-standard-8": ("NVIDIA_L4", 1),
    "g2-standard-12": ("NVIDIA_L4", 1),
    "g2-standard-16": ("NVIDIA_L4", 1),
    "g2-standard-24": ("NVIDIA_L4", 2),
    "g2-standard-32": ("NVIDIA_L4", 1),
    "g2-standard-48": ("NVIDIA_L4", 4),
    "g2-standard-96": ("NVIDIA_L4", 8),
    "g4-standard-48": ("NVIDIA_RTX_PRO_6000", 1),
    "g4-standard-96": ("NVIDIA_RTX_PRO_6000", 2),
    "g4-standard-192": ("NVIDIA_RTX_PRO_6000", 4),
    "g4-standard-384": ("NVIDIA_RTX_PRO_6000", 8),
}

#: What may be attached to machines of the N1 series, and how many.
N1_CARDS = {
    "NVIDIA_TESLA_T4": (1, 2, 4),
    "NVIDIA_TESLA_P4": (1, 2, 4),
    "NVIDIA_TESLA_P100": (1, 2, 4),
    "NVIDIA_TESLA_V100": (1, 2, 4, 8),
}

MACHINES = (
    r"(n1|n2|n2d|e2)-(standard|highmem|highcpu)-\d+|(c2|c2d|c3|m1)-\w+-\d+|cloud-tpu"
    r"|ct5lp-hightpu-\d+t|ct6e-\w+-\d+t"
)

Violations = Iterator[tuple[str, str]]


def violations(job: CustomJob) -> list[tuple[str, str]]:
    """Return field and message of everything in a request that the service would not take."""
    return [*_job(job), *_pools(job), *_spec(job)]


def _job(job: CustomJob) -> Violations:
    if not job.display_name:
        yield "custom_job.display_name", "Required field is not set."
    elif len(job.display_name) > 128:
        yield "custom_job.display_name", "The name can be up to 128 characters long."
    for output_only in ("name", "state", "create_time", "start_time", "end_time", "error"):
        if output_only in job:
            yield f"custom_job.{output_only}", "The field is output only."
    if len(job.labels) > 64:
        yield "custom_job.labels", "No more than 64 labels."
    for key, value in job.labels.items():
        # Letters of other alphabets are allowed as far as they have no capital form.
        if not re.fullmatch(r"[^\W\d_A-Z][\w-]{0,62}", key) or key != key.lower():
            yield f"custom_job.labels[{key}]", f"Invalid label key: {key}"
        if not re.fullmatch(r"[\w-]{0,63}", value) or value != value.lower():
            yield f"custom_job.labels[{key}]", f"Invalid label value: {value}"


def _pools(job: CustomJob) -> Violations:
    pools = job.job_spec.worker_pool_specs
    if not pools:
        yield "custom_job.job_spec.worker_pool_specs", "Required field is not set."
    if len(pools) > MOST_POOLS:
        yield "custom_job.job_spec.worker_pool_specs", f"No more than {MOST_POOLS} worker pools."
    for number, pool in enumerate(pools):
        name = f"custom_job.job_spec.worker_pool_specs[{number}]"
        # An empty pool stands for a role that nobody has.
        if number and pool == WorkerPoolSpec():
            continue
        if pool.replica_count < 1:
            yield f"{name}.replica_count", "Must be at least 1."
        elif number == 0 and pool.replica_count != 1:
            yield f"{name}.replica_count", "The first worker pool has exactly one replica."
        yield from _task(pool, name)
        yield from machine_violations(pool, f"{name}.machine_spec")
        disk = pool.disk_spec
        if disk.boot_disk_type not in ("", "pd-ssd", "pd-standard", "hyperdisk-balanced"):
            yield f"{name}.disk_spec.boot_disk_type", f"Unknown disk type: {disk.boot_disk_type}"
        if disk.boot_disk_size_gb and not 100 <= disk.boot_disk_size_gb <= 64_000:
            yield f"{name}.disk_spec.boot_disk_size_gb", "Must be from 100 to 64000."


def _task(pool: WorkerPoolSpec, name: str) -> Violations:
    if "container_spec" in pool:
        task, name = pool.container_spec, f"{name}.container_spec"
        if not task.image_uri:
            yield f"{name}.image_uri", "Required field is not set."
        elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)*(:[\w.-]+)?(@sha256:\w{64})?", task.image_uri):
            yield f"{name}.image_uri", f"Not the URI of an image: {task.image_uri}"
    elif "python_package_spec" in pool:
        task, name = pool.python_package_spec, f"{name}.python_package_spec"
        if not task.executor_image_uri:
            yield f"{name}.executor_image_uri", "Required field is not set."
        elif "docker.pkg.dev/vertex-ai/training/" not in task.executor_image_uri:
            yield f"{name}.executor_image_uri", "Not a pre-built container for training."
        if not task.package_uris:
            yield f"{name}.package_uris", "Required field is not set."
        if len(task.package_uris) > 100:
            yield f"{name}.package_uris", "No more than 100 packages."
        for uri in task.package_uris:
            if not re.fullmatch(r"gs://[^/]+/.+\.(tar\.gz|whl)", uri):
                yield f"{name}.package_uris", f"Not a package in Cloud Storage: {uri}"
        if not re.fullmatch(r"\w+(\.\w+)*", task.python_module):
            yield f"{name}.python_module", f"Not a Python module: {task.python_module!r}"
    else:
        yield name, "Exactly one of container_spec and python_package_spec is required."
        return
    if len(task.env) > 100:
        yield f"{name}.env", "No more than 100 variables."
    for variable in task.env:
        if not re.fullmatch(r"[A-Za-z_]\w*", variable.name):
            yield f"{name}.env", f"Not the name of a variable: {variable.name!r}"


def machine_violations(pool: WorkerPoolSpec, name: str) -> Violations:
    """Return what is wrong with the machines of a pool, `name` being its field."""
    machine = pool.machine_spec
    kind, count = AcceleratorType(machine.accelerator_type).name, machine.accelerator_count
    unspecified = not machine.accelerator_type
    if not machine.machine_type:
        yield f"{name}.machine_type", "Required field is not set."
        return
    built_in = BUILT_IN.get(machine.machine_type)
    if built_in is None and not re.fullmatch(MACHINES, machine.machine_type):
        yield f"{name}.machine_type", f"Machine type {machine.machine_type} is not supported."
        return
    if unspecified and count:
        yield f"{name}.accelerator_count", "accelerator_type is not set."
        return
    if not unspecified and count < 1:
        yield f"{name}.accelerator_count", "Must be at least 1."
        return
    wanted = f"Machine type {machine.machine_type} does not go with {count} of {kind}."
    series = machine.machine_type.split("-")[0]
    if machine.tpu_topology and not series.startswith("ct"):
        yield f"{name}.tpu_topology", f"Machine type {machine.machine_type} has no TPU."
    if series == "cloud":
        if kind not in ("TPU_V2", "TPU_V3") or count % 8:
            yield f"{name}.accelerator_count", wanted
    elif series.startswith("ct"):
        if not unspecified or not re.fullmatch(r"\d+x\d+(x\d+)?", machine.tpu_topology):
            yield f"{name}.tpu_topology", "Needs a tpu_topology, and no accelerator_type."
    elif built_in is not None:
        if (kind, count) != built_in:
            yield f"{name}.accelerator_count", wanted
    elif not unspecified and (series != "n1" or count not in N1_CARDS.get(kind, ())):
        yield f"{name}.accelerator_count", wanted


def _spec(job: CustomJob) -> Violations:
    spec, name = job.job_spec, "custom_job.job_spec"
    output = spec.base_output_directory.output_uri_prefix
    if output and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/.*)?", output):
        yield f"{name}.base_output_directory", f"Not a place in Cloud Storage: {output}"
    account = spec.service_account
    if account and not re.fullmatch(r"[\w-]+@[\w.-]+\.gserviceaccount\.com", account):
        yield f"{name}.service_account", f"Not a service account: {account}"
    if spec.tensorboard:
        if not re.fullmatch(r"projects/[^/]+/locations/[^/]+/tensorboards/\d+", spec.tensorboard):
            yield f"{name}.tensorboard", f"Not a TensorBoard: {spec.tensorboard}"
        if not account:
            yield f"{name}.service_account", "Required where tensorboard is set."
        if not output:
            yield f"{name}.base_output_directory", "Required where tensorboard is set."
    if spec.network and not re.fullmatch(r"projects/\d+/global/networks/[\w-]+", spec.network):
        yield f"{name}.network", f"Not a network: {spec.network}"
    scheduling = spec.scheduling
    seconds = scheduling.timeout.total_seconds() if "timeout" in scheduling else None
    if seconds is not None and not 0 < seconds <= 30 * 86_400:
        yield f"{name}.scheduling.timeout", "Must be positive, and 30 days at most."
    flexible = scheduling.strategy == Scheduling.Strategy.FLEX_START
    if "max_wait_duration" in scheduling and not flexible:
        yield f"{name}.scheduling.max_wait_duration", "Only with the strategy FLEX_START."
    if scheduling.disable_retries and scheduling.restart_job_on_worker_restart:
        yield f"{name}.scheduling.disable_retries", "Overrides restart_job_on_worker_restart."

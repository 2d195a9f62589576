"""The request, field by field, beside what the service's reference says."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from google.cloud import aiplatform_v1
from google.protobuf import json_format

from tests.launch.vertex.validating import violations
from trainer.config import UserError
from trainer.launch.vertex.request import Place, as_json, build, mounted
from trainer.launch.vertex.settings import VertexSettings
from trainer.launch.vertex.shapes import Shape

BUCKET = "gs://shop-jobs/mildnet"
PLACE = Place(
    f"{BUCKET}/shop_3",
    f"{BUCKET}/configs/shop_3.cnf",
    f"{BUCKET}/packages/0123456789ab/mildnet-0.1.0.tar.gz",
    f"{BUCKET}/packages/0123456789ab/constraints.txt",
)
NEEDED = {"project": "my-shop", "region": "europe-west4", "bucket": BUCKET}
ARGUMENTS = ["/gcs/shop-jobs/mildnet/configs/shop_3.cnf", "--job-dir", f"{BUCKET}/shop_3"]


def request(shape: str = "one_gpu", **settings: object) -> aiplatform_v1.CustomJob:
    made = build(VertexSettings(**{**NEEDED, **settings}), Shape.load(shape), "shop_3", PLACE)  # type: ignore[arg-type]
    assert violations(made) == []
    return made


def plain(message: object) -> dict:
    return json_format.MessageToDict(type(message).pb(message), preserving_proto_field_name=True)


def test_every_field_of_a_request_with_everything():
    made = request(
        service_account="trainer@my-shop.iam.gserviceaccount.com",
        labels={"team": "search"},
        spot=True,
        timeout=9000,
        tensorboard="projects/my-shop/locations/europe-west4/tensorboards/987",
        image="europe-west4-docker.pkg.dev/my-shop/images/mildnet:1",
        environment={"WANDB_API_KEY": "secret"},
    )
    assert plain(made) == {
        "display_name": "shop_3",
        "labels": {"team": "search"},
        "job_spec": {
            "worker_pool_specs": [
                {
                    "machine_spec": {
                        "machine_type": "n1-standard-8",
                        "accelerator_type": "NVIDIA_TESLA_T4",
                        "accelerator_count": 1,
                    },
                    "replica_count": "1",
                    "disk_spec": {"boot_disk_type": "pd-ssd", "boot_disk_size_gb": 200},
                    "container_spec": {
                        "image_uri": "europe-west4-docker.pkg.dev/my-shop/images/mildnet:1",
                        "args": ARGUMENTS,
                        "env": [{"name": "WANDB_API_KEY", "value": "secret"}],
                    },
                }
            ],
            "scheduling": {"timeout": "9000s", "strategy": "SPOT"},
            "service_account": "trainer@my-shop.iam.gserviceaccount.com",
            "base_output_directory": {"output_uri_prefix": f"{BUCKET}/shop_3"},
            "tensorboard": "projects/my-shop/locations/europe-west4/tensorboards/987",
        },
    }


def test_what_is_not_set_is_not_sent():
    made = plain(request(image="mildnet:1"))
    assert set(made) == {"display_name", "job_spec"}
    spec = made["job_spec"]
    assert set(spec) == {"worker_pool_specs", "scheduling", "base_output_directory"}
    assert spec["scheduling"] == {}
    assert set(spec["worker_pool_specs"][0]["container_spec"]) == {"image_uri", "args"}


def test_without_an_image_the_package_is_installed_first():
    (pool,) = request(environment={"TZ": "UTC"}).job_spec.worker_pool_specs
    task = pool.container_spec
    assert task.image_uri == "python:3.11-slim"
    shell, flag, script, name = task.command
    assert (shell, flag, name) == ("sh", "-c", "mildnet")
    install, run = script.split(" && ")
    assert shlex.split(install) == [
        *("python", "-m", "pip", "install", "--quiet", "--no-cache-dir"),
        *("--root-user-action=ignore", "-c"),
        "/gcs/shop-jobs/mildnet/packages/0123456789ab/constraints.txt",
        "/gcs/shop-jobs/mildnet/packages/0123456789ab/mildnet-0.1.0.tar.gz",
    ]
    assert run == 'exec python -m trainer.task "$@"'
    assert list(task.args) == ARGUMENTS
    assert {variable.name: variable.value for variable in task.env} == {
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "TZ": "UTC",
    }
    (pool,) = request("cpu").job_spec.worker_pool_specs
    assert not pool.container_spec.env


def test_the_shell_hands_every_argument_on(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    python.chmod(0o755)
    place = replace(PLACE, config="gs://shop-jobs/a b/$x.cnf")
    made = build(VertexSettings(**NEEDED), Shape.load("cpu"), "shop_3", place)
    task = made.job_spec.worker_pool_specs[0].container_spec
    done = subprocess.run(
        [*task.command, *task.args],
        env={"PATH": f"{tmp_path}:/bin:/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = ["-m", "trainer.task", "/gcs/shop-jobs/a b/$x.cnf", "--job-dir", f"{BUCKET}/shop_3"]
    assert done.stdout.splitlines()[-5:] == [f"<{word}>" for word in wanted]
    # Where the package can't be installed, no job begins.
    python.write_text('#!/bin/sh\necho "$2"; exit 1\n')
    done = subprocess.run(
        list(task.command), env={"PATH": f"{tmp_path}:/bin"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "pip\n")


def test_the_services_own_containers_take_the_package_as_it_is():
    image = "europe-docker.pkg.dev/vertex-ai/training/tf-gpu.2-19.py312:latest"
    (pool,) = request(base_image=image).job_spec.worker_pool_specs
    assert plain(pool)["python_package_spec"] == {
        "executor_image_uri": image,
        "package_uris": [PLACE.package],
        "python_module": "trainer.task",
        "args": ARGUMENTS,
    }
    assert "container_spec" not in plain(pool)


def test_several_machines_run_the_same_and_start_again_together():
    made = request("four_machines")
    chief, workers = made.job_spec.worker_pool_specs
    assert (chief.replica_count, workers.replica_count) == (1, 3)
    assert chief.container_spec == workers.container_spec
    assert made.job_spec.scheduling.restart_job_on_worker_restart is True
    assert request("four_gpus").job_spec.scheduling.restart_job_on_worker_restart is False


def test_a_tpu_needs_an_image_of_its_own():
    made = request("tpu_v5e", image="mildnet-tpu:1")
    assert plain(made.job_spec.worker_pool_specs[0])["machine_spec"] == {
        "machine_type": "ct5lp-hightpu-4t",
        "tpu_topology": "2x2",
    }
    with pytest.raises(UserError, match=r"tpu_v5e\.yaml: a TPU needs an image with TensorFlow"):
        request("tpu_v5e")
    assert request("tpu_v5e", base_image="my-tpu:1").job_spec.worker_pool_specs


def test_spot_machines_and_tpu_pods(tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text(
        "workerPoolSpecs:\n- machineSpec: {machineType: ct5lp-hightpu-4t, tpuTopology: 4x4}\n"
    )
    assert request(str(path), image="x:1").job_spec.worker_pool_specs
    with pytest.raises(UserError, match=r"pod\.yaml: .* not to be had as spot machines; .*--no-s"):
        request(str(path), image="x:1", spot=True)
    assert request("tpu_v5e", image="x:1", spot=True).job_spec.scheduling.strategy.name == "SPOT"


def test_a_name_that_is_too_long():
    with pytest.raises(UserError, match="at most 128 characters, not 129"):
        build(VertexSettings(**NEEDED), Shape.load("cpu"), "x" * 129, PLACE)
    assert build(VertexSettings(**NEEDED), Shape.load("cpu"), "x" * 128, PLACE)


def test_the_json_is_the_request():
    made = request(environment={"KEY": "secret"}, labels={"team": "größe"})
    assert aiplatform_v1.CustomJob.from_json(as_json(made)) == made
    shown = as_json(made, {"KEY": "secret"})
    assert "secret" not in shown
    assert json.loads(shown)["labels"] == {"team": "größe"}
    env = json.loads(shown)["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]
    assert env[-1] == {"name": "KEY", "value": "(not shown)"}


def test_mounted():
    assert mounted("gs://shop-jobs/a/b.cnf") == "/gcs/shop-jobs/a/b.cnf"

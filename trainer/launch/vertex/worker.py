"""What Vertex AI tells a replica of a job in environment variables: outputs, and who else trains.

https://cloud.google.com/vertex-ai/docs/training/code-requirements names the folders,
https://cloud.google.com/vertex-ai/docs/training/distributed-training the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.files import absolute

#: Each variable of a folder for outputs, and what a run folder calls that folder.
OUTPUTS = {
    "AIP_MODEL_DIR": "model",
    "AIP_CHECKPOINT_DIR": "checkpoints",
    "AIP_TENSORBOARD_LOG_DIR": "logs",
}

#: The pools of a job and other names of tasks, as TensorFlow calls what they do.
TASKS = {
    "workerpool0": "chief",
    "workerpool1": "worker",
    "workerpool2": "ps",
    "workerpool3": "evaluator",
    "master": "chief",
}

#: Tasks that train. The chief also validates and writes for all.
TRAINING = ("chief", "worker")


def prepare(
    config: JobConfig,
    environment: MutableMapping[str, str],
    *,
    run_dir: str | None = None,
    fresh: bool = False,
) -> str | None:
    """Take what Vertex AI says for this process; without its variables, do nothing.

    Args:
        config: of the job.
        environment: of the process; its `TF_CONFIG` is set where several machines train together.
        run_dir: run folder that the user gave, which wins.
        fresh: whether a run that is there is to be deleted.

    Returns:
        The run folder of the job, if the user or Vertex AI gives one.

    Raises:
        UserError: what it says, config and options don't go together.
    """
    cluster = tf_config(environment)
    strategy = config.training.strategy
    if cluster is not None and strategy not in ("auto", "multiworker"):
        # Each would train the same for itself, and all would write to one run folder.
        raise UserError(
            f"train.strategy is {strategy}, which trains on one machine, but this job has several; "
            "leave it out, or set it to auto or multiworker"
        )
    if cluster is not None:
        environment["TF_CONFIG"] = cluster
    if fresh and any(environment.get(name) for name in ("CLOUD_ML_JOB_ID", *OUTPUTS)):
        raise UserError(
            "--fresh on Vertex AI would delete what the job has saved whenever it is started "
            "again; give it another run folder instead"
        )
    return run_dir or run_folder(environment)


def run_folder(environment: Mapping[str, str]) -> str | None:
    """Return the run folder of the job: the folder that holds the three for outputs.

    Args:
        environment: of the process. Of the variables of :data:`OUTPUTS` some may be missing.

    Returns:
        The folder, `gs://...` or local; None where no such variable is set.

    Raises:
        UserError: the folders are not those of one run folder.
    """
    found: dict[str, str] = {}
    for variable, name in OUTPUTS.items():
        value = environment.get(variable)
        if not value:
            continue
        base, _, last = absolute(value).rpartition("/")
        if last != name or base.endswith(":/") or not base:
            raise UserError(
                f"{variable}={value}: a run folder has its outputs in a folder {name!r}; name the "
                "run folder by --job-dir"
            )
        found[variable] = base
    if len(set(found.values())) > 1:
        (first, one), (second, other) = _two_that_differ(found)
        raise UserError(
            f"{first} is in {one}, but {second} in {other}, and a run has one folder; name it by "
            "--job-dir"
        )
    return next(iter(found.values()), None)


def tf_config(environment: Mapping[str, str]) -> str | None:
    """Return the TF_CONFIG of a replica that trains together with others.

    `TF_CONFIG` wins where it is set, as Vertex AI does for several machines; else `CLUSTER_SPEC`
    tells the same.

    Args:
        environment: of the process.

    Returns:
        JSON of `cluster` and `task` with the tasks `chief` and `worker`; None for a machine that
        trains alone.

    Raises:
        UserError: the variable can't be read, or has replicas that don't train.
    """
    for variable in ("TF_CONFIG", "CLUSTER_SPEC"):
        if environment.get(variable):
            break
    else:
        return None
    told, cluster, task = _read(variable, environment[variable])
    others = sorted(({*cluster, task["type"]} if cluster else set()) - set(TRAINING))
    if others:
        pools = [pool for pool, name in TASKS.items() if name in others]
        raise UserError(
            f"{variable} has replicas that do not train ({', '.join(others)}): every machine of "
            f"this library's jobs is a chief or a worker; leave out {' and '.join(pools)}"
            if pools
            else f"{variable} has replicas called {', '.join(others)}; known are chief and worker"
        )
    if sum(map(len, cluster.values())) < 2:
        return None
    if not 0 <= task["index"] < len(cluster.get(task["type"], ())):
        raise UserError(
            f"{variable}: the cluster has no {task['type']} {task['index']}, which this replica is"
        )
    return json.dumps({**told, "cluster": cluster, "task": task})


def _two_that_differ(found: Mapping[str, str]) -> list[tuple[str, str]]:
    first, *rest = found.items()
    return [first, next(item for item in rest if item[1] != first[1])]


def _read(variable: str, text: str) -> tuple[dict[str, Any], dict[str, list[str]], dict[str, Any]]:
    """Return what else is told; and cluster and task, the tasks named as TensorFlow names them."""
    try:
        told = dict(json.loads(text))
        pools = told.get("cluster") or {}
        task = told.get("task") or {}
        cluster: dict[str, list[str]] = {}
        for pool, addresses in pools.items():
            if not isinstance(addresses, list) or not all(isinstance(a, str) for a in addresses):
                raise TypeError
            # A pool that was left out of the request is there without machines.
            if addresses:
                cluster.setdefault(TASKS.get(pool, pool), []).extend(addresses)
        kind = str(task.get("type", "chief"))
        task = {**task, "type": TASKS.get(kind, kind), "index": int(task.get("index", 0))}
        # The request of the job, which is long, and nobody here reads.
        told.pop("job", None)
        return told, cluster, task
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"the environment variable {variable} is not the JSON of a cluster"
        ) from None

"""Where the replicas of a job run, and which rows of a batch each of them gets."""

from __future__ import annotations

import functools
import json
import os

import tensorflow as tf

from trainer.config import UserError


def get_strategy(name: str = "auto", devices: int | None = None) -> tf.distribute.Strategy:
    """Return the strategy of a job; to be called before TensorFlow has run anything.

    Args:
        name: `one` device, `mirrored` over the GPUs of this machine (over logical CPU devices
            where there is no GPU), `multiworker` over the machines named by the environment
            variable `TF_CONFIG`, `tpu`, or `auto`: the first of multiworker, mirrored and one
            that fits what is there.
        devices: how many devices of this machine to use; default: all GPUs, or one CPU.

    Raises:
        UserError: the machine does not have what was asked for.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        if len(_cluster().get("worker", [])) + len(_cluster().get("chief", [])) > 1:
            name = "multiworker"
        else:
            name = "mirrored" if (devices or len(gpus)) > 1 else "one"
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        except (ValueError, tf.errors.OpError) as error:
            raise UserError(f"train.strategy is tpu, but no TPU answers: {error}") from error
        return tf.distribute.TPUStrategy(resolver)
    if name == "multiworker":
        if not _cluster():
            raise UserError("train.strategy is multiworker, but TF_CONFIG names no cluster")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "one":
        if devices not in (None, 1):
            raise UserError(f"train.strategy is one, but train.devices is {devices}")
        return tf.distribute.get_strategy()
    wanted = devices or max(len(gpus), 1)
    if gpus:
        if wanted > len(gpus):
            raise UserError(f"train.devices is {wanted}, but this machine has {len(gpus)} GPUs")
        return _mirrored(tuple(f"GPU:{n}" for n in range(wanted)))
    if len(tf.config.list_logical_devices("CPU")) < wanted:
        raise UserError(
            f"train.devices is {wanted}, but TensorFlow has already started with fewer CPU devices"
        )
    return _mirrored(tuple(f"CPU:{n}" for n in range(wanted)))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One for the life of the process: a second strategy over the same devices numbers its
    # collectives from the start again, and TensorFlow takes them for those of the first.
    return tf.distribute.MirroredStrategy(list(devices))


def prepare_devices(devices: int | None) -> None:
    """Split the CPU into `devices` logical ones where there is no GPU; before TensorFlow starts."""
    if not devices or devices < 2 or tf.config.list_physical_devices("GPU"):
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    have = tf.config.get_logical_device_configuration(cpu)
    if have is not None and len(have) >= devices:
        return
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
        )
    except RuntimeError:
        # TensorFlow has started already; get_strategy says so if the devices do not suffice.
        return


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process writes checkpoints, logs and results for all workers."""
    resolver = strategy.cluster_resolver
    if resolver is None or not hasattr(resolver, "task_type") or not resolver.task_type:
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "worker" and resolver.task_id == 0 and not has_chief


def replica_slices(
    strategy: tf.distribute.Strategy, rows: int, group: int = 1
) -> list[tuple[int, int]]:
    """Return the row ranges of a global batch for the replicas of this worker, in order.

    Args:
        strategy: the job's strategy.
        rows: rows of the global batch.
        group: rows that must stay together, 3 for triplets.

    Raises:
        UserError: the batch can't be divided evenly.
    """
    replicas = strategy.num_replicas_in_sync
    if rows % (replicas * group):
        what = "triplets" if group == 3 else "images"
        raise UserError(
            f"a batch of {rows // group} {what} can't be divided evenly among {replicas} replicas; "
            f"set batch_size to a multiple of {replicas}"
        )
    share = rows // replicas
    local = getattr(strategy.extended, "_num_devices_per_worker", None)
    local = replicas if local is None else local
    first = _worker_rank(strategy) * local if local < replicas else 0
    return [((first + n) * share, (first + n + 1) * share) for n in range(local)]


def _worker_rank(strategy: tf.distribute.Strategy) -> int:
    resolver = strategy.cluster_resolver
    if resolver.task_type == "chief":
        return 0
    return int(resolver.task_id) + int("chief" in resolver.cluster_spec().jobs)


def _cluster() -> dict[str, list[str]]:
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return {}
    try:
        return dict(json.loads(text).get("cluster", {}))
    except (ValueError, AttributeError, TypeError):
        raise UserError("the environment variable TF_CONFIG is not the JSON of a cluster") from None

"""One small finished run, shared by the tests that only look at it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from trainer.config.job import JobConfig
from trainer.config.settings import Settings

#: A catalogue and a net so small that a whole job takes seconds.
SMALL = {
    "model_id": "mildnet",
    "model.trunk": "convnet_small(widths=(16, 32, 64))",
    "model.embedding_dim": 32,
    "image_size": 32,
    "dataset": "synthetic",
    "dataset.classes": 48,
    "dataset.views": 8,
    "dataset.size": 64,
    "loss": "triplet_semihard",
    "loss.margin": 0.2,
    "batch_size": 32,
    "optimizer": "adam",
    "lr": 0.003,
    "steps": 60,
    "train.validate_every": 20,
    "train.checkpoint_every": 20,
    "train.log_every": 20,
}


def small_config(data_path, *overrides, name="small", **changes):
    """The small job on generated pictures below `data_path`."""
    values = {**SMALL, "data_path": str(data_path), **changes}
    return JobConfig.from_mapping(values, overrides, Settings({}), name=name)


def in_a_bucket(run: Path) -> str:
    """Copy a run to a folder of TensorFlow's file system in memory, and return its address."""
    import tensorflow as tf

    remote = f"ram://{uuid.uuid4().hex}/run"
    for path in sorted(run.rglob("*")):
        if path.is_file():
            there = f"{remote}/{path.relative_to(run).as_posix()}"
            tf.io.gfile.makedirs(there.rpartition("/")[0])
            tf.io.gfile.copy(str(path), there)
    return remote


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder that the generated pictures are made in, once."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="session")
def finished(pictures, tmp_path_factory):
    """(config, result) of a whole job."""
    from trainer.launch import job

    config = small_config(pictures)
    return config, job.run(config, run_dir=str(tmp_path_factory.mktemp("runs") / "small"))

"""What weights a job starts with."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.files import absolute, is_remote
from trainer.launch.run_folder import RunFolder

if TYPE_CHECKING:
    import keras

LOG = logging.getLogger(__name__)


def starting_model(config: JobConfig, folder: RunFolder) -> keras.Model:
    """Build the model of `config` with the first of these weights that there are:

    1. **resume**: the run has a checkpoint. The loop restores it, so nothing else is read, which
       may be gone or be slow to get.
    2. **continue**: `init_from` names a finished run. All weights of its model, with a fresh
       optimizer.
    3. **initialise**: `model.weights` names weights of the trunk.
    4. **scratch**: random weights, from the seed.

    Args:
        config: what to build.
        folder: the run; it is only looked at.

    Raises:
        UserError: the weights cannot be had, or are of another model.
    """
    if _resumes(folder):
        return _without_weights(config).build("model", config.image_size)
    if config.init_from:
        model = _without_weights(config).build("model", config.image_size)
        _take_weights(model, config.init_from)
        LOG.info("beginning with the weights of %s", config.init_from)
        return model
    return config.build("model", config.image_size)


def check_start(config: JobConfig, path: str, *, fresh: bool = False) -> None:
    """Check that the run that `init_from` names can be built on, before anything slow.

    Args:
        config: what to do.
        path: run folder of the job.
        fresh: a run that is there will be moved out of the way.

    Raises:
        UserError: there is no such run, it has not finished, or it is the run at `path` itself.
    """
    if not config.init_from:
        return
    if _same(config.init_from, path):
        raise UserError(
            f"init_from={config.init_from}: the job would begin with itself; give it a run folder "
            "of its own (--run-dir)"
        )
    if not fresh and _resumes(RunFolder(path)):
        return
    source = RunFolder(config.init_from)
    if not source.exists("config.json"):
        raise UserError(f"init_from={config.init_from}: not a run folder (no config.json)")
    if not source.exists("model.keras"):
        raise UserError(
            f"init_from={config.init_from}: the run has not finished (no model.keras); give the "
            "command that began it again, and it goes on"
        )


def _resumes(folder: RunFolder) -> bool:
    """Whether the job has begun, and all that its start was needed for is written."""
    from trainer.training.checkpoint import CheckpointFolder

    begun = bool(CheckpointFolder(folder.file("checkpoints")).steps())
    return begun and folder.exists("evaluation.json")


def _without_weights(config: JobConfig) -> JobConfig:
    parameters = config.parameters["model"]
    if "weights" not in parameters:
        return config
    model = {**parameters, "weights": "none"}
    return dataclasses.replace(config, parameters={**config.parameters, "model": model})


def _take_weights(model: keras.Model, run: str) -> None:
    from trainer.launch.evaluating import load_model
    from trainer.models.weights.assign import assign
    from trainer.training.step import to_numpy

    source = load_model(RunFolder(run))
    arrays = {weight.path: to_numpy(weight.value) for weight in source.weights}
    try:
        assign(model, arrays, f"init_from={run}")
    except UserError as error:
        raise UserError(f"{error}; the models of both runs have to be the same") from None


def _same(one: str, other: str) -> bool:
    if is_remote(one) or is_remote(other):
        return absolute(one) == absolute(other)
    return os.path.realpath(absolute(one)) == os.path.realpath(absolute(other))

"""What weights a job starts with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.files import absolute, is_file, is_remote
from trainer.launch.modules import build_model
from trainer.launch.run_folder import RunFolder

if TYPE_CHECKING:
    import keras
    import numpy as np

LOG = logging.getLogger(__name__)

#: Files of weights: a model as a job saves it, a checkpoint.
FILES = (".keras", ".npz")


def starting_model(config: JobConfig, folder: RunFolder) -> keras.Model:
    """Build the model of `config` with the first of these weights that there are:

    1. **resume**: the run has a checkpoint. The loop restores it, so nothing else is read, which
       may be gone or be slow to get.
    2. **continue**: `init_from` names weights. All of them, or those that match, with a fresh
       optimizer. `restored.json` of the run says of which training they were, and what matched.
    3. **initialise**: `model.weights` names weights of the trunk.
    4. **scratch**: random weights, from the seed.

    A module of the user's own always builds its model with whatever weights it reads.

    Args:
        config: what to build.
        folder: the run.

    Raises:
        UserError: the weights cannot be had, or are of another model.
    """
    if _resumes(folder):
        return build_model(without_weights(config))
    if config.init_from and config.init_match == "matching":
        model = build_model(config)
        _note(folder, config.init_from, _take_matching(model, config.init_from))
        return model
    if config.init_from:
        model = build_model(without_weights(config))
        _take_all(model, config.init_from)
        _note(folder, config.init_from, {})
        return model
    return build_model(config)


def weights_of(run: RunFolder) -> str:
    """Return what tells the weights of a finished run from those of any other training: a hash of
    its config and of what it reached, 64 hex digits."""
    reached = run.read_json("evaluation.json").get("trained", {}).get("metrics")
    text = json.dumps([run.config().fingerprint(), reached], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_start(config: JobConfig, path: str, *, fresh: bool = False) -> None:
    """Check that the run that `init_from` names can be built on, before anything slow.

    Args:
        config: what to do.
        path: run folder of the job.
        fresh: a run that is there will be deleted.

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
    if config.init_from.endswith(FILES):
        if not is_file(config.init_from):
            raise UserError(f"init_from={config.init_from}: no such file")
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


def without_weights(config: JobConfig) -> JobConfig:
    """Return a config whose model begins with random weights, which others replace."""
    parameters = config.parameters.get("model", {})
    if "weights" not in parameters:
        return config
    model = {**parameters, "weights": "none"}
    return dataclasses.replace(config, parameters={**config.parameters, "model": model})


def _take_all(model: keras.Model, source: str) -> None:
    from trainer.models.weights.assign import assign

    arrays = _arrays(source)
    try:
        assign(model, arrays, f"init_from={source}")
    except UserError as error:
        raise UserError(
            f"{error}; the models of both have to be the same, or init_match=matching takes what "
            "they share"
        ) from None
    LOG.info("beginning with the weights of %s", source)


def _take_matching(model: keras.Model, source: str) -> dict[str, Any]:
    from trainer.models.weights.assign import assign_matching

    matched = assign_matching(model, _arrays(source), f"init_from={source}")
    LOG.info("beginning with weights of %s: %s", source, matched)
    return dataclasses.asdict(matched)


def _note(folder: RunFolder, source: str, matched: Mapping[str, Any]) -> None:
    import tensorflow as tf

    from trainer.training.strategy import is_chief

    if is_chief(tf.distribute.get_strategy()):
        run = None if source.endswith(FILES) else weights_of(RunFolder(source))
        folder.write_json("restored.json", {"source": source, "weights": run, **matched})


def _arrays(source: str) -> dict[str, np.ndarray]:
    """Return the weights that `init_from` names, by path."""
    from trainer.launch.evaluating import load_keras, load_model
    from trainer.training.checkpoint import load
    from trainer.training.step import to_numpy

    if source.endswith(".npz"):
        prefix = "model/"
        arrays, _ = load(source)
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    model = load_keras(source) if source.endswith(".keras") else load_model(RunFolder(source))
    return {weight.path: to_numpy(weight.value) for weight in model.weights}


def _same(one: str, other: str) -> bool:
    if is_remote(one) or is_remote(other):
        return absolute(one) == absolute(other)
    return os.path.realpath(absolute(one)) == os.path.realpath(absolute(other))

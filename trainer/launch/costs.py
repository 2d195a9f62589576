"""What a run costs to train, to keep and to use: the comparison table of the MILDNet papers."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.files import gfile, is_remote, read_text
from trainer.launch.run_folder import RunFolder

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Costs:
    """Costs of a finished run, as its files tell; None where they do not.

    Attributes:
        parameters: numbers in the model's weights.
        trainable: those of them that training moved.
        embedding_dim: numbers in an embedding.
        image_size: height and width of the model's input, in pixels.
        model_bytes: size of the SavedModel on disk.
        index_bytes: size of the run's index on disk.
        training_seconds: time of the training steps, without validations and checkpoints.
        images_per_second: mean over the training steps.
    """

    parameters: int | None
    trainable: int | None
    embedding_dim: int | None
    image_size: int
    model_bytes: int
    index_bytes: int
    training_seconds: float | None
    images_per_second: float | None


def run_costs(
    folder: RunFolder,
    config: JobConfig,
    evaluation: Mapping[str, Any],
    training: Sequence[Mapping[str, float]],
) -> Costs:
    """Return what the files of a finished run tell of its costs.

    Args:
        folder: the run.
        config: its config.
        evaluation: content of `evaluation.json`.
        training: what :func:`read_training` returns.
    """
    size = evaluation.get("model") or _size_of_saved(folder, config)
    seconds = training_seconds(config, training)
    images = training[-1]["step"] * images_per_step(config) if training else 0.0
    return Costs(
        parameters=size.get("parameters"),
        trainable=size.get("trainable"),
        embedding_dim=size.get("embedding_dim"),
        image_size=config.image_size,
        model_bytes=folder_bytes(folder.file("model")),
        index_bytes=folder_bytes(folder.file("index")),
        training_seconds=seconds,
        images_per_second=images / seconds if seconds else None,
    )


def model_size(model: keras.Model, config: JobConfig) -> dict[str, int]:
    """Return `parameters`, `trainable` and `embedding_dim` of a model.

    Args:
        model: as it was trained: its frozen layers are frozen.
        config: says which of the other weights training leaves alone.
    """
    from trainer.models import trunk_variables
    from trainer.training.groups import chosen_weights

    options = config.training
    weights = chosen_weights(model, options, trunk_variables(model))
    return {
        "parameters": int(model.count_params()),
        "trainable": sum(math.prod(weight.shape) for weight in weights),
        "embedding_dim": math.prod(model.output_shape[1:]),
    }


def _size_of_saved(folder: RunFolder, config: JobConfig) -> dict[str, int]:
    """Return the size of a run whose job did not note it."""
    from trainer.launch.evaluating import load_model

    return model_size(load_model(folder), config) if folder.exists("model.keras") else {}


def read_training(folder: RunFolder) -> list[dict[str, float]]:
    """Return the rows of `training.csv`, each with the numbers it has; none without the file.

    Raises:
        UserError: it is damaged.
    """
    if not folder.exists("training.csv"):
        return []
    rows = csv.DictReader(io.StringIO(read_text(folder.file("training.csv"))))
    try:
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (ValueError, TypeError):
        raise UserError(
            f"{folder.file('training.csv')}: damaged, or not written by mildnet"
        ) from None


def images_per_step(config: JobConfig) -> int:
    """Return how many images all devices together see in a step."""
    return config.batch_size * config.example_rows() * config.training.accumulate


def training_seconds(config: JobConfig, training: Sequence[Mapping[str, float]]) -> float | None:
    """Return the time of the training steps from the images/s of each row, None without rows.

    Each row has the speed since the row before, so this is right also for a job that was stopped
    and went on later. Rows of a summary alone have none.
    """
    seconds, before = 0.0, 0.0
    for row in training:
        if "images_per_second" not in row:
            continue
        if not row["images_per_second"]:
            return None
        seconds += (row["step"] - before) * images_per_step(config) / row["images_per_second"]
        before = row["step"]
    return seconds or None


def folder_bytes(path: str) -> int:
    """Return the size of all files in and below a local or remote folder; 0 if there is none."""
    if not is_remote(path):
        return sum(
            os.path.getsize(f"{place}/{name}")
            for place, _, names in os.walk(path)
            for name in names
        )
    # Folders of a bucket come with a slash at the end, and with two no file is found.
    return sum(
        gfile().stat(f"{place.rstrip('/')}/{name}").length
        for place, _, names in gfile().walk(path)
        for name in names
    )

"""Modules of TF-Hub, and any SavedModel that turns pictures into features."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import keras

from trainer.config import UserError, register
from trainer.data.files import absolute, cache_folder, gfile, is_remote
from trainer.models.layers import FitPixels
from trainer.models.saved_model import SavedModelLayer
from trainer.models.saved_model_formats import FILE

#: Range of pixels -> factor and offset that make it of 0..255.
RANGES = {"0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0), "0..255": (1.0, 0.0)}


@register(
    "trunk",
    "hub",
    skips="none",
    preprocessing="none",
    minimum="1",
    argument="handle",
    brings="pixels, weights",
)
def hub(
    images: Any,
    weights: str | None,
    *,
    handle: str,
    input_range: Literal["0..1", "-1..1", "0..255"] = "0..1",
    size: int | None = None,
    signature: str | None = None,
    output: str | None = None,
) -> keras.Model:
    """A module of TF-Hub or another SavedModel, of TensorFlow 1 or 2: its feature vector or map.

    It brings its weights whatever `model.weights` says, unless that is the path of a file. They are
    trained unless `model.frozen=all`, after which statistics of batch normalisation stay too.

    Args:
        handle: folder of a SavedModel, local or such as gs://..., or its address on tfhub.dev or
            kaggle.com, or of an archive (the extra `hub`).
        input_range: what pixels it was made for; modules of TF-Hub are for 0..1.
        size: height and width in pixels that pictures are resized to for it, above 0; default:
            they stay as they are.
        signature: which of its signatures to run; default: what it can be called as, else
            `default` or `serving_default`, or its only one.
        output: which of several outputs; default: `default`, or the only one.

    Raises:
        UserError: no SavedModel there, it cannot be had, or it does not take such pictures.
        ValueError: a size below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be above 0, not {size}")
    folder = find_saved_model(handle)
    scale, offset = RANGES[input_range]
    x = FitPixels(None if size is None else (size, size), scale, offset, name="pixels")(images)
    try:
        features = SavedModelLayer(str(folder), signature, output, name="hub")(x)
    except (TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = f"{x.shape[1]} x {x.shape[2]} pixels"
        raise UserError(
            f"{handle} cannot be a trunk for pictures of {where}: {lines[0]}"
        ) from error
    return keras.Model(images, features, name="hub")


def find_saved_model(handle: str) -> Path:
    """Return the local folder of a SavedModel, downloaded if need be.

    Args:
        handle: see :func:`hub`.

    Raises:
        UserError: it is not there, or cannot be had.
    """
    if not is_remote(handle):
        folder = Path(absolute(handle))
        if not folder.is_dir():
            raise UserError(
                f"no folder {handle}: give that of a SavedModel, or an address (https://...)"
            )
    else:
        folder = _resolved(handle)
    if not (folder / FILE).is_file():
        raise UserError(f"{handle} is not a SavedModel: it holds no {FILE}")
    return folder


def _resolved(handle: str) -> Path:
    # TF-Hub's own default is the folder for temporary files, which a job may outlive.
    os.environ.setdefault("TFHUB_CACHE_DIR", str(cache_folder() / "tfhub"))
    try:
        import tensorflow_hub
    except ImportError as error:
        raise UserError(
            f'{handle} needs {error.name}: pip install "mildnet[hub]", or give the folder of a'
            " SavedModel"
        ) from None
    try:
        found = tensorflow_hub.resolve(handle)
        return _copied(found) if is_remote(found) else Path(found)
    except (
        Exception
    ) as error:  # what the resolvers raise differs by address, and is documented nowhere
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{handle} cannot be downloaded ({reason}): run once with network (it is kept in"
            f" {os.environ['TFHUB_CACHE_DIR']}; TFHUB_CACHE_DIR says where), or unpack it and give"
            " its folder"
        ) from error


def _copied(remote: str) -> Path:
    """Return a local copy of a remote folder, kept below the cache."""
    files = gfile()
    target = Path(os.environ["TFHUB_CACHE_DIR"]) / remote.partition("://")[2].strip("/")
    if not (target / FILE).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent))
        for folder, _, names in files.walk(remote):
            below = part / folder.removeprefix(remote).strip("/")
            below.mkdir(parents=True, exist_ok=True)
            for name in names:
                files.copy(f"{folder.rstrip('/')}/{name}", str(below / name))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    return target

"""Export of an embedding model as a SavedModel that plain TensorFlow can run."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer.config import UserError
from trainer.data.decode import decode
from trainer.data.files import rename_folder
from trainer.serving.precision import Precision, copy_of
from trainer.serving.views import Views

#: What an exported folder says about itself. TensorFlow Serving leaves `assets.extra` alone.
CARD = Path("assets.extra") / "mildnet.json"
FORMAT = 1


def export(
    model: keras.Model,
    folder: str | Path,
    *,
    image_size: int | None = None,
    precision: Precision = "float32",
    tta: str = "none",
) -> Path:
    """Write `model` to `folder` as a SavedModel that needs none of this library.

    Signatures, each with the output `embedding`, float32 (B, D):

    - `serving_default`: `image_bytes`, string (B,): encoded pictures (JPEG, PNG, GIF, BMP, WebP);
    - `images`: `images`, float32 (B, H, W, 3), RGB 0..255; any other size than the model's is
      rounded to whole numbers and resized as a decoded file would be;
    - `images_uint8`: the same for `images` as uint8.

    Decoding and resizing are those of training and evaluation; B may be 0. The folder is written
    under another name and renamed when complete, so it never holds half a model.

    Args:
        model: images (B, S, S, 3) float 0..255 -> embeddings (B, D). It is not changed.
        folder: where to write. An earlier export is replaced; other folders are left alone.
        image_size: height and width in pixels that pictures are resized to; by default the
            model's input size.
        precision: `float32` serves a model trained in mixed precision in float32, since few CPUs
            compute in 16 bits at any speed; `float16` and `bfloat16` store weights in 2 bytes each
            and compute in them, see :func:`trainer.serving.precision.copy_of`; `model` keeps the
            types it was trained with.
        tta: views of each picture whose mean is its embedding, see
            :meth:`trainer.serving.views.Views.parse`; default `none`.

    Returns:
        The path of the folder.

    Raises:
        UserError: `folder` exists and is not an export, or cannot be written; a `tta` that cannot
            be read; a model that cannot be had in `precision`.
        ValueError: `image_size` is not the model's, or an unknown precision.
    """
    folder = Path(folder)
    size = model.input_shape[1] if image_size is None else image_size
    if size is None or model.input_shape[1:3] not in ((size, size), (None, None)):
        raise ValueError(f"the model takes pictures of {model.input_shape[1:3]}, not {size}")
    if folder.exists() and not (folder / CARD).is_file() and not _is_empty(folder):
        raise UserError(f"{folder} exists and is not an exported model: choose another folder")
    views = Views.parse(tta)
    module = _Exported(copy_of(model, precision), size, views)
    card = {
        "format": FORMAT,
        "image_size": size,
        "embedding_dim": int(model.output_shape[-1]),
        "model": model.name,
        "precision": precision,
        "tta": str(views),
    }
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        tf.saved_model.save(module, str(part), signatures=module.signatures())
        # The sizes let a reader tell a folder that was copied in part from a whole one.
        sizes = {str(p.relative_to(part)): p.stat().st_size for p in _files(part)}
        (part / CARD).parent.mkdir()
        (part / CARD).write_text(json.dumps({**card, "files": sizes}, indent=2), encoding="utf-8")
        _replace(part, folder)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot write the exported model to {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


class _Exported(tf.Module):
    """The functions of the SavedModel and the variables they use."""

    def __init__(self, model: keras.Model, size: int, views: Views) -> None:
        super().__init__(name="mildnet")
        self.variables_used = [variable.value for variable in model.weights]
        pixels = tf.TensorSpec((size, size, 3), tf.uint8)

        def embed(images: Any) -> dict[str, Any]:
            images = tf.ensure_shape(tf.cast(images, tf.float32), (None, size, size, 3))
            return {"embedding": views.embed(self.net, images)}

        def from_bytes(image_bytes: Any) -> dict[str, Any]:
            return embed(
                tf.map_fn(lambda one: decode(one, size), image_bytes, fn_output_signature=pixels)
            )

        def fit(images: Any) -> Any:
            # By way of PNG, which loses nothing: arrays shrink just as files do.
            return tf.map_fn(
                lambda one: decode(tf.io.encode_png(one, compression=1), size),
                tf.saturate_cast(tf.round(tf.cast(images, tf.float32)), tf.uint8),
                fn_output_signature=pixels,
            )

        def from_images(images: Any) -> dict[str, Any]:
            fits = tf.reduce_all(tf.shape(images)[1:3] == size)
            # Pictures of the right size are not rounded: the model takes fractions.
            return embed(tf.cond(fits, lambda: images, lambda: tf.cast(fit(images), images.dtype)))

        def function(body: Any, **argument: Any) -> Any:
            spec = [tf.TensorSpec(*parts, name) for name, parts in argument.items()]
            # Nothing here for AutoGraph to rewrite, and trying takes as long as all the rest.
            return tf.function(body, input_signature=spec, autograph=False)

        # Traced once for all signatures and views, which are that much smaller on disk.
        self.net = function(
            lambda images: model(images, training=False),
            images=((None, size, size, 3), tf.float32),
        )
        shape = (None, None, None, 3)
        self.from_bytes = function(from_bytes, image_bytes=((None,), tf.string))
        self.from_floats = function(from_images, images=(shape, tf.float32))
        self.from_uint8 = function(from_images, images=(shape, tf.uint8))

    def signatures(self) -> dict[str, Any]:
        return {
            "serving_default": self.from_bytes,
            "images": self.from_floats,
            "images_uint8": self.from_uint8,
        }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _replace(part: Path, folder: Path) -> None:
    """Put `part` in the place of `folder`, which is lost only once `part` stands there."""
    card = CARD.as_posix()
    if not folder.exists():
        rename_folder(part, folder, first=card)
        return
    old = part.with_suffix(".old")
    rename_folder(folder, old, first=card)
    try:
        rename_folder(part, folder, first=card)
    except OSError:
        rename_folder(old, folder, first=card)
        raise
    shutil.rmtree(old, ignore_errors=True)

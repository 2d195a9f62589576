"""An exported model, loaded and ready to embed pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import UserError
from trainer.data.decode import decode_file
from trainer.data.files import sha256
from trainer.serving.export import CARD, FORMAT


class Embedder:
    """Embeds pictures with a model that :func:`trainer.serving.export.export` wrote.

    Args:
        folder: the exported folder.
        batch_size: most pictures that go through the model at once.
        warm_up: numbers of pictures to embed now, as arrays and as files, for the first call that
            somebody waits for not to be the slow one: it works out how the model is run, and where
            code is compiled it is compiled for each number. Default: none.

    Attributes:
        dim: length of an embedding.
        image_size: height and width in pixels that the model sees.
        precision: type of its weights and layers, as it was exported.
        tta: views of each picture, see :meth:`trainer.serving.views.Views.parse`.

    Raises:
        UserError: there is no such folder, it is no export, or a part of it is missing.
        ValueError: `batch_size` or a number of `warm_up` is below 1.
    """

    def __init__(
        self, folder: str | Path, *, batch_size: int = 64, warm_up: Sequence[int] = ()
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be above 0, not {batch_size}")
        if min(warm_up, default=1) < 1:
            raise ValueError(f"warm_up must be numbers above 0, not {tuple(warm_up)}")
        self.folder = Path(folder)
        self.batch_size = batch_size
        card = _read_card(self.folder)
        self.dim: int = card["embedding_dim"]
        self.image_size: int = card["image_size"]
        self.precision: str = card.get("precision", "float32")
        self.tta: str = card.get("tta", "none")
        self._decode_files = tf.function(
            self._decode, input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False
        )
        try:
            # The loaded object owns the variables; signatures alone do not keep them alive.
            self._model = tf.saved_model.load(str(self.folder))
            signatures = self._model.signatures
            self._from_bytes = signatures["serving_default"]
            self._from_floats = signatures["images"]
            self._from_uint8 = signatures["images_uint8"]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise UserError(
                f"the exported model in {self.folder} cannot be loaded, export it again:"
                f" {_first_line(error)}"
            ) from error
        for count in warm_up:
            self._warm_up(count)

    def _warm_up(self, count: int) -> None:
        images = np.zeros((count, self.image_size, self.image_size, 3), np.uint8)
        files = [tf.io.encode_jpeg(image).numpy() for image in images]
        for embeddings in (
            self(images),
            self(images.astype(np.float32)),
            self._from_bytes(image_bytes=tf.constant(files))["embedding"],
        ):
            # Work on a device is done when its result is looked at.
            np.asarray(embeddings)

    def fingerprint(self) -> str:
        """Return the SHA-256 (64 hex digits) of all files of the exported model.

        Equal ones give equal embeddings. A model that is exported a second time may have another.
        The files are read once, by the first call.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names = sorted(path for path in self.folder.rglob("*") if path.is_file())
        parts = [f"{name.relative_to(self.folder).as_posix()} {sha256(name)}" for name in names]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __call__(self, images: Any) -> tf.Tensor:
        """Embed one batch of images (B, H, W, 3), uint8 or float 0..255, as a tensor (B, dim)."""
        images = tf.convert_to_tensor(images)
        if images.dtype == tf.uint8:
            return self._from_uint8(images=images)["embedding"]
        return self._from_floats(images=tf.cast(images, tf.float32))["embedding"]

    def embed_files(self, paths: Iterable[str | Path]) -> np.ndarray:
        """Embed picture files of any size, with Pillow at hand for rare formats.

        Args:
            paths: files or URLs that `tf.io.gfile` reads.

        Returns:
            float32 (N, dim), a row for each path in order.

        Raises:
            UserError: a file that is missing or no picture; the message names it.
        """
        names = [str(path) for path in paths]
        return self._in_batches(
            names, lambda part: _naming(part, part, lambda p: self(self._decode_files(p)))
        )

    def embed_bytes(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Embed encoded pictures, by the exported model alone.

        Args:
            pictures: contents of JPEG, PNG, GIF, BMP or WebP files.

        Returns:
            float32 (N, dim), a row for each picture in order.

        Raises:
            UserError: one of them is no picture; the message says which, counted from 1.
        """
        named = [(f"picture {n}", contents) for n, contents in enumerate(pictures, start=1)]
        return self._in_batches(
            named,
            lambda part: _naming(
                [name for name, _ in part],
                [contents for _, contents in part],
                lambda p: self._from_bytes(image_bytes=p)["embedding"],
            ),
        )

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """Embed decoded pictures.

        Args:
            images: (N, H, W, 3) RGB, uint8 or float 0..255; any height and width.

        Returns:
            float32 (N, dim), a row for each picture in order.

        Raises:
            ValueError: another shape.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or not images.shape[1] or not images.shape[2]:
            raise ValueError(f"images must have the shape (N, H, W, 3), not {images.shape}")
        return self._in_batches(images, lambda part: self(part).numpy())

    def _decode(self, paths: tf.Tensor) -> tf.Tensor:
        size = self.image_size
        pixels = tf.TensorSpec((size, size, 3), tf.uint8)
        return tf.map_fn(lambda path: decode_file(path, size), paths, fn_output_signature=pixels)

    def _in_batches(self, items: Any, embed: Callable[[Any], np.ndarray]) -> np.ndarray:
        rows = np.empty((len(items), self.dim), np.float32)
        for begin in range(0, len(items), self.batch_size):
            part = items[begin : begin + self.batch_size]
            rows[begin : begin + len(part)] = embed(part)
        return rows


def _naming(
    names: Sequence[str], items: Sequence[Any], embed: Callable[[tf.Tensor], tf.Tensor]
) -> np.ndarray:
    """Embed `items`, or raise a UserError with the name of the one that cannot be."""
    try:
        return embed(tf.constant(items, tf.string)).numpy()
    except tf.errors.NotFoundError as error:
        if len(items) == 1:
            raise UserError(f"{names[0]}: no such file") from error
    except tf.errors.OpError as error:
        if len(items) == 1:
            raise UserError(f"{names[0]} is not a picture that can be decoded") from error
    # One of the batch is broken: one at a time, the error falls on the one it belongs to.
    return np.concatenate(
        [_naming([name], [item], embed) for name, item in zip(names, items, strict=True)]
    )


def _read_card(folder: Path) -> dict[str, Any]:
    """Return what the folder says about itself, once all of its files are found complete."""
    if not folder.is_dir():
        raise UserError(f"no exported model: there is no folder {folder}")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        version, files = card["format"], dict(card["files"])
        _ = int(card["embedding_dim"]), int(card["image_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds no model exported by mildnet: {CARD} is missing") from None
    if version != FORMAT:
        raise UserError(f"{folder} has format {version}, this mildnet reads {FORMAT}: export again")
    for name, size in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else "no"
        if found != size:
            raise UserError(f"{path} has {found} bytes instead of {size}: copy or export it again")
    return card


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

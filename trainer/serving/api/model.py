"""An exported model behind the search service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.decode import decode
from trainer.serving.api.pictures import Part
from trainer.serving.embedder import Embedder


class Model:
    """Decodes pictures as training and `mildnet search` do, and embeds batches of them.

    Args:
        folder: the exported model.
        most: largest batch.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, folder: str | Path, most: int) -> None:
        # A GPU prepares itself for each number of pictures anew, so there are few of them; on a
        # CPU, each picture more costs as much as any other.
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        powers = [2**exponent for exponent in range(most.bit_length()) if 2**exponent < most]
        self._sizes = [*powers, most] if has_gpu else []
        self.embedder = Embedder(folder, batch_size=most, warm_up=self._sizes or (1, most))
        size = self.embedder.image_size
        files, edges = tf.TensorSpec((None,), tf.string), tf.TensorSpec((None, 4), tf.float32)
        self._whole = _together(lambda file: decode(file, size, pillow=True), size, files)
        self._part = _together(
            lambda file, box: decode(file, size, box, pillow=True), size, files, edges
        )
        # What is done for the first time takes a while, and nobody should wait for it.
        blank = np.zeros((2, 2, 3), np.uint8)
        for encode in (tf.io.encode_jpeg, tf.io.encode_png):
            for box in (None, (0, 0, 1, 1)):
                self.decode([(encode(blank).numpy(), box)])

    def decode(self, parts: Sequence[Part]) -> list[np.ndarray]:
        """Return what the model sees of stored pictures, uint8 (S, S, 3) each.

        Args:
            parts: of each the file, and left, top, right, bottom in pixels as stored; None for
                all of it.

        Raises:
            tf.errors.OpError: one of them cannot be decoded.
        """
        with tf.device("CPU:0"):
            files = tf.constant([content for content, _ in parts], tf.string)
            if all(box is None for _, box in parts):
                return list(self._whole(files).numpy())
            edges = np.full((len(parts), 4), np.nan, np.float32)
            for row, (_, box) in zip(edges, parts, strict=True):
                if box is not None:
                    left, top, right, bottom = box
                    row[:] = left, top, right - left, bottom - top
            return list(self._part(files, tf.constant(edges)).numpy())

    def embed(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings, float32 (N, D), of decoded pictures, uint8 (S, S, 3) each."""
        count = len(pictures)
        size = min((size for size in self._sizes if size >= count), default=count)
        images = np.zeros((size, *pictures[0].shape), np.uint8)
        np.stack(pictures, out=images[:count])
        return self.embedder.embed_images(images)[:count]


def _together(one: Callable[..., tf.Tensor], size: int, *signature: tf.TensorSpec) -> Any:
    """Return a function, traced once, that decodes any number of pictures by one call.

    A call costs as much again as a small picture. They are decoded one after the other, as a large
    one takes much memory.
    """
    pixels = tf.TensorSpec((size, size, 3), tf.uint8)
    return tf.function(
        lambda *parts: tf.map_fn(
            lambda part: one(*part), parts, parallel_iterations=1, fn_output_signature=pixels
        ),
        signature,
        autograph=False,
    )

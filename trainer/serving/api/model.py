"""An exported model behind the search service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer.data.decode import decode
from trainer.serving.api.pictures import Box
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
        # Constants are made outside of the programs, which are traced once for any picture.
        contents, edges = tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.float32)
        self._whole = tf.function(
            lambda file: decode(file, size, pillow=True), [contents], autograph=False
        )
        self._part = tf.function(
            lambda file, box: decode(file, size, box, pillow=True),
            [contents, edges],
            autograph=False,
        )
        # What is done for the first time takes a while, and nobody should wait for it.
        blank = np.zeros((2, 2, 3), np.uint8)
        for encode in (tf.io.encode_jpeg, tf.io.encode_png):
            for box in (None, (0, 0, 1, 1)):
                self.decode(encode(blank).numpy(), box)

    def decode(self, content: bytes, box: Box | None) -> np.ndarray:
        """Return what the model sees of a stored picture, uint8 (S, S, 3).

        Args:
            content: the file.
            box: left, top, right, bottom in pixels as stored; None for all of it.

        Raises:
            tf.errors.OpError: it cannot be decoded.
        """
        with tf.device("CPU:0"):
            file = tf.constant(content, tf.string)
            if box is None:
                return self._whole(file).numpy()
            left, top, right, bottom = box
            return self._part(
                file, tf.constant([left, top, right - left, bottom - top], tf.float32)
            ).numpy()

    def embed(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings, float32 (N, D), of decoded pictures, uint8 (S, S, 3) each."""
        images = np.stack(pictures)
        size = min((size for size in self._sizes if size >= len(images)), default=len(images))
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        return self.embedder.embed_images(padded)[: len(images)]

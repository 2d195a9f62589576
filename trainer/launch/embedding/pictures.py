"""From rows of a catalogue to their embeddings: files read once, decoded in threads."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.data.decode import decode
from trainer.data.files import is_remote
from trainer.data.table import ItemTable
from trainer.data.verify import fault_before_decoding, fault_of_kind, read_picture
from trainer.launch.embedding.blocks import Block
from trainer.launch.embedding.changes import states_of
from trainer.launch.in_flight import in_flight
from trainer.retrieval.embed import embed
from trainer.retrieval.embedding_cache import WIDTH, picture_key
from trainer.serving.embedder import Embedder

#: Remote files that are asked for at once: each answers after a while.
READERS = 64


@dataclass(frozen=True)
class Decoded:
    """The pictures of a batch of rows: those that can be used, and what is wrong with the others.

    Attributes:
        rows: int64 (N,), in order.
        images: uint8 (N, S, S, 3).
        keys: uint8 (N, 32).
        states: int64 (M, 2), of all rows, see :mod:`trainer.launch.embedding.changes`.
        faults: of the other rows.
    """

    rows: np.ndarray
    images: np.ndarray
    keys: np.ndarray
    states: np.ndarray
    faults: dict[int, str]


class PictureEmbedder:
    """Embeds batches of rows, while threads read and decode the next ones.

    Each file is read once, and what is wrong with it is what :func:`trainer.data.verify.usable`
    says.

    Args:
        embedder: the model.
        model: its fingerprint, for the keys.
    """

    def __init__(self, embedder: Embedder, model: str) -> None:
        self._embedder = embedder
        self._model = model
        self._threads = (os.cpu_count() or 1) + 1
        self._readers = ThreadPoolExecutor(READERS)
        self._decode = {boxed: _decoder(embedder.image_size, boxed) for boxed in (False, True)}

    def embed(
        self, items: ItemTable, batches: Iterable[tuple[int, int]], first: int = 0
    ) -> Iterator[Block]:
        """Yield what comes of batches of rows, each as a block, in order.

        Args:
            items: has the rows.
            batches: of each the first row of the catalogue, and the one behind the last.
            first: row of the catalogue that row 0 of `items` is.

        Raises:
            UserError: an embedding is not finite; the message names the picture.
        """

        def decoded(batch: tuple[int, int]) -> Decoded:
            begin, end = batch
            rows = slice(begin - first, end - first)
            return self._decoded(items.path[rows].tolist(), items.box[rows], begin)

        with ThreadPoolExecutor(self._threads) as pool, warnings.catch_warnings():
            # Pillow warns of pictures above a limit of its own; here that of `verify` decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            try:
                for (begin, end), found in in_flight(pool, decoded, batches, 2 * self._threads):
                    vectors = self._vectors(found, items.path[found.rows - first].tolist())
                    yield Block(
                        begin, end, found.rows, vectors, found.keys, found.states, found.faults
                    )
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _vectors(self, found: Decoded, paths: list[str]) -> np.ndarray:
        dim = self._embedder.dim
        if not paths:
            return np.empty((0, dim), np.float32)
        return embed(self._embedder, [{"image": found.images}], len(paths), dim=dim, paths=paths)

    def _decoded(self, paths: list[str], boxes: np.ndarray, first: int) -> Decoded:
        # Before the files are read: one that is written to meanwhile is found to have changed.
        states = states_of(paths)
        each = self._readers.map if any(map(is_remote, paths)) else map
        contents, faults = zip(*each(read_picture, paths), strict=True)
        why = {
            number: fault or fault_before_decoding(contents[number], boxes[number])
            for number, fault in enumerate(faults)
        }
        good = [number for number, fault in why.items() if not fault]
        images, refused = self._pixels([contents[number] for number in good], boxes[good])
        for place in refused:
            why[good[place]] = fault_of_kind(contents[good[place]])
        good = [number for number in good if not why[number]]
        keys = [picture_key(contents[number], boxes[number], self._model) for number in good]
        return Decoded(
            rows=first + np.array(good, np.int64),
            images=images,
            keys=np.array(keys, np.uint8).reshape(len(good), WIDTH),
            states=states,
            faults={first + number: fault for number, fault in why.items() if fault},
        )

    def _pixels(self, contents: list[bytes], boxes: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Return the pictures that can be decoded, uint8 (N, S, S, 3), and which cannot."""
        decode = self._decode[bool(np.isfinite(boxes).any())]
        try:
            return decode(tf.constant(contents, tf.string, (len(contents),)), boxes).numpy(), []
        except (tf.errors.OpError, MemoryError):
            if len(contents) == 1:
                size = self._embedder.image_size
                return np.empty((0, size, size, 3), np.uint8), [0]
        # One at a time, the error falls on the picture that it belongs to.
        found = [
            self._pixels([one], box[np.newaxis]) for one, box in zip(contents, boxes, strict=True)
        ]
        images = np.concatenate([image for image, _ in found])
        return images, [number for number, (_, refused) in enumerate(found) if refused]


@functools.cache
def _decoder(size: int, boxed: bool) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return what decodes pictures by their contents (N,) and boxes (N, 4)."""
    pixels = tf.TensorSpec((size, size, 3), tf.uint8)

    def decode_all(contents: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        # On the processor, wherever the model is: this is a part of the input.
        with tf.device("CPU:0"):
            if boxed:
                return tf.map_fn(
                    lambda one: decode(one[0], size, one[1], pillow=True),
                    (contents, boxes),
                    fn_output_signature=pixels,
                )
            return tf.map_fn(
                lambda one: decode(one, size, pillow=True), contents, fn_output_signature=pixels
            )

    given = [tf.TensorSpec((None,), tf.string), tf.TensorSpec((None, 4), tf.float32)]
    return tf.function(decode_all, input_signature=given, autograph=False)

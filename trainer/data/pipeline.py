"""Batches of pictures for training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.data import decode
from trainer.data.augment import Augment, Plain
from trainer.data.samplers import Sampler
from trainer.data.table import ItemTable

#: Keeps the random numbers of pictures apart from those of samplers with the same seed.
AUGMENT_STREAM = 0xA6


def train_batches(
    table: ItemTable,
    sampler: Sampler,
    *,
    image_size: int,
    augment: Augment | None = None,
    seed: int = 0,
    start: int = 0,
    stop: int | None = None,
    slices: Sequence[tuple[int, int]] | None = None,
) -> tf.data.Dataset:
    """Return training batches, numbered `start`, `start + 1`, ... without end or up to `stop`.

    Batch t is a pure function of the table, the sampler, the augmentation, `seed` and t: a job that
    goes on at step t gets what it would have got, bit for bit, with any number of threads, with
    `tf.config.experimental.enable_op_determinism()` or without. An image that comes several times
    in a batch is read and decoded once, and changed differently each time.

    Args:
        table: where the pictures are.
        sampler: which rows make batch t.
        image_size: S, side of the pictures, pixels.
        augment: random changes; default none.
        seed: with t and the position in the batch it decides the random changes.
        start: number of the first batch.
        stop: number after the last batch; default no end.
        slices: ranges (low, high) of positions in the batch, yielded one after another for every
            step: the shares of the replicas that this dataset feeds. Default the whole batch.

    Returns:
        Dataset of {"image": uint8 (b, S, S, 3), "label": int64 (b,), "row": int64 (b,)}.

    Raises:
        ValueError: a slice is empty or outside the batch.
        tf.errors.NotFoundError: when run, if a file is missing; the message names it.
    """
    size = sampler.rows_per_batch
    shares = [(0, size)] if slices is None else [(int(low), int(high)) for low, high in slices]
    for low, high in shares:
        if not 0 <= low < high <= size:
            raise ValueError(f"slice ({low}, {high}) is not inside a batch of {size} rows")
    here = np.concatenate([np.arange(low, high) for low, high in shares])
    changes = augment or Plain()
    looks = changes.draw(np.random.default_rng(0), 1).look.shape[1]

    def plan(step: np.int64) -> tuple[np.ndarray, ...]:
        rows = np.asarray(sampler.batch(int(step)), np.int64)
        sequence = np.random.SeedSequence([seed % 2**64, AUGMENT_STREAM, int(step)])
        # Drawn for the whole batch, so that a picture does not depend on how the batch is shared.
        draws = changes.draw(np.random.Generator(np.random.Philox(sequence)), size)
        return _by_file(table, rows[here], draws.affine[here], draws.look[here])

    def planned(step: tf.Tensor) -> tf.data.Dataset:
        specs = (
            tf.TensorSpec((None,), tf.string),
            tf.TensorSpec((None, 4), tf.float32),
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, None), tf.int64),
            tf.TensorSpec((None, None), tf.int64),
            tf.TensorSpec((None, None, 2, 3), tf.float32),
            tf.TensorSpec((None, None, looks), tf.float32),
        )
        parts = tf.numpy_function(plan, [step], [spec.dtype for spec in specs], stateful=False)
        parts = [tf.ensure_shape(part, spec.shape) for part, spec in zip(parts, specs, strict=True)]
        return tf.data.Dataset.from_tensor_slices(tuple(parts))

    def read(
        path: tf.Tensor,
        box: tf.Tensor,
        position: tf.Tensor,
        label: tf.Tensor,
        row: tf.Tensor,
        affine: tf.Tensor,
        look: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        image = decode.load(tf.io.read_file(path), image_size, box, pillow=True)
        copies = tf.reduce_sum(tf.cast(position >= 0, tf.int32))
        images = decode.warp(image, affine[:copies], image_size)
        if looks:
            images = tf.map_fn(
                lambda pair: changes.look(*pair), (images, look[:copies]), tf.float32
            )
        return {
            "image": decode.to_uint8(images),
            "label": label[:copies],
            "row": row[:copies],
            "position": position[:copies],
        }

    def in_order(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        position = batch.pop("position")
        return tf.cond(
            tf.reduce_all(position[1:] > position[:-1]),
            lambda: batch,
            lambda: {key: tf.gather(value, tf.argsort(position)) for key, value in batch.items()},
        )

    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max if stop is None else stop)
    batches = (
        steps.flat_map(planned)
        .map(read, num_parallel_calls=_cores())
        .rebatch(len(here))
        .map(in_order)
    )
    return batches.prefetch(2).with_options(_options())


def _by_file(
    table: ItemTable, rows: np.ndarray, affine: np.ndarray, look: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Group a batch by file: arrays (files, copies, ...); position -1 pads files with fewer copies."""
    files, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    first = np.full(len(files), len(rows))
    np.minimum.at(first, inverse, np.arange(len(rows)))
    rank = np.argsort(np.argsort(first))
    by_file = np.argsort(rank[inverse], kind="stable")
    files, counts = files[np.argsort(first)], counts[np.argsort(first)]
    begin = np.cumsum(counts) - counts
    turn = np.arange(counts.max())
    filled = turn < counts[:, np.newaxis]
    place = by_file[np.where(filled, begin[:, np.newaxis] + turn, 0)]
    position = np.where(filled, place, -1).astype(np.int32)
    paths = np.array([os.fsencode(path) for path in table.path[files]], object)
    return (
        paths,
        table.box[files],
        position,
        table.label[rows[place]],
        rows[place],
        affine[place],
        look[place],
    )


def eval_batches(table: ItemTable, *, image_size: int, batch_size: int) -> tf.data.Dataset:
    """Return all rows of `table` in order, unchanged, `batch_size` at a time.

    Args:
        table: where the pictures are.
        image_size: S, side of the pictures, pixels.
        batch_size: images in a batch, 1 or more; the last batch may have fewer.

    Returns:
        Dataset of {"image": uint8 (b, S, S, 3), "label": int64 (b,), "row": int64 (b,)}.

    Raises:
        tf.errors.NotFoundError: when run, if a file is missing; the message names it.
    """

    def plan(row: np.int64) -> tuple[bytes, np.ndarray, np.int64]:
        return os.fsencode(table.path[row]), table.box[row], table.label[row]

    def read(row: tf.Tensor) -> dict[str, tf.Tensor]:
        kinds = (tf.string, tf.float32, tf.int64)
        path, box, label = tf.numpy_function(plan, [row], kinds, stateful=False)
        path, label = tf.ensure_shape(path, ()), tf.ensure_shape(label, ())
        image = decode.decode_file(path, image_size, tf.ensure_shape(box, (4,)))
        return {"image": image, "label": label, "row": row}

    rows = tf.data.Dataset.range(len(table))
    batches = rows.map(read, num_parallel_calls=_cores()).batch(batch_size)
    return batches.prefetch(2).with_options(_options())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Order is content here: a batch is made of the elements that follow each other.
    options.deterministic = True
    # Pictures are worked on side by side; splitting one over threads only costs.
    options.threading.max_intra_op_parallelism = 1
    return options

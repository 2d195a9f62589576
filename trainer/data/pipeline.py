"""Batches of pictures for training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.data import decode
from trainer.data.augment import Augment, Plain
from trainer.data.samplers import Sampler
from trainer.data.table import ItemTable

#: Keeps the random numbers of pictures apart from those of samplers with the same seed.
AUGMENT_STREAM = 0xA6

#: Pictures worked on at once by one thread: enough that starting a compiled program costs little,
#: few enough to keep memory small: each takes up to 6 S x S pixels.
GROUP = 16

#: Share of the area above which a part of a picture is not worth asking the decoder for.
WORTHWHILE_PART = 0.6

#: Of a picture that was loaded whole: left, top, right, bottom.
ALL = (0.0, 0.0, 1.0, 1.0)


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
    hold: int = 0,
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
        hold: bytes of memory for decoded pictures. If those of the whole table fit, each is read
            and decoded once, now, and batches are the same to the bit; if not, or if `augment`
            looks at parts of pictures, files are read for every batch. Default 0.

    Returns:
        Dataset of {"image": uint8 (b, S, S, 3), "label": int64 (b,), "row": int64 (b,)}.

    Raises:
        ValueError: a slice is empty or outside the batch.
        tf.errors.NotFoundError: when run, or now if pictures are held, if a file is missing; the
            message names it.
    """
    size = sampler.rows_per_batch
    shares = [(0, size)] if slices is None else [(int(low), int(high)) for low, high in slices]
    for low, high in shares:
        if not 0 <= low < high <= size:
            raise ValueError(f"slice ({low}, {high}) is not inside a batch of {size} rows")
    here = np.concatenate([np.arange(low, high) for low, high in shares])
    changes = augment or Plain()
    looks = changes.draw(np.random.default_rng(0), 1).look.shape[1]
    boxed = _boxed(table)
    held = None if changes.crops or not hold else _held(table, changes, image_size, hold)
    groups = -(-len(here) // GROUP)
    group = -(-len(here) // groups)

    def plan(step: np.int64) -> tuple[np.ndarray, ...]:
        sequence = np.random.SeedSequence([seed % 2**64, AUGMENT_STREAM, int(step)])
        # Drawn for the whole batch, so that a picture does not depend on how the batch is shared.
        draws = changes.draw(np.random.Generator(np.random.Philox(sequence)), size)
        batch = np.asarray(sampler.batch(int(step)), np.int64)
        windows = _windows(draws.affine, batch)
        rows, position, first = _groups(batch[here], group)
        chosen = here[np.maximum(position, 0)]
        return (
            _paths(table, rows),
            table.box[rows],
            windows[chosen],
            first,
            position,
            table.label[rows],
            rows,
            draws.affine[chosen],
            draws.look[chosen],
        )

    def planned(step: tf.Tensor) -> tf.data.Dataset:
        specs = {
            "path": tf.TensorSpec((None, group), tf.string),
            "box": tf.TensorSpec((None, group, 4), tf.float32),
            "window": tf.TensorSpec((None, group, 4), tf.float32),
            "first": tf.TensorSpec((None, group), tf.bool),
            "position": tf.TensorSpec((None, group), tf.int32),
            "label": tf.TensorSpec((None, group), tf.int64),
            "row": tf.TensorSpec((None, group), tf.int64),
            "affine": tf.TensorSpec((None, group, 2, 3), tf.float32),
            "look": tf.TensorSpec((None, group, looks), tf.float32),
        }
        return _slices(plan, step, specs)

    def read(views: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        first = views["first"]
        path = views["path"][first]
        box = views["box"][first] if boxed else None
        row = views["row"][first]
        source = tf.cumsum(tf.cast(first, tf.int32)) - 1
        if isinstance(changes, Plain):
            shape = (-1, image_size, image_size, 3)
            files = _resized(path, box, image_size) if held is None else held.pixels_of(row, shape)
            images = tf.gather(files, source)
        else:
            window = views["window"][first] if changes.crops else None

            def load(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                if held is not None:
                    return held.picture(row[i]), ALL
                contents, part = tf.io.read_file(path[i]), None if box is None else box[i]
                if window is None:
                    return decode.load(contents, image_size, part, pillow=True), ALL
                return decode.load_part(contents, image_size, part, window[i])

            pixels, sizes, cover = _load_files(tf.shape(path)[0], load, group, image_size)
            affine = _within(views["affine"], tf.gather(cover, source))
            images = decode.warp(pixels, sizes, source, affine, image_size)
        if looks:
            images = tf.map_fn(
                lambda pair: decode.to_uint8(changes.look(tf.cast(pair[0], tf.float32), pair[1])),
                (images, views["look"]),
                fn_output_signature=tf.uint8,
            )
        return {"image": images, **{key: views[key] for key in ("label", "row", "position")}}

    def in_order(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        def whole(part: tf.Tensor) -> tf.Tensor:
            return tf.reshape(part, (groups * group, *part.shape[2:]))[: len(here)]

        batch = {key: whole(part) for key, part in batch.items()}
        position = batch.pop("position")
        return tf.cond(
            tf.reduce_all(position[1:] > position[:-1]),
            lambda: batch,
            lambda: {key: tf.gather(part, tf.argsort(position)) for key, part in batch.items()},
        )

    def shared(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
        ends = np.cumsum([high - low for low, high in shares])
        cuts = tf.data.Dataset.from_tensor_slices(np.stack([np.append(0, ends[:-1]), ends], 1))
        return cuts.map(lambda cut: {key: part[cut[0] : cut[1]] for key, part in batch.items()})

    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max if stop is None else stop)
    batches = steps.flat_map(planned).map(read, num_parallel_calls=_cores())
    batches = batches.batch(groups, drop_remainder=True).map(in_order)
    if len(shares) > 1:
        batches = batches.flat_map(shared)
    return batches.prefetch(2 * len(shares)).with_options(_options())


def _groups(rows: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide the pictures of a batch into groups, copies of an image next to each other.

    Args:
        rows: int64 (n,), rows of the table.
        group: pictures in a group.

    Returns:
        Three arrays (groups, group): int64 rows; int32 positions in the batch, -1 where the last
        group is filled up; bool, whether the image is the first of its kind in the group.
    """
    # Images in order of their first appearance: a batch without copies keeps its order.
    _, begin, image = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(begin[image], kind="stable")
    spare = -len(rows) % group
    position = np.concatenate([order, np.full(spare, -1)]).astype(np.int32).reshape(-1, group)
    rows = rows[np.concatenate([order, np.full(spare, order[-1])])].reshape(-1, group)
    first = np.ones(rows.shape, bool)
    first[:, 1:] = rows[:, 1:] != rows[:, :-1]
    return rows, position, first


def _windows(affine: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return which part of its image each picture of a batch needs, together with its copies.

    Args:
        affine: float32 (n, 2, 3), see :class:`trainer.data.augment.Draws`.
        rows: int64 (n,), rows of the table.

    Returns:
        float32 (n, 4): left, top, right, bottom from 0 to 1; all of the image where a part would
        save little.
    """
    corners = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], np.float32)
    reached = np.clip(affine @ corners, 0.0, 1.0)
    images, image = np.unique(rows, return_inverse=True)
    low, high = np.ones((len(images), 2), np.float32), np.zeros((len(images), 2), np.float32)
    np.minimum.at(low, image, reached.min(axis=2))
    np.maximum.at(high, image, reached.max(axis=2))
    window = np.concatenate([low, high], axis=1)
    window[np.prod(high - low, axis=1) > WORTHWHILE_PART] = [0.0, 0.0, 1.0, 1.0]
    return window[image]


def _within(affine: tf.Tensor, cover: tf.Tensor) -> tf.Tensor:
    """Return maps (n, 2, 3) into pictures as maps into the parts that `cover` (n, 4) names."""
    begin = tf.stack([tf.zeros_like(cover[:, :2]), tf.zeros_like(cover[:, :2]), cover[:, :2]], 2)
    return (affine - begin) / (cover[:, 2:] - cover[:, :2])[..., tf.newaxis]


def _resized(paths: tf.Tensor, boxes: tf.Tensor | None, image_size: int) -> tf.Tensor:
    """Return the pictures in files as evaluation sees them, uint8 (files, S, S, 3)."""
    return tf.map_fn(
        lambda parts: decode.decode_file(parts[0], image_size, *parts[1:]),
        (paths,) if boxes is None else (paths, boxes),
        fn_output_signature=tf.TensorSpec((image_size, image_size, 3), tf.uint8),
    )


@dataclass(frozen=True)
class _Held:
    """Decoded pictures of all rows of a table: pixels, uint8 (P, 3), one picture after another;
    where each begins, int64 (N + 1,); sizes, int32 (N, 2)."""

    pixels: tf.Tensor
    begin: tf.Tensor
    sizes: tf.Tensor

    def picture(self, row: tf.Tensor) -> tf.Tensor:
        """Return the picture of a row, uint8 (height, width, 3)."""
        part = self.pixels[self.begin[row] : self.begin[row + 1]]
        return tf.reshape(part, tf.concat([self.sizes[row], [3]], axis=0))

    def pixels_of(self, rows: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        """Return the pictures of rows, all of one size, as uint8 of `shape`."""
        return tf.gather(tf.reshape(self.pixels, shape), rows)


def _held(table: ItemTable, changes: Augment, image_size: int, most: int) -> _Held | None:
    """Decode all pictures of a table as batches need them; None if they take more than `most`."""
    boxed = _boxed(table)

    def decoded(path: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
        box = box if boxed else None
        if isinstance(changes, Plain):
            return decode.decode_file(path, image_size, box)
        return decode.load(tf.io.read_file(path), image_size, box, pillow=True)

    paths = _paths(table, np.arange(len(table)))
    files = tf.data.Dataset.from_tensor_slices((paths, table.box))
    pictures: list[np.ndarray] = []
    size = 0
    options = _options()
    for picture in files.map(decoded, num_parallel_calls=_cores()).with_options(options):
        size += int(np.prod(picture.shape))
        if size > most:
            return None
        pictures.append(picture.numpy())
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    begin = np.cumsum([0, *(height * width for height, width in sizes.tolist())])
    # On the processor, wherever the model is: this is a part of the input.
    with tf.device("CPU"):
        pixels = tf.constant(np.concatenate([picture.reshape(-1, 3) for picture in pictures]))
        return _Held(pixels, tf.constant(begin, tf.int64), tf.constant(sizes))


def _load_files(
    count: tf.Tensor,
    load: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    most: int,
    image_size: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return what :func:`decode.warp` needs of `count` files, and what it covers of each.

    Args:
        count: int32, files, up to `most`.
        load: from the number of a file to its picture, uint8 (height, width, 3), and the part of
            the picture that it is, float32 (4,).
        most: files in a group.
        image_size: S, side of the pictures that will be made of them.

    Returns:
        The pixels, uint8 (P, 3), one picture after another; the sizes, int32 (files, 2); the part
        of the picture, or of its box, that was loaded, float32 (files, 4).
    """
    pixels = tf.TensorArray(tf.uint8, count + 1, infer_shape=False, element_shape=(None, 3))
    sizes = tf.TensorArray(tf.int32, count, element_shape=(2,))
    covers = tf.TensorArray(tf.float32, count, element_shape=(4,))

    def one(i: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        image, cover = load(i)
        parts = (tf.reshape(image, (-1, 3)), tf.shape(image)[:2], cover)
        return i + 1, *(array.write(i, part) for array, part in zip(arrays, parts, strict=True))

    state = (tf.constant(0), pixels, sizes, covers)
    _, pixels, sizes, covers = tf.while_loop(
        lambda i, *_: i < count, one, state, parallel_iterations=1
    )
    size = sizes.stack()
    # Filled up to a multiple of a unit, the buffer has one of a few lengths, each of which is
    # compiled for once. The padding is a prefix of a constant, which is not copied to be cut.
    unit = most * image_size**2
    used = tf.reduce_sum(size[:, 0] * size[:, 1])
    padding = tf.constant(np.zeros((unit, 3), np.uint8))[: unit - used % unit]
    return pixels.write(count, padding).concat(), size, covers.stack()


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

    boxed = _boxed(table)

    def plan(begin: np.int64) -> tuple[np.ndarray, ...]:
        rows = np.arange(int(begin), min(int(begin) + batch_size, len(table)))
        return _paths(table, rows), table.box[rows], table.label[rows], rows

    def planned(begin: tf.Tensor) -> tf.data.Dataset:
        specs = {
            "path": tf.TensorSpec((None,), tf.string),
            "box": tf.TensorSpec((None, 4), tf.float32),
            "label": tf.TensorSpec((None,), tf.int64),
            "row": tf.TensorSpec((None,), tf.int64),
        }
        return _slices(plan, begin, specs)

    def read(item: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = decode.decode_file(item["path"], image_size, item["box"] if boxed else None)
        return {"image": image, "label": item["label"], "row": item["row"]}

    begins = tf.data.Dataset.range(0, len(table), batch_size)
    batches = begins.flat_map(planned).map(read, num_parallel_calls=_cores()).batch(batch_size)
    return batches.prefetch(2).with_options(_options())


def _boxed(table: ItemTable) -> bool:
    """Return whether any row has a box: without, files are decoded without asking."""
    return bool(np.isfinite(table.box).any())


def _paths(table: ItemTable, rows: np.ndarray) -> np.ndarray:
    """Return the paths of `rows` as bytes, in their shape."""
    paths = np.array([os.fsencode(path) for path in table.path[rows.ravel()]], object)
    return paths.reshape(rows.shape)


def _slices(
    plan: Callable[[np.int64], tuple[np.ndarray, ...]],
    number: tf.Tensor,
    specs: dict[str, tf.TensorSpec],
) -> tf.data.Dataset:
    """Return the slices of the arrays that `plan` makes for `number`, named as in `specs`."""
    kinds = [spec.dtype for spec in specs.values()]
    # Stateless, or op determinism would run everything after it one element at a time.
    parts = tf.numpy_function(plan, [number], kinds, stateful=False)
    named = zip(specs, parts, strict=True)
    return tf.data.Dataset.from_tensor_slices(
        {name: tf.ensure_shape(part, specs[name].shape) for name, part in named}
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Order is content here: a batch is made of the elements that follow each other.
    options.deterministic = True
    # Pictures are worked on side by side; splitting one over threads only costs.
    options.threading.max_intra_op_parallelism = 1
    return options

"""Training input: triplets over JPEG files with MILDNet's augmentation, images a second.

Three ways side by side, and the two last again under op determinism:

- released: a Python generator that opens and resizes each file with Pillow and applies the affine
  map to each channel with SciPy (linear, nearest border), as Keras' ImageDataGenerator does;
- bare: `tf.io.read_file`, `decode_jpeg` and `tf.image.resize` in a parallel `tf.data` map, batched,
  without augmentation: what reading and decoding alone cost;
- mildnet: `trainer.data.pipeline.train_batches` with `augment=mildnet`.

Decoding has TensorFlow's default options in both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.report import machine, print_table

SIZE = 224


def write_photos(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Write photo-like JPEG files of 300 to 500 pixels a side, about 25 to 60 kB each.

    Edges, smooth shading and fine texture come in the proportions that make JPEG files as large,
    and as slow to decode, as those of a camera picture of the same size.
    """
    from PIL import Image, ImageDraw, ImageFilter

    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        width, height = (int(side) for side in random.integers(300, 501, 2))
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        for _ in range(25):
            x, y = random.integers(0, width), random.integers(0, height)
            w, h = random.integers(10, 160, 2)
            shape = [draw.ellipse, draw.rectangle][int(random.integers(2))]
            shape([x, y, x + w, y + h], fill=tuple(int(c) for c in random.integers(0, 256, 3)))
        grain = Image.fromarray(random.integers(0, 256, (height, width), np.uint8))
        texture = np.asarray(grain.filter(ImageFilter.GaussianBlur(0.8)), np.float32)[..., None]
        values = np.asarray(picture, np.float32) + (texture - 127.5) * 0.45
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(path, quality=85)
        paths.append(str(path))
    return paths


def released(paths: list[str], rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield batches float32 (b, S, S, 3) in 0..1, made one picture after another."""
    from PIL import Image
    from scipy import ndimage

    random = np.random.default_rng(0)
    for batch in rows:
        images = np.empty((len(batch), SIZE, SIZE, 3), np.float32)
        for place, row in enumerate(batch):
            with Image.open(paths[row]) as file:
                picture = file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)
            values = np.asarray(picture, np.float32)
            theta = np.deg2rad(random.uniform(-30, 30))
            lean = np.deg2rad(random.uniform(-0.2, 0.2))
            turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
            shear = np.array([[1, -np.sin(lean)], [0, np.cos(lean)]])
            matrix = turn @ shear @ np.diag(random.uniform(0.8, 1.2, 2))
            centre = np.full(2, (SIZE - 1) / 2)
            channels = [
                ndimage.affine_transform(
                    values[..., channel], matrix, centre - matrix @ centre, order=1, mode="nearest"
                )
                for channel in range(3)
            ]
            values = np.stack(channels, axis=-1)
            for axis in (0, 1):
                if random.random() < 0.5:
                    values = np.flip(values, axis)
            images[place] = values / 255.0
        yield images


def images_per_second(batches: Iterator[object], batch: int, seconds: float) -> float:
    """Return the rate of `batches` over about `seconds`, after three unmeasured ones."""
    for _ in range(3):
        next(batches)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        next(batches)
        count += batch
    return count / spent


def measure(folder: str, triplets: int, seconds: float, repeats: int, only_tf: bool) -> dict:
    """Return images a second of each way, the median of `repeats` measurements taken by turns."""
    import tensorflow as tf

    from trainer.data import ItemTable
    from trainer.data.augment import Mildnet
    from trainer.data.pipeline import train_batches
    from trainer.data.samplers.random_triplets import RandomTriplets

    paths = sorted(str(path) for path in Path(folder).glob("*.jpg"))
    table = ItemTable.from_columns(paths, np.arange(len(paths)) // 6)
    sampler = RandomTriplets(table, triplets, seed=0)
    batch = sampler.rows_per_batch

    def bare() -> tf.data.Dataset:
        def read(path: tf.Tensor) -> tf.Tensor:
            image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
            return tf.image.resize(image, (SIZE, SIZE))

        files = tf.data.Dataset.from_tensor_slices(paths).repeat()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        batches = files.map(read, num_parallel_calls=cores).batch(batch).prefetch(2)
        options = tf.data.Options()
        options.threading.max_intra_op_parallelism = 1
        return batches.with_options(options)

    def rows() -> Iterator[np.ndarray]:
        step = 0
        while True:
            yield sampler.batch(step)
            step += 1

    ways = {
        "bare": lambda: iter(bare()),
        "mildnet": lambda: iter(
            train_batches(table, sampler, image_size=SIZE, augment=Mildnet(), seed=0)
        ),
    }
    if not only_tf:
        ways["released"] = lambda: released(paths, rows())
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, start in ways.items():
            rates[name].append(images_per_second(start(), batch, seconds))
    return {name: statistics.median(values) for name, values in rates.items()}


def main(argv: list[str]) -> None:
    """Print the table; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks input")
    parser.add_argument("--files", type=int, default=600, help="JPEG files to write")
    parser.add_argument("--triplets", type=int, default=16, help="triplets in a batch")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way")
    parser.add_argument("--deterministic-in", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    numbers = (given.triplets, given.seconds, given.repeats)

    if given.deterministic_in:
        import keras
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(0)
        print(json.dumps(measure(given.deterministic_in, *numbers, only_tf=True)))
        return

    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), given.files)
        size = np.mean([Path(path).stat().st_size for path in paths]) / 1e3
        rates = measure(folder, *numbers, only_tf=False)
        # Op determinism is a switch of the whole process.
        options = [f"--{key}={getattr(given, key)}" for key in ("triplets", "seconds", "repeats")]
        command = [sys.executable, "-m", "benchmarks", "input", "--deterministic-in", folder]
        run = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
        fixed = json.loads(run.stdout.strip().splitlines()[-1])

    ways = [
        ("released: Python, Pillow, SciPy", rates["released"]),
        ("bare tf.io decode and resize", rates["bare"]),
        ("train_batches, augment=mildnet", rates["mildnet"]),
        ("bare, op determinism", fixed["bare"]),
        ("train_batches, op determinism", fixed["mildnet"]),
    ]
    print_table(
        f"Input: {given.triplets} triplets a batch, {given.files} JPEG files of 300 to 500 pixels "
        f"(mean {size:.0f} kB), {SIZE} x {SIZE} pixels out",
        ["way", "images/s", "x released", "x bare"],
        [
            (name, f"{rate:.0f}", rate / rates["released"], rate / rates["bare"])
            for name, rate in ways
        ],
    )
    print(machine("tensorflow", "numpy", "pillow", "scipy"))

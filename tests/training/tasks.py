"""A small training task in memory, for tests of the step and the loop."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from trainer import losses
from trainer.config.train_options import TrainOptions
from trainer.losses.mined import MinedTriplets
from trainer.training.groups import parameter_groups
from trainer.training.loop import Task
from trainer.training.strategy import get_strategy, replica_slices
from trainer.training.trackers import Trackers

SIDE, ROWS, EPOCH = 8, 16, 5


def batch_arrays(number):
    """Images and labels of batch `number`: a pure function of it."""
    rng = np.random.default_rng([1, number])
    labels = np.repeat(np.arange(4), 4)
    centres = np.random.default_rng(0).uniform(0, 255, (4, SIDE, SIDE, 3))
    images = centres[labels] + rng.normal(0, 200, (ROWS, SIDE, SIDE, 3))
    return images.astype(np.float32), labels.astype(np.int64)


def small_model(dropout=0.0, norm=True):
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv")(x)
    if norm:
        x = keras.layers.BatchNormalization(synchronized=True, name="norm")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="drop")(x)
    x = keras.layers.Dense(8, name="embed", dtype="float32")(x)
    return keras.Model(inputs, keras.layers.UnitNormalization()(x))


def batches(strategy, start, stop, arrays=batch_arrays, total=ROWS):
    slices = replica_slices(strategy, total)

    def generate():
        for number in range(start, stop):
            images, labels = arrays(number)
            for low, high in slices:
                yield {"image": images[low:high], "label": labels[low:high]}

    rows = slices[0][1] - slices[0][0]
    return tf.data.Dataset.from_generator(
        generate,
        output_signature={
            "image": tf.TensorSpec((rows, SIDE, SIDE, 3)),
            "label": tf.TensorSpec((rows,), tf.int64),
        },
    )


def make_task(
    run_dir,
    *,
    steps=10,
    replicas=1,
    strategy=None,
    loss="triplet_semihard",
    parameters=None,
    classes=range(4),
    miner=None,
    memory=None,
    model=None,
    trackers=(),
    **changes,
):
    """Return (strategy, task); call `fit` under the strategy's scope.

    `miner` is a name and parameters, `memory` parameters. `changes` are training options, and
    fields of the task where it has such a field.
    """
    fields = {field.name for field in dataclasses.fields(Task)}
    options = TrainOptions(**{k: v for k, v in changes.items() if k not in fields})
    strategy = strategy or get_strategy("mirrored" if replicas > 1 else "one", replicas)
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(options.precision)
    try:
        with strategy.scope():
            model = small_model(**(model or {}))
            objective = losses.get(loss, **({"margin": 0.2} if parameters is None else parameters))
            if miner:
                name, of_miner = miner
                objective = MinedTriplets(
                    loss=objective, miner=losses.get_miner(name, 3, **of_miner)
                )
            if memory is not None:
                objective = losses.get_memory("xbm", objective, **memory)
                objective.prepare(model.output_shape[-1])
            elif hasattr(objective, "prepare"):
                objective.prepare(classes, model.output_shape[-1])
            groups = parameter_groups(
                model,
                objective,
                lambda scale: keras.optimizers.SGD(0.1 * scale, momentum=0.9, nesterov=True),
                options,
                trunk={v.path for v in model.variables if v.path.startswith(("conv", "norm"))},
            )
    finally:
        keras.config.set_dtype_policy("float32")
    stop = steps * options.accumulate
    given = {
        "model": model,
        "loss": objective,
        "example_rows": 1,
        "groups": groups,
        "batches": lambda start: batches(strategy, start, stop),
        "images_per_batch": ROWS,
        "total_steps": steps,
        "steps_per_epoch": EPOCH,
        "options": options,
        "run_dir": str(run_dir),
        "identity": {"config": "c", "data": "d"},
        "trackers": Trackers(trackers),
    }
    return strategy, Task(**{**given, **{k: v for k, v in changes.items() if k in fields}})


def weights(task):
    found = [*task.model.weights, *getattr(task.loss, "weights", [])]
    return {v.path: np.asarray(v.numpy()) for v in found}

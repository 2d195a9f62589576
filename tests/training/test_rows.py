"""Sampled classes: a step moves the rows that were drawn, and is otherwise as any step."""

import csv
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import losses
from trainer.config import TrainOptions, UserError, registry
from trainer.training.groups import parameter_groups
from trainer.training.interrupts import Interrupted
from trainer.training.loop import fit
from trainer.training.rows import RowTable
from trainer.training.step import TrainStep
from trainer.training.strategy import get_strategy
from trainer.training.trackers.csv_log import CsvLog

from . import tasks
from .test_loop import StopAt, assert_same

LR, CLASSES, DIM = 0.1, 60, 8
NAMES = ("arcface", "subcenter_arcface", "cosface", "normalized_softmax")


def make_loss(name="arcface", sampled=20, classes=CLASSES, **parameters):
    loss = losses.get(name, sampled_classes=sampled, **parameters)
    keras.utils.set_random_seed(2)
    loss.prepare(range(classes), DIM)
    return loss


def sgd(scale):
    return keras.optimizers.SGD(LR * scale)


OPTIMIZERS = [
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.5}),
    ("mo", {}),
    ("rms", {"centered": True, "momentum": 0.5}),
    ("adam", {"amsgrad": True}),
    ("adam", {"published_epsilon": True}),
    ("adamw", {"weight_decay": 0.3}),
]


@pytest.mark.parametrize(("name", "parameters"), OPTIMIZERS, ids=str)
def test_rows_move_as_in_a_step_of_all_and_the_others_stay(name, parameters):
    """Beside a step of the whole table, in which the rows that were not drawn are put back."""
    loss = make_loss("subcenter_arcface")
    own, whole = (registry.get("optimizer", name).build(LR, **parameters) for _ in range(2))
    copy = keras.Variable(loss.get_weights()[0])
    whole.build([copy])
    table = RowTable(loss, own, images=16)
    random = np.random.default_rng(0)
    apply = tf.function(table.apply)
    entries = [copy, *(v for v in whole.variables if v.shape == copy.shape)]
    for _ in range(4):
        sample = table.draw(tf.constant(random.integers(0, CLASSES, 16)))
        rows = np.asarray(sample.rows)
        np.testing.assert_allclose(sample.values, np.asarray(copy.value)[rows], atol=1e-6)
        gradient = random.normal(size=(len(rows), DIM)).astype("f4")
        apply(tf.constant(gradient), sample.rows)

        before = [np.array(v.numpy()) for v in entries]
        dense = np.zeros(copy.shape, "f4")
        dense[rows] = gradient
        whole.apply([tf.constant(dense)], [copy])
        for variable, kept in zip(entries, before, strict=True):
            kept[rows] = np.asarray(variable.value)[rows]
            variable.assign(kept)
        np.testing.assert_allclose(loss.get_weights()[0], copy.numpy(), rtol=1e-5, atol=1e-6)
    found = [v for v in table.variables.values() if v.shape == copy.shape]
    assert len(found) == len(entries) - 1
    for slot, expected in zip(found, entries[1:], strict=True):
        np.testing.assert_allclose(slot, expected.numpy(), rtol=1e-5, atol=1e-6)


def step_of(loss, batches, chosen=None, **options):
    """Take a step of plain SGD; return how far the table moved, and what its sample was."""
    keras.utils.set_random_seed(5)
    model = tasks.small_model(norm=False)
    images = [tasks.batch_arrays(number) for number in range(batches)]
    seeds = loss.variables[-1]
    state = np.array(seeds.numpy())
    classes = loss.draw(np.concatenate([labels for _, labels in images]))
    seeds.assign(state)
    rows = loss.rows_of(classes)
    centers = tf.gather(loss.proxies.value, rows)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(centers)
        values = [
            loss.of_sample(labels, model(pictures, training=True), classes, centers)
            for pictures, labels in images
        ]
        mean = tf.add_n(values) / batches
    by_centers = tape.gradient(mean, centers).numpy()
    by_model = tape.gradient(mean, [v.value for v in model.trainable_variables])
    before = loss.get_weights()[0]
    groups = parameter_groups(model, loss, sgd, chosen or TrainOptions())
    step = TrainStep(model, loss, groups=groups, accumulate=batches, rows=tasks.ROWS, **options)
    found = step.run(iter(tasks.batches(tf.distribute.get_strategy(), 0, batches)))
    assert float(found["loss"]) == pytest.approx(float(mean), rel=1e-5)
    moved = before - loss.get_weights()[0]
    rows = np.asarray(rows)
    np.testing.assert_array_equal(np.delete(moved, rows, axis=0), 0)
    return moved[rows], by_centers, [np.array(g) for g in by_model], centers.numpy()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in NAMES),
        ("subcenter_arcface", {"batches": 2}),
        ("subcenter_arcface", {"xla": True}),
    ],
    ids=str,
)
def test_a_step_moves_drawn_rows_along_their_gradient(name, options):
    moved, gradient, _, _ = step_of(make_loss(name, sampled=40), **{"batches": 1, **options})
    assert np.abs(gradient).max() > 0.01
    np.testing.assert_allclose(moved, LR * gradient, rtol=1e-3, atol=1e-5)


def test_the_batches_of_a_step_share_a_sample_with_the_classes_of_all():
    loss, model = make_loss("cosface", sampled=32), tasks.small_model(norm=False)
    before = loss.get_weights()[0]
    step = TrainStep(
        model,
        loss,
        groups=parameter_groups(model, loss, sgd),
        rows=tasks.ROWS,
        accumulate=2,
    )

    def arrays(number):
        images, labels = tasks.batch_arrays(number)
        return images, labels + 10 * number

    step.run(iter(tasks.batches(get_strategy("one"), 0, 2, arrays)))
    moved = np.abs(loss.get_weights()[0] - before).max(axis=1) > 0
    assert moved.sum() == 32
    assert moved[[0, 1, 2, 3, 10, 11, 12, 13]].all()


def test_rate_penalty_and_clipping_are_those_of_the_rest():
    chosen = TrainOptions(loss_lr_scale=3.0)
    moved, gradient, others, centers = step_of(
        make_loss(), 1, chosen, l2_penalty=0.5, clip_range=(-0.2, 0.3), clip_norm=0.4
    )
    weights = dict(zip(range(4), tasks_weights(), strict=True))
    clipped = [np.clip(gradient + 0.5 * centers, -0.2, 0.3)]
    clipped += [
        np.clip(g + 0.5 * weights[n] * (weights[n].ndim > 1), -0.2, 0.3)
        for n, g in enumerate(others)
    ]
    norm = np.sqrt(sum((part**2).sum() for part in clipped))
    assert norm > 0.4
    np.testing.assert_allclose(moved, 3 * LR * clipped[0] * 0.4 / norm, rtol=1e-3, atol=1e-6)
    still, gradient, _, _ = step_of(
        make_loss(), 1, TrainOptions(decay_exclude="proxies"), l2_penalty=0.5
    )
    np.testing.assert_allclose(still, LR * gradient, rtol=1e-3, atol=1e-5)


def tasks_weights():
    keras.utils.set_random_seed(5)
    return [np.array(v.numpy()) for v in tasks.small_model(norm=False).trainable_variables]


def test_rows_decay_when_they_are_drawn_if_the_table_decays():
    for exclude, kept in (("bias", 1 - LR * 0.5), ("bias|proxies", 1.0)):
        loss = make_loss()
        model = tasks.small_model(norm=False)
        groups = parameter_groups(
            model,
            loss,
            lambda scale: keras.optimizers.SGD(LR, weight_decay=0.5),
            TrainOptions(decay_exclude=exclude),
        )
        table, rest = RowTable.of(loss, groups, 16)
        assert [members for _, members in rest] == [model.trainable_variables]
        before = loss.get_weights()[0]
        sample = table.draw(tf.range(16, dtype=tf.int64))
        table.apply(tf.zeros_like(sample.values), sample.rows)
        expected = before.copy()
        expected[np.asarray(sample.rows)] *= kept
        np.testing.assert_allclose(loss.get_weights()[0], expected, rtol=1e-6)


def test_a_table_that_is_to_keep_still_does():
    loss, model = make_loss(), tasks.small_model(norm=False)
    before = loss.get_weights()[0]
    groups = parameter_groups(model, loss, sgd, TrainOptions(loss_lr_scale=0.0))
    step = TrainStep(model, loss, groups=groups, rows=tasks.ROWS)
    first = float(step.run(iter(tasks.batches(get_strategy("one"), 0, 1)))["loss"])
    assert np.isfinite(first)
    np.testing.assert_array_equal(loss.get_weights()[0], before)


@pytest.mark.parametrize("sampled", [CLASSES, 1000])
def test_all_classes_are_trained_as_without_sampling(sampled):
    """Adam's moments fade and weights decay in every step then, in every row."""
    ends = []
    for number in (0, sampled):
        loss = make_loss("cosface", sampled=number)
        keras.utils.set_random_seed(5)
        model = tasks.small_model(norm=False)
        groups = parameter_groups(model, loss, lambda scale: keras.optimizers.AdamW(0.01))
        step = TrainStep(model, loss, groups=groups, rows=tasks.ROWS)
        batches = iter(tasks.batches(get_strategy("one"), 0, 2))
        step.run(batches), step.run(batches)
        ends.append([*model.get_weights(), *loss.get_weights()])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


def tensors_of(graph):
    """The shapes of all tensors of a graph and of the functions within."""
    for operation in graph.get_operations():
        for output in operation.outputs:
            if output.shape.is_fully_defined():
                yield operation.type, int(np.prod(output.shape.as_list()))
    for function in graph._functions.values():
        if hasattr(function, "graph"):
            yield from tensors_of(function.graph)


@pytest.mark.parametrize("sampled", [20, 0])
def test_no_tensor_of_a_step_grows_with_the_table(sampled):
    classes = 5000
    loss, model = make_loss("arcface", sampled, classes), tasks.small_model(norm=False)
    groups = parameter_groups(model, loss, lambda scale: keras.optimizers.Adam(0.01))
    step = TrainStep(model, loss, groups=groups, rows=tasks.ROWS)
    iterator = iter(tasks.batches(get_strategy("one"), 0, 1))
    graph = step.run.get_concrete_function(iterator).graph
    # There is a list of the labels, to look up those of a batch, and nothing with more numbers.
    large = {kind for kind, numbers in tensors_of(graph) if numbers > classes}
    assert large == set() if sampled else "MatMul" in large


def test_two_replicas_train_as_one_device_does(tmp_path):
    ends, logs = [], []
    for replicas in (1, 2):
        run = tmp_path / str(replicas)
        run.mkdir()
        ends.append(trained(run, replicas, steps=2, trackers=[CsvLog(str(run))], log_every=1))
        logs.append([float(r["loss"]) for r in csv.DictReader((run / "training.csv").open())])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    for path, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][path], atol=1e-4, err_msg=path)


def trained(run_dir, replicas, **changes):
    strategy, task = tasks.make_task(
        run_dir,
        replicas=replicas,
        loss="subcenter_arcface",
        parameters={"sampled_classes": 40, "scale": 4.0},
        classes=range(90),
        accumulate=2,
        **changes,
    )
    with strategy.scope():
        fit(task)
    return tasks.weights(task)


def test_a_stopped_job_goes_on_to_the_same_weights(tmp_path):
    changes = {"replicas": 2, "steps": 4, "precision": "mixed_float16"}
    whole = trained(tmp_path / "whole", **changes)
    stop = StopAt(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="step 2"):
        trained(tmp_path / "parts", trackers=[stop], log_every=1, **changes)
    assert_same(whole, trained(tmp_path / "parts", **changes))
    ends = []
    for part in ("whole", "parts"):
        with np.load(tmp_path / part / "checkpoints" / "step-000000004.npz") as archive:
            ends.append({key: archive[key] for key in archive.files})
    assert_same(*ends)
    kept = [key for key in ends[0] if key.startswith("rows/")]
    assert [ends[0][key].shape for key in kept][-1] == (270, DIM)
    assert len([key for key in ends[0] if "seed_generator_state" in key]) == 1


def test_fewer_sampled_classes_than_images_of_a_step_are_refused():
    loss, model = make_loss(sampled=31), tasks.small_model(norm=False)
    groups = parameter_groups(model, loss, sgd)
    with pytest.raises(UserError, match=r"sampled_classes=31 is below the 32 images of a step"):
        TrainStep(model, loss, groups=groups, rows=tasks.ROWS, accumulate=2)


def test_an_optimizer_that_keeps_no_rows_is_refused():
    with pytest.raises(UserError, match="Adafactor keeps numbers that belong to no single entry"):
        RowTable(make_loss(), keras.optimizers.Adafactor(0.1), images=16)

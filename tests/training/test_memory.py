"""Training with a memory of batches: replicas, killed jobs, and the copy that follows the model."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import losses
from trainer.losses.memory import CrossBatchMemory
from trainer.models.names import restart_numbers
from trainer.training.loop import fit
from trainer.training.momentum_encoder import MomentumEncoder

from . import tasks

STEPS, SAVED = 6, 3
#: Not a multiple of the 16 rows of a batch; full after three.
SIZE = 40
FOLLOWED = {"size": SIZE, "momentum": 0.7}


def run(run_dir, memory=None, checkpoint_every=SAVED, **changes):
    """Train, and return the task and all that its last checkpoint holds."""
    strategy, task = tasks.make_task(
        run_dir,
        steps=STEPS,
        loss="triplet_hard",
        memory={"size": SIZE} if memory is None else memory,
        checkpoint_every=checkpoint_every,
        **changes,
    )
    with strategy.scope():
        fit(task)
    return task, checkpoint(run_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Runs by the name of their memory, each made once: the folder and what it ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    memories = {"plain": {"size": SIZE}, "small": {"size": 16}, "followed": FOLLOWED}
    return {
        name: (folder / name, run(folder / name, memory)[1]) for name, memory in memories.items()
    }


def checkpoint(run_dir, step=STEPS):
    with np.load(run_dir / "checkpoints" / f"step-{step:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def kernels(arrays):
    return {name: value for name, value in arrays.items() if name.startswith("model/")}


def test_two_replicas_do_what_one_device_does_and_hold_the_same(tmp_path, undisturbed):
    _, one = undisturbed["followed"]
    task, two = run(tmp_path, FOLLOWED, replicas=2)
    assert set(one) == set(two)
    for name, value in one.items():
        if name == "meta":
            continue
        np.testing.assert_allclose(two[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
    np.testing.assert_array_equal(two["loss/00001/labels"], one["loss/00001/labels"])
    for variable in task.loss.variables:
        copies = [copy.numpy() for copy in variable.value.values]
        assert len(copies) == 2
        np.testing.assert_array_equal(*copies)
    assert two["loss/00002/filled"] == SIZE


def test_xla_trains_alike(tmp_path, undisturbed):
    _, plain = undisturbed["followed"]
    _, compiled = run(tmp_path, FOLLOWED, xla=True)
    for name in set(plain) - {"meta"}:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_the_memory_matters_and_so_does_the_copy(undisturbed):
    """The check that the equalities of this file can fail."""
    ends = {name: kernels(arrays) for name, (_, arrays) in undisturbed.items()}
    for other in ("small", "followed"):
        one, two = ends["plain"], ends[other]
        assert any(not np.allclose(one[name], two[name], atol=1e-3) for name in one)


def assert_same_end(whole, parts):
    assert set(whole) == set(parts)
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name


@pytest.mark.parametrize(("name", "copy"), [("plain", False), ("followed", True)])
def test_a_job_that_was_killed_ends_with_the_same_bits(tmp_path, undisturbed, name, copy):
    folder, whole = undisturbed[name]
    shutil.copytree(folder, tmp_path / "parts", ignore=shutil.ignore_patterns(f"*{STEPS}.npz"))
    _, parts = run(tmp_path / "parts", FOLLOWED if copy else None)
    assert {"loss/00000/embeddings", "loss/00001/labels", "loss/00002/filled"} <= set(whole)
    assert any(key.startswith("momentum/") for key in whole) == copy
    assert_same_end(whole, parts)


def test_a_memory_that_starts_late_counts_batches_across_a_kill(tmp_path):
    # Batches 7 and 8 are of the fourth step, the first after the kill.
    changes = {"memory": {**FOLLOWED, "start_after": 7}, "accumulate": 2, "ema": 0.9}
    _, whole = run(tmp_path / "whole", **changes)
    assert whole["loss/00002/filled"] == min(SIZE, tasks.ROWS * (2 * STEPS - 7))
    ignored = shutil.ignore_patterns(f"*{STEPS}.npz")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts", ignore=ignored)
    assert_same_end(whole, run(tmp_path / "parts", **changes)[1])


def test_a_memory_that_was_lost_shows(tmp_path, undisturbed):
    """The check that the equality of killed jobs can fail."""
    folder, whole = undisturbed["plain"]
    arrays = checkpoint(folder, SAVED)
    arrays["loss/00002/filled"] = np.zeros_like(arrays["loss/00002/filled"])
    (tmp_path / "parts" / "checkpoints").mkdir(parents=True)
    np.savez(tmp_path / "parts" / "checkpoints" / f"step-{SAVED:09d}.npz", **arrays)
    _, parts = run(tmp_path / "parts")
    assert any(not np.array_equal(whole[name], parts[name]) for name in kernels(whole))


def test_the_memory_holds_the_last_batches_as_the_model_was_then(tmp_path):
    seen = []

    def summarize(step, numbers, trackers):
        seen.append((numbers["label"].numpy(), numbers["embedding"].numpy()))
        return {}

    task, _ = run(tmp_path, summarize=summarize, summary_every=1)
    expected = np.concatenate([x for _, x in seen])[-SIZE:]
    np.testing.assert_array_equal(task.loss.embeddings.numpy(), expected)
    labels = np.concatenate([y for y, _ in seen])[-SIZE:]
    np.testing.assert_array_equal(task.loss.labels.numpy(), labels)


def test_every_step_moves_the_copy(tmp_path):
    run(tmp_path, FOLLOWED, checkpoint_every=1)
    before, after = checkpoint(tmp_path, STEPS - 1), checkpoint(tmp_path, STEPS)
    copies = [key for key in after if key.startswith("momentum/")]
    assert len(copies) == len(kernels(after))
    for key in copies:
        weight = after["model/" + key.split("/", 2)[2]]
        expected = weight if "moving" in key else 0.7 * before[key] + 0.3 * weight
        np.testing.assert_allclose(after[key], expected, rtol=1e-5, atol=1e-7, err_msg=key)
        assert not np.array_equal(after[key], before[key])


def test_the_copy_follows_the_weights_and_has_the_statistics_of_the_model():
    keras.utils.set_random_seed(2)
    model = tasks.small_model()
    encoder = MomentumEncoder(model, 0.75)
    shadows = [np.array(w.numpy()) for w in model.weights]
    random = np.random.default_rng(0)
    for _ in range(3):
        model.set_weights([w + random.normal(size=w.shape) ** 2 for w in model.get_weights()])
        encoder.update()
        shadows = [
            0.75 * shadow + 0.25 * w.numpy() if w.trainable else w.numpy()
            for shadow, w in zip(shadows, model.weights, strict=True)
        ]
    found = encoder.variables
    assert len(found) == len(shadows)
    for (key, variable), weight, shadow in zip(found.items(), model.weights, shadows, strict=True):
        assert key.endswith(weight.path)
        np.testing.assert_allclose(variable.numpy(), shadow, rtol=1e-4, err_msg=key)
    images = tasks.batch_arrays(0)[0]
    model.set_weights(shadows)
    expected = model(images, training=False)
    with tf.GradientTape() as tape:
        embeddings = encoder(images)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert tape.gradient(embeddings, list(found.values())) == [None] * len(found)


def test_the_memory_is_filled_by_the_copy(tmp_path):
    """With all but all of its old weights kept, the copy stays what the model was."""
    before = {}

    def note(ready):
        before["model"] = keras.models.clone_model(task.model)
        before["model"].set_weights(task.model.get_weights())

    strategy, task = tasks.make_task(
        tmp_path,
        steps=STEPS,
        loss="triplet_hard",
        memory={"size": SIZE, "momentum": 1 - 1e-7},
        model={"norm": False},
        before_training=note,
    )
    with strategy.scope():
        fit(task)
    images = np.concatenate([tasks.batch_arrays(number)[0] for number in range(STEPS)])
    expected = before["model"](images).numpy()[-SIZE:]
    np.testing.assert_allclose(task.loss.embeddings.numpy(), expected, atol=1e-4)
    assert np.abs(task.model(images).numpy()[-SIZE:] - expected).max() > 0.01


def test_without_a_momentum_there_is_no_copy():
    model = tasks.small_model()
    plain = losses.get_memory("xbm", losses.get("circle"), size=8)
    assert MomentumEncoder.of(model, plain) is None
    assert MomentumEncoder.of(model, losses.get("circle")) is None
    followed = CrossBatchMemory(losses.get("circle"), momentum=0.9)
    assert MomentumEncoder.of(model, followed).momentum == 0.9


@keras.saving.register_keras_serializable("tests")
class Held(keras.layers.Layer):
    """A layer with another in it that has no name."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = keras.layers.Dense(3)

    def call(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize("before", [0, 2])
def test_names_of_the_copy_do_not_depend_on_what_was_built_before(before):
    restart_numbers()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Held(name="held")(inputs))
    for _ in range(before):
        keras.layers.Dense(2)
    assert list(MomentumEncoder(model, 0.5).variables) == [
        "00000/held/dense/kernel", "00001/held/dense/bias",
    ]  # fmt: skip

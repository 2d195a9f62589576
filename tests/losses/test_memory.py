"""A memory of batches: against loops in float64, against pytorch-metric-learning, and by hand."""

import functools
import inspect
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import loss_oracles
from tests.reference.golden_batches import MEMORY, remembered
from trainer import losses
from trainer.config import UserError, registry
from trainer.losses.matrix import MatrixLoss

REFERENCE = Path(__file__).parents[1] / "reference"
LOSSES = [
    name
    for name, found in registry.components("loss").items()
    if found.tags.get("memory", "no") == "yes"
]
CASES = [(name, {}) for name in LOSSES] + [
    ("contrastive", {"distance": "cosine"}),
    ("contrastive_similarity", {"fidelity": "released", "margin": 0.2}),
    ("lifted_structure", {"distance": "squared_euclidean"}),
    ("triplet_hard", {"distance": "angular", "soft": True}),
    ("multi_similarity", {"epsilon": None}),
]


def memory(loss="contrastive_similarity", size=20, dim=6, parameters=None, **options):
    made = losses.get_memory("xbm", losses.get(loss, **(parameters or {})), size=size, **options)
    made.prepare(dim)
    return made


def measured(loss, labels, x, **stored):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x, **stored)
    return value.numpy(), tape.gradient(value, x).numpy()


def batches(count=4, rows=9, dim=6, start=2**62):
    """Batches with awkward labels, of float64 embeddings that float32 holds exactly."""
    random = np.random.default_rng(11)
    for _ in range(count):
        labels = np.sort(random.integers(0, 6, rows))
        x = random.normal(size=(rows, dim)) + 0.4 * labels[:, None]
        yield labels + start, x.astype("f4").astype("f8")


def lifted_structure(labels, x, margin=1.0, distance="euclidean"):
    """Against references: the negatives of a reference are anchors."""
    anchors, _ = x
    d = loss_oracles.table(distance, x)
    terms = []
    for i in range(len(anchors)):
        for j in loss_oracles.positives(labels, i):
            far = [d[i][k] for k in loss_oracles.negatives(labels, i)]
            far += [d[k][j] for k in range(len(anchors)) if labels[k] != labels.references[j]]
            total = sum(np.exp(margin - value) for value in far)
            terms.append(max(0.0, np.log(total) + d[i][j]) ** 2 / 2)
    return loss_oracles.average(terms)


@pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)
def test_value_and_gradient_equal_the_loops(name, parameters):
    within = functools.partial(getattr(loss_oracles, name), **parameters)
    against = within
    if name == "lifted_structure":
        against = functools.partial(lifted_structure, **parameters)
    ours = memory(name, size=20, parameters=parameters, weight=0.5)
    random = np.random.default_rng(3)
    kept, seen = [], []
    for labels, x in batches():
        value, gradient = measured(ours, labels, x)
        kept = (kept + list(zip(labels.tolist(), x, strict=True)))[-20:]
        references = np.array([row for _, row in kept])
        own = range(len(kept) - len(labels), len(kept))
        all_labels = loss_oracles.Against(labels.tolist(), [label for label, _ in kept], own)

        def total(at, x=x, y=labels, all_labels=all_labels, references=references):
            held = {"held": x}, {"held": (x, references)}
            if "held" not in inspect.signature(within).parameters:
                held = {}, {}
            beyond = against(all_labels, (at, references), **held[1])
            return within(y, at, **held[0]) + 0.5 * beyond

        np.testing.assert_allclose(value, total(x), rtol=1e-9)
        direction = random.normal(size=x.shape)
        slope = loss_oracles.slope(total, x, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-5, atol=1e-6)
        seen.append(value - within(labels, x))
    assert len(kept) == 20
    assert all(np.array(seen) > 1e-3), "the memory does not count"


GOLDENS = dict(np.load(REFERENCE / "memory_goldens.npz").items())


@pytest.mark.parametrize("golden", GOLDENS)
def test_against_the_memory_of_pytorch_metric_learning(golden):
    name, parameters = golden.split("|")
    loss = losses.get(name, **json.loads(parameters))
    ours = memory(name, MEMORY, parameters=json.loads(parameters))
    for (labels, x), expected in zip(remembered(), GOLDENS[golden], strict=True):
        value, gradient = measured(ours, labels, x)
        within, slope = measured(loss, labels, x)
        np.testing.assert_allclose(value - within, expected[0], rtol=5e-5, atol=1e-5)
        np.testing.assert_allclose((gradient - slope).ravel(), expected[1:], rtol=1e-3, atol=5e-5)


def test_the_goldens_are_of_most_losses():
    assert set(LOSSES) - {golden.split("|")[0] for golden in GOLDENS} == {
        "contrastive_similarity",  # of this library
        "lifted_structure",  # compares other things there
        "triplet_semihard",  # takes other negatives there
    }


def test_by_hand():
    ours = memory(size=3, dim=2, weight=10.0)
    # Two of one class at right angles: 1 - 0 for each anchor, within and against the memory.
    assert float(ours([4, 4], np.eye(2))) == pytest.approx(1 + 10 * 1)
    # Of these the second, a 4, is still there. Anchor 4 has it for a positive, at 0.8, and the
    # anchor 5 for a negative, at 0.6; anchor 5 has that negative, and at the other a cosine of 0.
    x = np.array([[0.6, 0.8], [1.0, 0.0]])
    within, against = (0.6 + 0.6) / 2, ((1 - 0.8) + 0.6 + 0.6) / 2
    assert float(ours([4, 5], x)) == pytest.approx(within + 10 * against)
    assert ours.labels.numpy().tolist() == [4, 4, 5]
    np.testing.assert_array_equal(ours.embeddings.numpy(), np.float32([[0.0, 1.0], *x]))


def test_an_item_is_not_its_own_positive_however_exactly_it_is_remembered():
    ours = memory("ntxent", size=8, dim=3)
    x = np.eye(3)
    # Of each class one: no positive within the batch, and none in a memory of that batch.
    value, gradient = measured(ours, [0, 1, 2], x)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    # The same pictures once more are positives of another time.
    assert float(ours([0, 1, 2], x)) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_what_has_not_been_filled_does_not_count(name):
    """Label 0 and embeddings of zeros are what an empty place holds."""
    (labels, x), *_ = batches(1, start=0)
    labels = labels - labels.min()
    assert 0 in labels
    found = [measured(memory(name, size), labels, x) for size in (len(x), 500)]
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_until_it_starts_the_loss_is_that_within_the_batch(name):
    late, plain, other = memory(name, start_after=2), losses.get(name), memory(name)
    for number, (labels, x) in enumerate(batches()):
        value, gradient = measured(late, labels, x)
        if number < 2:
            expected = measured(plain, labels, x)
            assert late.filled.numpy() == 0
        else:
            # As a memory that has seen nothing before.
            expected = measured(other, labels, x)
        np.testing.assert_allclose(value, expected[0], rtol=1e-9)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["contrastive_similarity", "lifted_structure", "batch_all"])
def test_xla_and_graphs_of_any_size_agree_with_eager_mode(name):
    made = [memory(name), memory(name), memory(name)]

    def step(ours):
        def run(labels, x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = ours(labels, x)
            return value, tape.gradient(value, x)

        return run

    any_size = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 6], tf.float32)]
    runs = [
        step(made[0]),
        tf.function(step(made[1]), input_signature=any_size, autograph=False),
        tf.function(step(made[2]), jit_compile=True, autograph=False),
    ]
    for labels, x in batches(3):
        found = [run(tf.constant(labels), tf.constant(x, tf.float32)) for run in runs]
        for value, gradient in found[1:]:
            np.testing.assert_allclose(value, found[0][0], rtol=1e-5)
            np.testing.assert_allclose(gradient, found[0][1], rtol=1e-3, atol=1e-5)
    for one, other in zip(made[0].variables, made[2].variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_labels_that_a_float_would_merge_stay_apart():
    ours = memory(size=8, dim=2)
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    ours([2**53, 2**53 + 1], x)
    # A negative at a cosine of 1, where float64 would see a positive.
    assert float(ours(np.array([2**53 + 1]), x[:1])) == pytest.approx((1 - 0) + 1)


def test_what_is_stored_may_come_from_elsewhere():
    ours, plain = memory(size=6), losses.get("contrastive_similarity")
    (labels, x), (_, other) = list(batches(2, rows=6))
    value, gradient = measured(ours, labels, x, stored=other)
    np.testing.assert_array_equal(ours.embeddings.numpy(), other)
    assert value != pytest.approx(2 * float(plain(labels, x)))
    again = memory(size=6)
    with tf.GradientTape() as tape:
        kept = tf.constant(other)
        tape.watch(kept)
        same = again(labels, x, stored=kept)
    assert same == value
    assert tape.gradient(same, kept) is None
    assert np.abs(gradient).max() > 0


def test_aside_measures_the_batch_alone_and_leaves_no_trace():
    ours, undisturbed = memory(), memory()
    plain = losses.get("contrastive_similarity")
    for labels, x in batches():
        with ours.aside():
            assert float(ours(labels, x)) == float(plain(labels, x))
        assert float(ours(labels, x)) == float(undisturbed(labels, x))
    with pytest.raises(ZeroDivisionError), ours.aside():
        raise ZeroDivisionError
    labels, x = next(batches())
    assert float(ours(labels, x)) == float(undisturbed(labels, x))


def test_half_precision_is_kept_and_computed_with_in_float32():
    ours = memory()
    labels, x = next(batches())
    half = tf.cast(x, tf.bfloat16)
    value = ours(labels, half)
    assert value.dtype == tf.float32
    assert {w.dtype for w in ours.weights} == {"float32", "int64"}
    np.testing.assert_array_equal(ours.embeddings.numpy()[-len(x) :], tf.cast(half, tf.float32))


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_finite_shows_in_the_batch_and_in_what_is_stored(name):
    (labels, x), (_, bad) = list(batches(2))
    bad[-1, 0] = np.inf
    assert np.isfinite(float(memory(name)(labels, x)))
    assert not np.isfinite(float(memory(name)(labels, bad)))
    assert not np.isfinite(float(memory(name)(labels, x, stored=bad)))


def test_the_config_makes_an_equal_memory():
    ours = memory("multi_similarity", 30, weight=0.3, start_after=1, momentum=0.99)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert again.get_config() == ours.get_config()
    assert [w.path for w in again.weights] == [w.path for w in ours.weights]
    assert again.trainable_variables == []
    for labels, x in batches():
        assert again(labels, x) == ours(labels, x)


def test_mistakes_are_named():
    labels, x = next(batches())
    with pytest.raises(ValueError, match="NPairs is no loss of anchors against references"):
        losses.get_memory("xbm", losses.get("npairs"))
    loss = losses.get("circle")
    with pytest.raises(ValueError, match=r"call prepare\(embedding_dim\) first"):
        losses.get_memory("xbm", loss)(labels, x)
    with pytest.raises(ValueError, match=r"embeddings of 4 numbers; got shape \(9, 6\)"):
        memory(dim=4)(labels, x)
    with pytest.raises(ValueError, match="a batch of 9 is larger than the memory of size=8"):
        memory(size=8)(labels, x)
    with pytest.raises(ValueError, match="is prepared"):
        memory().prepare(6)
    with pytest.raises(ValueError, match="integer labels"):
        memory()(labels.astype("f4"), x)
    for bad in ({"size": 0}, {"weight": -1.0}, {"start_after": -1}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            losses.get_memory("xbm", loss, **bad)
    with pytest.raises(UserError, match="did you mean 'size'"):
        losses.get_memory("xbm", loss, sise=3)


def test_losses_are_marked_by_whether_they_have_the_form():
    for name, found in registry.components("loss").items():
        has_form = isinstance(found.load(), type) and issubclass(found.load(), MatrixLoss)
        assert (name in LOSSES) == has_form, name

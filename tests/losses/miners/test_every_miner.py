"""A battery for every registered miner: found by name, so that what is registered is tested."""

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf

from trainer import losses
from trainer.config import registry

COMPONENTS = registry.components("miner")
#: Every miner, in each of its ways of choosing negatives.
VARIANTS = [(name, {}) for name, found in COMPONENTS.items() if "negatives" not in found.parameters]
VARIANTS += [
    (name, {"negatives": choice})
    for name, found in COMPONENTS.items()
    if "negatives" in found.parameters
    for choice in found.parameters["negatives"].type_name.split("|")
]
OF_SEVERAL = [name for name, found in COMPONENTS.items() if "positives" in found.parameters]


def batch(size=24, dim=6, seed=0):
    random = np.random.default_rng(seed)
    labels = np.sort(random.integers(0, size // 4, size))
    x = random.normal(size=(size, dim)) + 0.2 * labels[:, None]
    return labels, (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f4")


def triplets(found):
    """The triplets that count, as (T, 3)."""
    anchor, positive, negative, valid = (np.array(part) for part in found)
    return np.stack([anchor, positive, negative], axis=1)[valid]


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_what_counts_is_a_triplet(name, parameters):
    labels, x = batch()
    miner = losses.get_miner(name, **parameters)
    for _ in range(5):
        found = miner(labels, x)
        chosen = triplets(found)
        assert len(chosen) >= 20
        assert len(np.unique(chosen[:, :2], axis=0)) == len(chosen), "a positive pair twice"
        assert (chosen[:, 0] != chosen[:, 1]).all()
        assert (labels[chosen[:, 0]] == labels[chosen[:, 1]]).all()
        assert (labels[chosen[:, 0]] != labels[chosen[:, 2]]).all()
        for places in found[:3]:
            assert places.dtype == tf.int32
            assert (np.array(places) >= 0).all()
            assert (np.array(places) < 24).all()


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_number_is_known_from_the_size_of_the_batch(name):
    shapes = set()

    miner = losses.get_miner(name)

    @tf.function(autograph=False)
    def mine(labels, x):
        found = miner(labels, x)
        shapes.update(tuple(part.shape) for part in found)
        return found

    labels, x = batch()
    for same in (labels, np.zeros(24, int), np.arange(24)):
        chosen = triplets(mine(tf.constant(same), x))
        assert (same[chosen[:, 0]] == same[chosen[:, 1]]).all()
        assert (same[chosen[:, 0]] != same[chosen[:, 2]]).all()
    assert len(shapes) == 1
    ((count,),) = shapes
    assert count in (24, 72)


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_without_a_positive_or_a_negative_nothing_counts(name, parameters):
    _, x = batch()
    miner = losses.get_miner(name, **parameters)
    for labels in (np.zeros(24, int), np.arange(24), np.zeros(1, int)):
        assert not triplets(miner(labels, x[: len(labels)])).size


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_a_graph_for_batches_of_any_size_chooses_as_eager_mode_does(name, parameters):
    eager, miner = (losses.get_miner(name, 5, **parameters) for _ in range(2))
    signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 6], tf.float32)]
    graph = tf.function(miner, input_signature=signature, autograph=False)
    for size in (24, 4, 1):
        labels, x = batch(max(size, 4))
        labels, x = labels[:size], x[:size]
        one, other = triplets(eager(labels, x)), triplets(graph(labels, x))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_seed_decides_the_draws_and_a_state_put_back_goes_on_from_there(name):
    labels, x = batch()
    miner, again, other = (losses.get_miner(name, seed) for seed in (1, 1, 2))
    first = [triplets(miner(labels, x)) for _ in range(4)]
    for chosen in first:
        np.testing.assert_array_equal(chosen, triplets(again(labels, x)))
    if not np.array_equal(first[0], first[1]):
        assert not np.array_equal(first[0], triplets(other(labels, x)))
    state = [variable.numpy() for variable in miner.variables]
    ahead = triplets(miner(labels, x))
    for variable, value in zip(other.variables, state, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(ahead, triplets(other(labels, x)))
    miner.restart()
    np.testing.assert_array_equal(first[0], triplets(miner(labels, x)))


def test_there_are_miners_that_draw():
    labels, x = batch()
    for name in ("distance_weighted", "semihard"):
        miner = losses.get_miner(name, positives=1)
        assert not np.array_equal(triplets(miner(labels, x)), triplets(miner(labels, x)))


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_every_positive_pair_gets_its_turn(name):
    labels = np.array([0] * 7 + [1] * 3 + [2] * 2)
    x = np.random.default_rng(2).normal(size=(12, 3)).astype("f4") + 4  # all within reach
    pairs = {(a, p) for a in range(12) for p in range(12) if a != p and labels[a] == labels[p]}
    miner = losses.get_miner(name, positives=6)
    assert {(a, p) for a, p, _ in triplets(miner(labels, x))} == pairs
    miner = tf.function(losses.get_miner(name, positives=2), autograph=False)
    count = dict.fromkeys(pairs, 0)
    for _ in range(300):
        for a, p, _ in triplets(miner(labels, x)):
            count[a, p] += 1
    for (a, _), times in count.items():
        # Two of six, at 300 draws: 100, with a standard deviation of 8.
        assert times == (300 if labels[a] else pytest.approx(100, abs=35))


@pytest.mark.parametrize("name", COMPONENTS)
def test_labels_of_any_integer_type_that_do_not_merge(name):
    labels, x = batch()
    expected = triplets(losses.get_miner(name)(labels, x))
    for other in (labels.astype("u1"), labels.astype("i4")[:, None], labels + 2**62):
        np.testing.assert_array_equal(triplets(losses.get_miner(name)(other, x)), expected)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_config_makes_an_equal_miner(name):
    values = {"int": 2, "float": 0.9}
    changed = {
        key: values.get(parameter.type_name) or parameter.type_name.split("|")[-1]
        for key, parameter in COMPONENTS[name].parameters.items()
        if key != "nonzero_loss_cutoff"
    }
    miner = losses.get_miner(name, 7, **changed)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(miner))
    assert type(again) is type(miner)
    assert again.get_config() == miner.get_config()
    assert {"seed": 7, **changed}.items() <= miner.get_config().items()


@pytest.mark.parametrize("name", COMPONENTS)
def test_wrong_shapes_and_values_are_named(name):
    labels, x = batch()
    miner = losses.get_miner(name)
    with pytest.raises(ValueError, match=r"takes embeddings \(B, D\); got shape \(24, 6, 1\)"):
        miner(labels, x[:, :, None])
    with pytest.raises(ValueError, match=r"one label for each embedding; got labels \(23,\)"):
        miner(labels[1:], x)
    for key, parameter in COMPONENTS[name].parameters.items():
        if "|" in parameter.type_name:
            with pytest.raises(ValueError, match="is not one of"):
                COMPONENTS[name].load()(0, **{key: "nearest"})
        else:
            with pytest.raises(ValueError, match=f"{key}="):
                COMPONENTS[name].load()(0, **{key: 0})


@pytest.mark.parametrize("name", COMPONENTS)
def test_nothing_of_size_b_cubed(name):
    """1200 items of 2 classes: a float for every triplet would be 1.7 GB."""
    x = tf.random.stateless_normal((1200, 8), (0, 1))
    before = psutil.Process().memory_info().rss
    tf.function(losses.get_miner(name), autograph=False)(tf.range(1200) % 2, x)
    assert psutil.Process().memory_info().rss - before < 400e6

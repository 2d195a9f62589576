"""A loss over the triplets that a miner finds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.reference.golden_batches import labelled
from trainer import losses
from trainer.config import registry
from trainer.losses.mined import MinedTriplets

MINERS = list(registry.components("miner"))
OF_TRIPLETS = {
    name: {"negatives": "own"} if "negatives" in found.parameters else {}
    for name, found in registry.components("loss").items()
    if found.tags["takes"] == "triplets"
}


def mined(loss="triplet_margin", miner="hard", seed=0, **parameters):
    return MinedTriplets(loss=losses.get(loss, **parameters), miner=losses.get_miner(miner, seed))


def measured(loss, labels, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    return value.numpy(), tape.gradient(value, x).numpy()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["hard", "semihard"])
def test_a_margin_over_these_triplets_is_the_loss_that_mines_itself(kind, distance):
    parameters = {"margin": 0.3, "distance": distance}
    positives = {"positives": 12} if kind == "semihard" else {}
    ours = MinedTriplets(
        loss=losses.get("triplet_margin", **parameters),
        miner=losses.get_miner(kind, distance=distance, **positives),
    )
    for case, (labels, x) in labelled().items():
        if case == "twins":  # which of two equal rows is chosen is arbitrary
            continue
        value, gradient = measured(losses.get(f"triplet_{kind}", **parameters), labels, x)
        again, slope = measured(ours, labels, x)
        np.testing.assert_allclose(again, value, rtol=1e-5, atol=1e-6, err_msg=case)
        np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-5, err_msg=case)


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", OF_TRIPLETS)
def test_the_loss_is_that_of_the_triplets_found(loss, miner):
    labels, x = labelled()["singletons"]
    explicit = losses.get(loss, **OF_TRIPLETS[loss])
    ours = mined(loss, miner, **OF_TRIPLETS[loss])
    *places, valid = (np.array(part) for part in losses.get_miner(miner)(labels, x))
    assert 0 < valid.sum() < len(valid)
    places = np.stack(places, axis=1)[valid]
    value, slope = measured(explicit, None, x[places])
    again, gradient = measured(ours, labels, x)
    expected = np.zeros_like(x)
    np.add.at(expected, places.ravel(), slope.reshape(-1, x.shape[1]))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("miner", MINERS)
def test_without_a_triplet_the_loss_is_zero_with_zero_gradients(miner):
    for case in ("one class", "all different"):
        labels, x = labelled()[case]
        value, gradient = measured(mined(miner=miner), labels, x)
        assert value == 0
        np.testing.assert_array_equal(gradient, np.zeros_like(x))


@pytest.mark.parametrize("miner", MINERS)
def test_xla_agrees_with_eager_mode_on_what_is_not_drawn(miner):
    labels, x = labelled()["balanced"]
    loss = mined(miner=miner)
    value, gradient = measured(loss, labels, x)

    @tf.function(jit_compile=True, autograph=False)
    def step(labels, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x)
        return value, tape.gradient(value, x)

    again, slope = step(tf.constant(labels), tf.constant(x))
    assert again > 0
    if miner != "distance_weighted":  # XLA draws other numbers
        np.testing.assert_allclose(again, value, rtol=1e-5)
        np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-6)


def test_what_is_not_finite_shows():
    labels, x = labelled()["balanced"]
    x = x.copy()
    x[3, 0] = np.nan
    for miner in MINERS:
        assert not np.isfinite(mined(miner=miner)(labels, x))


def test_aside_draws_from_the_beginning_and_leaves_no_trace():
    labels, x = labelled()["balanced"]
    loss, undisturbed = mined(miner="distance_weighted"), mined(miner="distance_weighted")
    first = [float(undisturbed(labels, x)) for _ in range(5)]
    assert len(set(first)) == 5
    assert [float(loss(labels, x)) for _ in range(2)] == first[:2]
    for _ in range(2):
        with loss.aside():
            assert [float(loss(labels, x)) for _ in range(3)] == first[:3]
    assert [float(loss(labels, x)) for _ in range(3)] == first[2:]


def test_an_error_aside_leaves_no_trace_either():
    loss = mined(miner="distance_weighted")
    loss.miner.variables[0].assign([3, 9])
    with pytest.raises(ZeroDivisionError), loss.aside():
        raise ZeroDivisionError
    assert loss.variables[0].numpy().tolist() == [3, 9]


def test_positives_of_other_triplets_are_no_negatives():
    with pytest.raises(ValueError, match=r"negatives=batch .* negatives=own does not"):
        mined("angular_loss_2")


def test_the_config_makes_an_equal_loss():
    labels, x = labelled()["balanced"]
    loss = mined("hinge_loss", "distance_weighted", seed=4, fidelity="released", margin=0.7)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.loss.get_config() == loss.loss.get_config()
    assert again.miner.get_config() == loss.miner.get_config()
    assert again(labels, x) == loss(labels, x)


def test_shapes_are_named_as_those_of_other_losses():
    labels, x = labelled()["balanced"]
    with pytest.raises(ValueError, match=r"MinedTriplets takes embeddings \(B, D\)"):
        mined()(labels, x[:, None])
    with pytest.raises(ValueError, match="integer labels"):
        mined()(labels.astype("f4"), x)

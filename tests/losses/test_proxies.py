"""Losses with proxies: worked by hand, and as the layers that they are."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import prepared
from trainer import losses

NAMES = ("proxy_anchor", "proxy_nca", "soft_triple")
SQUARE = np.array([[1.0, 0.0], [0.0, 2.0]])


def with_weights(name, proxies, **parameters):
    loss = losses.get(name, **parameters)
    loss.prepare(np.arange(len(proxies) // loss.per_class), len(proxies[0]))
    loss.set_weights([np.asarray(proxies, np.float32)])
    return loss


def test_proxy_anchor_by_hand():
    # One item on its own proxy, at a right angle to the other, of which there is no item.
    loss = with_weights("proxy_anchor", SQUARE, margin=0.1, alpha=2.0)
    pull = math.log1p(math.exp(-2 * (1 - 0.1)))
    push = math.log1p(math.exp(2 * (0 + 0.1)))
    # The pull is the mean over the one proxy that has an item; the push, over both.
    assert float(loss([0], [[3.0, 0.0]])) == pytest.approx(pull + push / 2)


def test_proxy_nca_by_hand():
    loss = with_weights("proxy_nca", SQUARE, temperature=0.5)
    expected = -math.log(1 / (1 + math.exp(-2 / 0.5)))
    assert float(loss([0], [[3.0, 0.0]])) == pytest.approx(expected)


def test_soft_triple_by_hand():
    centers = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    loss = with_weights(
        "soft_triple", centers, centers_per_class=2, la=2.0, gamma=1.0, margin=0.1, tau=0.3
    )
    # Of the item's class: cosines 1 and 0; of the other: -1 and 0.
    own = math.exp(1) / (math.exp(1) + 1) - 0.1
    other = -math.exp(-1) / (math.exp(-1) + 1)
    spread = math.sqrt(2 + 1e-5) / 2
    expected = math.log1p(math.exp(2 * (other - own))) + 0.3 * spread
    assert float(loss([0], [[5.0, 0.0]])) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_that_it_must_be_prepared(name):
    loss = losses.get(name)
    assert isinstance(loss, keras.layers.Layer)
    assert loss.trainable_variables == []
    with pytest.raises(ValueError, match=r"no proxies yet; call prepare\(classes"):
        loss([0, 1], np.eye(2))
    loss.prepare([0, 1], 3)
    with pytest.raises(ValueError, match=r"embeddings of 3 numbers; got shape \(2, 2\)"):
        loss([0, 1], np.eye(2))
    with pytest.raises(ValueError, match="make another loss"):
        loss.prepare([0, 1], 3)


@pytest.mark.parametrize(
    ("classes", "dim", "message"),
    [([], 3, "one class or more"), ([0.5], 3, "integer labels"), ([1], 0, "embedding_dim=0")],
)
def test_what_cannot_be_prepared(classes, dim, message):
    with pytest.raises(ValueError, match=message):
        losses.get("proxy_nca").prepare(classes, dim)


@pytest.mark.parametrize("name", NAMES)
def test_proxies_are_float32_unit_long_and_drawn_by_the_seed(name):
    drawn = []
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for seed in (1, 1, 2):
            keras.utils.set_random_seed(seed)
            loss = losses.get(name)
            loss.prepare(range(50), 64)
            drawn.append(loss.get_weights()[0])
            assert loss.trainable_variables[0].dtype == "float32"
            assert loss.trainable_variables[0].path == f"{type(loss).__name__}/proxies"
            value = loss([0, 1], tf.ones((2, 64), tf.float16))
            assert value.dtype == tf.float32
    finally:
        keras.config.set_dtype_policy("float32")
    assert drawn[0].shape == (50 * loss.per_class, 64)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.linalg.norm(drawn[0], axis=1).mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_any_integers_in_any_order(name):
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(8, 6)), np.array([0, 1, 2, 2, 1, 0, 3, 3])
    codes = np.array([-5, 7, 2**40, 2**40 + 1])
    plain = prepared.get(name, classes=range(4))
    coded = prepared.get(name, classes=codes[[3, 1, 0, 2, 1]])
    np.testing.assert_allclose(coded(codes[labels], x), plain(labels, x), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_item_of_another_class_is_as_if_it_were_not_there(name):
    random = np.random.default_rng(1)
    x, labels = tf.constant(random.normal(size=(8, 6))), np.array([0, 1, 99, 2, 1, 0, -1, 3])
    known = np.isin(labels, range(24))
    loss = prepared.get(name)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    assert float(value) == pytest.approx(float(loss(labels[known], x[known])), rel=1e-9)
    np.testing.assert_array_equal(tape.gradient(value, x).numpy()[~known], 0)


@pytest.mark.parametrize("name", NAMES)
def test_saving_keeps_classes_and_proxies(name, tmp_path):
    """As part of a Keras model, in a file."""
    loss = prepared.get(name, classes=[3, 2**40])
    x, labels = tf.random.stateless_normal((6, 6), (0, 1)), tf.constant([3, 2**40, 3, 3, 2**40, 3])
    embeddings, codes = keras.Input((6,)), keras.Input((), dtype="int64")
    model = keras.Model([codes, embeddings], loss(codes, embeddings))
    model.save(tmp_path / "with_loss.keras")
    again = keras.saving.load_model(tmp_path / "with_loss.keras")
    assert [v.path for v in again.trainable_variables] == [f"{type(loss).__name__}/proxies"]
    np.testing.assert_array_equal(again([labels, x]), loss(labels, x))


@pytest.mark.parametrize("name", NAMES)
def test_the_proxies_learn_their_classes(name):
    """With still embeddings, the proxies alone bring the loss down, and each nearest to its own."""
    random = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), 8)
    x = tf.constant((np.eye(5, 6)[labels] + 0.2 * random.normal(size=(40, 6))).astype("f4"))
    loss = prepared.get(name, classes=range(5))
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build(loss.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(labels, x)
        weights = [v.value for v in loss.trainable_variables]
        optimizer.apply(tape.gradient(value, weights), loss.trainable_variables)
        return value

    first = step()
    for _ in range(80):
        last = step()
    assert last < 0.7 * first
    proxies = loss.get_weights()[0]
    proxies /= np.linalg.norm(proxies, axis=1, keepdims=True)
    nearest = np.argmax(x @ proxies.T, axis=1) // loss.per_class
    assert (nearest == labels).mean() > 0.95

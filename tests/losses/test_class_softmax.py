"""The softmax losses over classes: worked by hand, at the ends of the cosine, sampled classes."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import losses
from trainer.losses.class_softmax import adaptive_margins, add_angle, draw_classes

NAMES = ("arcface", "subcenter_arcface", "cosface", "normalized_softmax")
CORNERS = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]], np.float32)


def prepared(name, classes, dim, **parameters):
    loss = losses.get(name, **parameters)
    keras.utils.set_random_seed(1)
    loss.prepare(classes, dim)
    return loss


def slopes(loss, labels, x):
    """The value, and its gradients by embeddings and centers."""
    x, table = tf.constant(x), loss.proxies.value
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    return value, *(tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, [x, table]))


@pytest.mark.parametrize(
    ("name", "parameters", "near"),
    [
        ("arcface", {"margin": 0.3}, math.cos(math.pi / 4 + 0.3)),
        # At 45 degrees, an angle of 3 more goes beyond pi.
        ("arcface", {"margin": 3.0}, math.cos(math.pi / 4) - 3 * math.sin(3)),
        ("cosface", {"margin": 0.2}, math.cos(math.pi / 4) - 0.2),
        ("normalized_softmax", {}, math.cos(math.pi / 4)),
    ],
)
def test_by_hand(name, parameters, near):
    loss = prepared(name, [0, 1, 2], 2, scale=2.0, **parameters)
    loss.set_weights([CORNERS])
    others = math.exp(2 * math.cos(math.pi / 4)) + math.exp(-2 * math.cos(math.pi / 4))
    expected = -math.log(math.exp(2 * near) / (math.exp(2 * near) + others))
    assert float(loss([0], [[4.0, 4.0]])) == pytest.approx(expected, rel=1e-6)


def test_the_nearest_center_of_a_class_counts():
    loss = prepared("subcenter_arcface", [0, 1], 2, scale=2.0, centers=2, margin=0.1)
    loss.set_weights([np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)])
    near = math.cos(math.acos(0.8) + 0.1)
    expected = math.log1p(math.exp(2 * (0.6 - near)))
    assert float(loss([0], [[-0.8, 0.6]])) == pytest.approx(expected, rel=1e-6)
    _, _, centers = slopes(loss, [0], np.float32([[-0.8, 0.6]]))
    np.testing.assert_array_equal(np.abs(centers).sum(axis=1) > 0, [False, True, True, False])


def test_margins_follow_from_counts():
    # Fourth roots of 1, 16 and 81: t is 1, 1/2 and 1/3.
    margins = adaptive_margins(np.array([81, 1, 16]), 0.05, 0.45)
    np.testing.assert_allclose(margins, [0.05, 0.5, 0.05 + 0.45 / 4])
    for counts in ([7, 7, 7], [1]):
        np.testing.assert_allclose(adaptive_margins(np.array(counts), 0.05, 0.45), 0.275)


def test_prepare_counts_the_labels_and_saving_keeps_the_counts():
    labels = [30] * 16 + [-2] + [5] * 81
    loss = prepared("subcenter_arcface", labels, 2, centers=1, margin_low=0.1, margin_span=0.2)
    fixed = {
        label: prepared("subcenter_arcface", labels, 2, centers=1, margin=margin)
        for label, margin in ((5, 0.1), (30, 0.15), (-2, 0.3))
    }
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    again.set_weights(loss.get_weights())
    x = np.float32([[1.0, 0.5]])
    for label, other in fixed.items():
        other.set_weights(loss.get_weights())
        assert float(loss([label], x)) == pytest.approx(float(other([label], x)), rel=1e-6)
        assert float(again([label], x)) == float(loss([label], x))


def test_a_loss_saved_before_classes_were_counted_is_prepared_again():
    loss = losses.get("proxy_nca")
    loss.build_from_config({"classes": [3, 9], "embedding_dim": 2})
    assert loss.get_build_config() == {"classes": [3, 9], "counts": [1, 1], "embedding_dim": 2}


@pytest.mark.parametrize(
    "parameters",
    [{"margin": 3.2}, {"margin": None, "margin_low": 3.0}, {"margin_span": -0.1}, {"scale": 0.0}],
)
def test_what_is_no_margin_or_scale_is_refused(parameters):
    with pytest.raises(ValueError, match=r"margin|scale"):
        losses.get("arcface", **parameters)
    with pytest.raises(ValueError, match="sampled_classes=-1"):
        losses.get("cosface", sampled_classes=-1)


def test_adding_an_angle_is_exact_and_falls_all_the_way():
    angles = np.linspace(0, math.pi, 1001)
    for margin in (0.0, 0.05, 0.5, 2.0, 3.1):
        found = np.asarray(add_angle(tf.constant(np.cos(angles)), tf.constant(margin, tf.float64)))
        inside = angles + margin <= math.pi
        np.testing.assert_allclose(found[inside], np.cos(angles + margin)[inside], atol=1e-12)
        np.testing.assert_allclose(
            found[~inside], (np.cos(angles) - margin * math.sin(math.pi - margin))[~inside]
        )
        # Beyond pi, larger margins than 2.3 are lost again.
        assert (np.diff(found) < 1e-12).all() or margin > 2.3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_at_cosines_of_exactly_one_and_minus_one(name, dtype):
    """Embeddings on their own center, opposite to it, and as near to these as the format allows."""
    loss = prepared(name, range(2), 2)
    centers = np.float32([[1, 0], [-1, 0]]).repeat(loss.per_class, axis=0)
    loss.set_weights([centers])
    tiny = {"float16": 6e-8, "bfloat16": 1e-38, "float32": 1e-38}[dtype]
    x = tf.cast([[1.0, 0.0], [-1.0, 0.0], [1.0, tiny], [-1.0, 1e-4], [3.0, 3e-4]], dtype)
    for labels in ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1]):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x)
        by_x, by_centers = tape.gradient(value, [x, loss.proxies.value])
        assert value.dtype == tf.float32
        assert by_x.dtype == dtype
        assert np.isfinite(value)
        assert np.isfinite(tf.cast(by_x, "float32")).all()
        assert np.isfinite(by_centers).all()
        # Of length 1 or more, an item is pulled along with no more than scale times slope / B.
        assert np.abs(tf.cast(by_x, "float32")).max() <= 2 * loss.scale / 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampled", [10, 11, 1000])
def test_as_many_sampled_classes_as_there_are_is_the_full_softmax(name, sampled):
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(6, 4)).astype("f4"), np.array([0, 3, 3, 9, 5, 77])
    full = prepared(name, range(10), 4)
    some = prepared(name, range(10), 4, sampled_classes=sampled)
    assert some.sampled_table is None
    for one, other in zip(slopes(full, labels, x), slopes(some, labels, x), strict=True):
        np.testing.assert_array_equal(one, other)
    # All classes, drawn: what a step computes with.
    sampling = prepared(name, range(11), 4, sampled_classes=10)
    of_ten = sampling.of_sample(labels, x, tf.range(10), full.proxies.value[: 10 * full.per_class])
    if name != "subcenter_arcface":
        np.testing.assert_allclose(of_ten, full(labels, x), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_softmax_over_its_classes(name):
    random = np.random.default_rng(1)
    counts = random.integers(1, 50, 40)
    codes = np.sort(random.choice(10**9, 40, replace=False))
    loss = prepared(name, np.repeat(codes, counts), 4, sampled_classes=9)
    labels = codes[[4, 4, 30, 7, 39]]
    labels[-1] += 1  # no class of the training set
    x = random.normal(size=(5, 4)).astype("f4")
    state = np.array(loss.variables[-1].numpy())
    classes = np.asarray(loss.draw(labels))
    assert {4, 30, 7} <= set(classes.tolist())
    loss.variables[-1].assign(state)
    value, by_x, by_table = slopes(loss, labels, x)

    small = prepared(name, codes[classes], 4)
    small.set_weights([loss.get_weights()[0][np.asarray(loss.rows_of(classes))]])
    small._margins = np.broadcast_to(loss._margins, 40)[classes]
    expected, small_by_x, small_by_table = slopes(small, labels, x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(by_x, small_by_x, rtol=1e-5, atol=1e-7)
    rows = np.asarray(loss.rows_of(classes))
    np.testing.assert_allclose(by_table[rows], small_by_table, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(np.delete(by_table, rows, axis=0), 0)


@pytest.mark.parametrize(("count", "size"), [(20, 7), (20, 19), (1000, 64)])
def test_draws_keep_the_classes_of_the_batch_and_take_all_others_alike_often(count, size):
    seeds = keras.random.SeedGenerator(3)
    place = tf.constant([5, 2, 5, 0, 6])
    known = tf.constant([True, True, True, False, True])
    draw = tf.function(
        lambda: draw_classes(place, known, count, size, seeds), jit_compile=size == 7
    )
    times, rounds = np.zeros(count), 1000
    for _ in range(rounds):
        classes = draw().numpy()
        assert classes.dtype == np.int32
        assert (np.diff(classes) > 0).all()
        assert len(classes) == size
        times[classes] += 1
    assert (times[[2, 5, 6]] == rounds).all()
    others = np.delete(times, [2, 5, 6]) / rounds
    share = (size - 3) / (count - 3)
    assert np.abs(others - share).max() < 5 * math.sqrt(max(share * (1 - share), 1e-9) / rounds) + (
        # Classes next to those of the batch are drawn a little less or more often than far ones.
        0.1 * share
    )


def test_more_images_than_sampled_classes_are_refused():
    loss = prepared("arcface", range(10), 4, sampled_classes=3)
    with pytest.raises(ValueError, match="sampled_classes=3 must be at least the 4 images"):
        loss([0, 1, 2, 3], np.ones((4, 4), "f4"))


def test_aside_draws_alike_each_time_and_leaves_the_draws_of_training_alone():
    loss = prepared("cosface", range(1000), 4, sampled_classes=10)
    first = np.asarray(loss.draw(np.array([1, 2])))
    state = np.array(loss.variables[-1].numpy())
    seen = []
    for _ in range(2):
        with loss.aside():
            seen.append(np.asarray(loss.draw(np.array([1, 2]))))
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(loss.variables[-1].numpy(), state)
    assert not np.array_equal(first, loss.draw(np.array([1, 2])))

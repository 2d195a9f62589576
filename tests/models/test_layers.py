"""Layers against float64 formulas, at the edges where plain formulas break."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models.layers import (
    LRN2D,
    Dropout,
    GeM,
    L2Normalize,
    Preprocess,
    Residual,
    TokenDense,
    gelu,
    unit,
)

PIXELS = np.array([[[[0, 128, 255], [10, 20, 30]]]], "uint8")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("mode", "application"),
    [
        ("caffe", keras.applications.vgg16),
        ("torch", keras.applications.densenet),
        ("tf", keras.applications.mobilenet),
    ],
)
def test_preprocessing_is_that_of_keras_applications(mode, application, dtype):
    want = application.preprocess_input(PIXELS.astype("float32"))
    np.testing.assert_allclose(Preprocess(mode)(PIXELS.astype(dtype)), want, atol=1e-4)


def test_preprocessing_of_efficientnet_lite():
    np.testing.assert_allclose(Preprocess("lite")(PIXELS), (PIXELS - 127.0) / 128.0, rtol=1e-6)


def test_preprocessing_of_clip():
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    want = (PIXELS / 255.0 - mean) / deviation
    np.testing.assert_allclose(Preprocess("clip")(PIXELS), want, rtol=1e-5)


def test_preprocessing_rescale_and_none():
    np.testing.assert_allclose(Preprocess()(PIXELS), PIXELS / 255.0, atol=1e-7)
    np.testing.assert_array_equal(Preprocess("none")(PIXELS), PIXELS.astype("float32"))


def test_preprocessing_keeps_float32_in_mixed_precision():
    fractions = PIXELS + np.float32(0.3)
    layer = Preprocess("rescale", dtype="mixed_bfloat16")
    assert Preprocess("rescale").compute_dtype == "float32"
    assert layer(PIXELS).dtype == tf.float32
    np.testing.assert_allclose(Preprocess()(fractions), fractions / 255.0, atol=1e-7)


def test_preprocessing_refuses_unknown_modes():
    with pytest.raises(ValueError, match="rescale, caffe, torch, clip, tf, lite, none"):
        Preprocess("imagenet")


def test_residual_adds_also_where_nothing_comes():
    layer, random = Residual(), np.random.default_rng(0)
    for shape in ((2, 3, 3, 4), (2, 1, 1, 4), (1, 1, 1, 4), (0, 1, 1, 4)):
        a, b = random.normal(size=(2, *shape)).astype("f4")
        np.testing.assert_array_equal(layer([a, b]), a + b)


def _gem(features: np.ndarray, p: float, epsilon: float = 1e-6) -> np.ndarray:
    features = np.maximum(features.astype("float64"), epsilon)
    batch, height, width, channels = features.shape
    result = np.zeros((batch, channels))
    for b in range(batch):
        for c in range(channels):
            total = 0.0
            for y in range(height):
                for x in range(width):
                    total += features[b, y, x, c] ** p
            result[b, c] = (total / (height * width)) ** (1 / p)
    return result


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_formula(p):
    features = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype("float32")
    np.testing.assert_allclose(GeM(p)(features), _gem(features, p), rtol=1e-5)


def test_gem_gradients_match_differences():
    features = np.random.default_rng(1).uniform(0.1, 2, size=(1, 2, 3, 2))
    layer = GeM(2.5)
    x = tf.constant(features, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer(x) * [1.0, -2.0])
    by_x, by_p = tape.gradient(total, [x, layer.p.value])

    def value(features: np.ndarray, p: float) -> float:
        return float((_gem(features, p) * [1.0, -2.0]).sum())

    step = 1e-5
    assert by_p.numpy() == pytest.approx(
        (value(features, 2.5 + step) - value(features, 2.5 - step)) / (2 * step), rel=1e-3
    )
    for place in np.ndindex(features.shape):
        moved = features.copy()
        moved[place] += step
        want = (value(moved, 2.5) - value(features, 2.5)) / step
        assert by_x.numpy()[place] == pytest.approx(want, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gem_stays_finite(dtype):
    features = tf.cast(tf.constant([0.0, 6e4, 1e-7, -5.0], tf.float32), dtype)
    features = tf.reshape(features, (1, 2, 2, 1))
    layer = GeM(30.0)
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = layer(features)
    gradients = tape.gradient(pooled, [features, layer.p.value])
    assert pooled.dtype == tf.float32
    assert 5e4 < pooled.numpy()[0, 0] < 6.1e4
    assert all(np.isfinite(tf.cast(g, tf.float32)).all() for g in gradients)
    zeros = layer(tf.zeros((1, 2, 2, 1), dtype))
    assert zeros.numpy()[0, 0] == pytest.approx(1e-6, rel=1e-3)


def test_gem_refuses_exponents_that_are_not_positive():
    with pytest.raises(ValueError, match="above 0"):
        GeM(0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_l2_normalize(dtype):
    vectors = tf.cast(tf.constant([[3.0, 4.0], [300.0, 400.0], [0.0, 0.0], [3e-4, 4e-4]]), dtype)
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        unit = L2Normalize()(vectors)
        total = tf.reduce_sum(unit)
    assert unit.dtype == tf.float32
    want = [[0.6, 0.8], [0.6, 0.8], [0, 0], [0.6, 0.8]]
    np.testing.assert_allclose(unit, want, atol=2e-3)
    gradient = tf.cast(tape.gradient(total, vectors), tf.float32).numpy()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[2], 0)
    # d/dx of (x + y) / |(x, y)| = y (y - x) / |(x, y)|^3, and the like for y.
    np.testing.assert_allclose(gradient[0], [4 / 125, -3 / 125], atol=2e-3)


def test_l2_normalize_along_another_axis():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    lengths = np.sqrt((maps.astype("float64") ** 2).sum(1, keepdims=True))
    np.testing.assert_allclose(L2Normalize(axis=1)(maps), maps / lengths, atol=1e-6)


def _lrn(x: np.ndarray, n: int, alpha: float, k: float, beta: float) -> np.ndarray:
    result = np.zeros(x.shape)
    for *place, channel in np.ndindex(x.shape):
        total = 0.0
        for other in range(max(0, channel - n // 2), min(x.shape[-1], channel + n // 2 + 1)):
            total += float(x[(*place, other)]) ** 2
        result[(*place, channel)] = x[(*place, channel)] / (k + alpha * total) ** beta
    return result


@pytest.mark.parametrize("settings", [(5, 1e-4, 2.0, 0.75), (3, 0.5, 1.0, 0.5), (9, 1.0, 0.1, 1.0)])
def test_lrn_formula(settings):
    n, alpha, k, beta = settings
    x = np.random.default_rng(0).normal(0, 30, (2, 3, 2, 7)).astype("float32")
    found = LRN2D(n, alpha, k, beta)(x)
    np.testing.assert_allclose(found, _lrn(x, *settings), rtol=1e-5)
    golden = tf.nn.local_response_normalization(
        x, depth_radius=n // 2, bias=k, alpha=alpha, beta=beta
    )
    np.testing.assert_allclose(found, golden, rtol=1e-5)


def test_lrn_defaults_are_those_of_the_paper_and_change_large_values():
    x = np.full((1, 1, 1, 6), 100.0, "float32")
    # Five squares of 100 in the window: (2 + 1e-4 * 5e4) ** 0.75; three of them at the ends.
    want = 100 / np.array([5.0, 6.0, 7.0, 7.0, 6.0, 5.0]) ** 0.75
    np.testing.assert_allclose(LRN2D()(x)[0, 0, 0], want, rtol=1e-6)


def test_lrn_gradients_match_differences():
    x = np.random.default_rng(1).normal(0, 3, (1, 1, 2, 4))
    weight = np.random.default_rng(2).normal(size=x.shape)
    layer = LRN2D(3, 0.2, 1.0, 0.75)
    tensor = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = tf.reduce_sum(layer(tensor) * weight.astype("float32"))
    gradient = tape.gradient(total, tensor).numpy()
    step = 1e-6
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        difference = ((_lrn(up, 3, 0.2, 1.0, 0.75) - _lrn(down, 3, 0.2, 1.0, 0.75)) * weight).sum()
        assert gradient[place] == pytest.approx(difference / (2 * step), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lrn_of_half_precision_is_computed_in_float32(dtype):
    x = tf.constant([[[[6e4, -300.0, 0.0]]]], dtype)
    found = LRN2D(dtype=f"mixed_{dtype}")(x)
    assert LRN2D().compute_dtype == "float32"
    np.testing.assert_allclose(
        tf.cast(found, tf.float32),
        _lrn(tf.cast(x, tf.float32).numpy(), 5, 1e-4, 2, 0.75),
        rtol=2e-2,
    )


@pytest.mark.parametrize("values", [{"n": 4}, {"n": 0}, {"alpha": -1.0}, {"k": 0.0}])
def test_lrn_refuses_values_out_of_range(values):
    with pytest.raises(ValueError, match="LRN2D needs"):
        LRN2D(**values)


def test_dropout_drops_its_share_and_keeps_the_mean():
    layer = Dropout(0.25, seed=1)
    ones = np.ones((400, 50), "float32")
    first, second = (np.asarray(layer(ones, training=True)) for _ in range(2))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (first != second).any()
    np.testing.assert_array_equal(layer(ones), ones)
    np.testing.assert_array_equal(Dropout(0.25, seed=1)(ones, training=True), first)


def test_dropout_state_is_named_after_its_layer():
    for _ in range(2):
        layer = Dropout(0.5, name="mine")
        layer(np.ones((2, 3), "float32"))
        assert [v.path for v in layer.variables] == ["mine/random/seed_generator_state"]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_refuses_rates_out_of_range(rate):
    with pytest.raises(ValueError, match="below 1"):
        Dropout(rate)


@pytest.mark.parametrize(
    "layer",
    [
        Preprocess("tf"),
        GeM(2.0, 1e-3),
        L2Normalize(axis=1),
        LRN2D(3, 0.1, 1.5, 0.5),
        Dropout(0.3, seed=4),
    ],
)
def test_layers_come_back_from_their_config(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def normal_share(x):
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


def test_gelu_and_its_gradient_are_those_of_the_formula():
    x = np.linspace(-6, 6, 241)
    inputs = tf.Variable(x.astype("float32"))
    with tf.GradientTape() as tape:
        outputs = gelu(inputs)
        total = tf.reduce_sum(outputs * np.cos(x).astype("float32"))
    np.testing.assert_allclose(outputs, x * normal_share(x), atol=1e-6)
    slope = normal_share(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(tape.gradient(total, inputs), np.cos(x) * slope, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gelu_in_half_precision(dtype):
    x = np.linspace(-6, 6, 241).astype("float32")
    outputs = gelu(tf.constant(x, dtype))
    assert outputs.dtype == dtype
    np.testing.assert_allclose(tf.cast(outputs, "float32"), x * normal_share(x), atol=0.04)


def test_token_dense_is_dense_on_maps():
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype("float32")
    theirs = keras.layers.Dense(4, activation="tanh")
    ours = TokenDense(4, activation="tanh")
    want = theirs(maps)
    ours.build(maps.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(maps), want, atol=1e-6)
    np.testing.assert_allclose(ours(maps[0, 0]), want[0, 0], atol=1e-6)
    assert ours(maps[:0]).shape == (0, 3, 5, 4)


def test_token_dense_in_a_model_of_any_batch_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((3, 5, 7))
    model = keras.Model(inputs, TokenDense(4, activation=gelu)(inputs))
    assert model.output_shape == (None, 3, 5, 4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype("float32")
    np.testing.assert_array_equal(again(maps), model(maps))


def test_unit_vectors_of_another_length():
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    length = np.linspace(1, 100, 6, dtype="float32")[:, None]
    found = np.asarray(unit(vectors, length=length))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), length[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found, length * np.asarray(unit(vectors)), rtol=1e-6)

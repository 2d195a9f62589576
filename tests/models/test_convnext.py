"""ConvNeXt against OpenCLIP's, timm's and Keras' own, and what else it has to stand."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import convnext as application

from tests.models.convnext_nets import GOLDENS, loaded, shapes
from tests.reference.convnext_cases import CASES, draw, pictures
from trainer import models
from trainer.config import UserError
from trainer.models.layers import DropPath, GeM, Preprocess
from trainer.models.names import restart_numbers
from trainer.models.trunks.assemble import build_trunk
from trainer.models.trunks.convnext import PRESETS, convnext
from trainer.models.weights.open_clip import variable_path
from trainer.serving.embedder import Embedder
from trainer.serving.export import export

SMALL = "convnext(depths=(1, 2), widths=(8, 16), layer_scale=1.0{})"


def in_torch_layout(array: np.ndarray, path: str) -> np.ndarray:
    if not path.endswith("kernel"):
        return array
    if "depthwise" in path:
        return array.transpose((2, 3, 0, 1))
    return array.transpose((3, 2, 0, 1)) if array.ndim == 4 else array.T


def timm_name(name: str) -> str:
    """The name under which a golden's weight is looked up: timm's, also of the projection."""
    for tower, timm in (
        ("trunk.", ""), ("head.mlp.fc1", "head.pre_logits.fc"), ("head.mlp.fc2", "head.fc"),
        ("head.proj", "head.fc"),
    ):  # fmt: skip
        if name.startswith(tower):
            return timm + name.removeprefix(tower)
    return name


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_open_clip_and_timm(case):
    model = loaded(case)
    x = tf.constant(pictures(case))
    sources = [x] + [variable.value for variable in model.trainable_variables]

    with tf.GradientTape() as tape:
        tape.watch(x)
        output = model(x)
        value = tf.reduce_sum(output * draw(f"target {case}", tuple(output.shape)))
    gradients = tape.gradient(value, sources)
    np.testing.assert_allclose(output, GOLDENS[f"{case}|output"], atol=1e-4)

    labels = ["pictures", *shapes(case)]
    expected = dict(zip(labels, GOLDENS[f"{case}|gradients"], strict=True))
    names = {variable_path(timm_name(name)): name for name in shapes(case)}
    paths = [""] + [v.path for v in model.trainable_variables]
    found = {names.get(path, "pictures") for path in paths}
    assert found == {label for label in labels if expected[label].any()}
    assert len(found) == len(paths)
    for path, gradient in zip(paths, gradients, strict=True):
        label = names.get(path, "pictures")
        array = np.asarray(gradient)
        array = in_torch_layout(array, path).astype(np.float64).reshape(-1)
        norm, product = expected[label]
        assert np.linalg.norm(array) == pytest.approx(norm, rel=1e-3, abs=1e-4), label
        direction = draw(f"direction {label}", array.shape)
        # A product of vectors of these lengths is uncertain by their rounding, not by its own.
        assert array @ direction == pytest.approx(product, abs=1e-4 + 1e-3 * norm), label


@pytest.mark.parametrize("case", CASES)
def test_the_last_map_is_that_of_open_clip_and_timm(case):
    net = loaded(case)
    stage = keras.Model(net.input, net.get_layer("stage4_out").output)
    np.testing.assert_allclose(stage(pictures(case)), GOLDENS[f"{case}|map"], atol=1e-4)
    # The same weights, with the normalisation before the pooling.
    net = loaded(case, head="map")
    arrays_of = {weight.path: np.asarray(weight) for weight in net.weights}
    last = GOLDENS[f"{case}|map"]
    deviation = np.sqrt(last.var(-1, keepdims=True) + (1e-5 if case == "linear" else 1e-6))
    want = (last - last.mean(-1, keepdims=True)) / deviation
    want = want * arrays_of["head_norm/gamma"] + arrays_of["head_norm/beta"]
    np.testing.assert_allclose(net(pictures(case)), want, atol=1e-3)


#: The published sizes, three of them as CLIP's visual towers, by timm's and OpenCLIP's names.
PUBLISHED = {
    "tiny": {"preset": "tiny"},
    "small": {"preset": "small"},
    "convnext_base_w": {"preset": "base", "head": "linear", "projection": 640},
    "convnext_large_d": {"preset": "large", "head": "mlp", "projection": 768},
    "xlarge": {"preset": "xlarge"},
    "convnext_xxlarge": {"preset": "xxlarge", "head": "linear"},
}


def test_the_published_sizes_have_as_many_weights_as_those_of_timm_and_open_clip():
    """In a process of its own, which ends before Keras makes the numbers themselves."""
    assert {parameters["preset"] for parameters in PUBLISHED.values()} == set(PRESETS)
    code = f"""
        import json, math, keras
        from trainer.models.trunks.convnext import convnext

        def count(parameters):
            with keras.StatelessScope(initialize_variables=False):
                trunk = convnext(keras.Input((32, 32, 3)), None, **parameters)
                return sum(math.prod(v.shape) for v in trunk.trainable_variables)

        print(json.dumps({{name: count(net) for name, net in {PUBLISHED}.items()}}))
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    found = json.loads(process.stdout.splitlines()[-1])
    assert found == {name: int(GOLDENS[f"parameters|{name}"]) for name in PUBLISHED}


@pytest.fixture
def keras_tiny(monkeypatch):
    """A small ConvNeXt of Keras' for its Tiny, with drawn weights for downloaded ones."""
    depths, widths = (1, 1, 2, 1), (8, 8, 16, 16)
    monkeypatch.setitem(PRESETS, "tiny", (depths, widths, 1e-6))
    source = application.ConvNeXt(
        depths, widths, name="convnext_tiny", include_top=False, input_shape=(40, 40, 3)
    )
    for weight in source.weights:
        norm = "norm" in weight.path and weight.name == "gamma"
        weight.assign(0.3 * draw(weight.path, tuple(weight.shape)) + (1.0 if norm else 0.0))

    def downloaded(include_top, weights, input_shape):
        assert (include_top, weights) == (False, "imagenet")
        return source

    monkeypatch.setattr(keras.applications, "ConvNeXtTiny", downloaded)
    return source


def test_imagenet_weights_give_what_keras_gives(keras_tiny):
    trunk = build_trunk("convnext", 40, weights="imagenet", skips=("none",), frozen=0)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype("float32")
    np.testing.assert_allclose(trunk(Preprocess("torch")(images)), keras_tiny(images), atol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("preset='xxlarge'", "laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup"),
        ("head='linear'", "head map or norm"),
        ("layer_scale=0.0", "layer scale"),
        ("depths=(1, 2)", "as published"),
    ],
)
def test_imagenet_weights_that_there_are_not(monkeypatch, parameters, words):
    for preset in ("tiny", "xxlarge"):  # too large to be made for this
        monkeypatch.setitem(PRESETS, preset, ((1, 1), (8, 8), 1e-5))
    with pytest.raises(UserError, match=words) as raised:
        build_trunk(f"convnext({parameters})", 32, weights="imagenet", skips=("none",), frozen=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("depths=(1, 1)", "widths needs one number for each of 2 stages, not 4"),
        ("depths=(1, 0), widths=(8, 8)", "depths, widths and projection must be above 0"),
        ("projection=0", "depths, widths and projection must be above 0"),
        ("layer_scale=-1.0", "layer_scale must be at least 0"),
        ("epsilon=0.0", "epsilon above 0"),
        ("depths=(1, 1), widths=(8, 8), drop_path=1.0", "below 1"),
    ],
)
def test_numbers_that_cannot_be_are_told(parameters, words):
    with pytest.raises(ValueError, match=words):
        build_trunk(f"convnext({parameters})", 32, weights="none", skips=("none",), frozen=0)


def test_blocks_further_on_are_dropped_more_often():
    net = convnext(keras.Input((32, 32, 3)), None, depths=(1, 3), widths=(4, 8), drop_path=0.3)
    rates = [layer.rate for layer in net.layers if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


def test_layers_are_named_by_stage_and_block_whatever_was_built_before():
    def paths(frozen: str) -> set[str]:
        model = models.build(
            "mildnet", image_size=32, trunk=SMALL.format(", head='mlp', projection=8"),
            skips=("none",), embedding_dim=None, frozen=frozen,
        )  # fmt: skip
        return {variable.path for variable in model.trainable_variables}

    block = {
        "depthwise/kernel", "depthwise/bias", "norm/gamma", "norm/beta", "expand/kernel",
        "expand/bias", "reduce/kernel", "reduce/bias", "scale/gamma",
    }  # fmt: skip
    last = {f"stage2_block2_{weight}" for weight in block}
    stage_2 = last | {f"stage2_block1_{weight}" for weight in block}
    stage_2 |= {f"stage2_down_{w}" for w in ("norm/gamma", "norm/beta", "conv/kernel", "conv/bias")}
    head = {"head_norm/gamma", "head_norm/beta", "head_hidden/kernel", "head_hidden/bias"}
    head.add("head_projection/kernel")
    assert paths("stage1_out") == stage_2 | head
    assert paths("stage2_block1_add") == last | head
    assert paths("stage2_out") == head
    stem = {"stem_conv/kernel", "stem_conv/bias", "stem_norm/gamma", "stem_norm/beta"}
    assert paths(0) == stem | {f"stage1_block1_{weight}" for weight in block} | stage_2 | head


def test_a_generalised_mean_in_the_head_with_exponent_1_is_the_average():
    images = keras.Input((64, 64, 3))
    numbers = {"depths": (1, 2), "widths": (8, 16), "head": "norm", "layer_scale": 1.0}
    plain = convnext(images, None, **numbers)
    other = convnext(images, None, pooling="gem", **numbers)
    gem = other.get_layer("head_pool")
    assert isinstance(gem, GeM)
    values = {weight.path: weight for weight in plain.weights}
    for weight in other.weights:
        weight.assign(values.get(weight.path, weight))
    for net in (plain, other):  # positive everywhere
        net.get_layer("stage2_block2_reduce").bias.assign([9.0] * 16)
    pixels = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    gem.p.assign(1.0)
    # The normalisation takes out the 9 and makes much of what rounding leaves.
    np.testing.assert_allclose(other(pixels), plain(pixels), atol=1e-3)
    gem.p.assign(20.0)
    assert np.abs(other(pixels) - plain(pixels)).max() > 1e-2


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_clips_head_with_gem_is_saved_and_exported_as_it_is(dtype, tmp_path):
    trunk = SMALL.format(", head='linear', projection=12, pooling='gem'")
    options = {"image_size": 32, "preprocessing": "clip", "skips": ("none",)}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = models.build("mildnet", trunk=trunk, embedding_dim=None, **options)
    finally:
        keras.config.set_dtype_policy(before)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    found = model(images)
    assert found.dtype == "float32"
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True)[:, 0])
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(gradient).all()

    model.save(tmp_path / "model.keras")
    restart_numbers()
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), found)
    if dtype == "mixed_bfloat16":  # the other takes as long and shows no more
        export(model, tmp_path / "model", image_size=32)
        exported = Embedder(tmp_path / "model").embed_images(images)
        np.testing.assert_allclose(exported, found, atol=0.02)


def test_two_replicas_give_and_drop_what_one_device_does():
    def build():
        options = {"image_size": 32, "skips": ("none",), "embedding_dim": None}
        trunk = SMALL.format(", head='linear', projection=12, pooling='gem', drop_path=0.6")
        return models.build("mildnet", trunk=trunk, **options)

    one = build()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        two = build()
    for target, source in zip(two.variables, one.variables, strict=True):
        target.assign(source)
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    share = strategy.experimental_distribute_values_from_function(
        lambda context: images[4 * context.replica_id_in_sync_group :][:4]
    )

    def step(model, pictures):
        with tf.GradientTape() as tape:
            embeddings = model(pictures, training=True)
            loss = tf.reduce_sum(tf.sin(embeddings))
        return embeddings, tape.gradient(loss, model.trainable_variables)

    want, want_gradients = tf.function(lambda: step(one, images))()
    got, gradients = tf.function(lambda s: strategy.run(lambda x: step(two, x), (s,)))(share)
    got = np.concatenate([part.numpy() for part in got.values])
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - one(images)).max() > 1e-3, "no row was dropped"
    for theirs, ours in zip(want_gradients, gradients, strict=True):
        total = sum(part.numpy() for part in ours.values)
        np.testing.assert_allclose(total, theirs, rtol=1e-3, atol=1e-4)

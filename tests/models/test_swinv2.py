"""Swin V2 against Hugging Face's, and what else it has to stand."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from tests.reference.swinv2_cases import CASES, draw, image_shape, pictures, weight
from trainer import models
from trainer.config import UserError
from trainer.models.swinv2 import DropPath, WindowAttention, build_swinv2, shift_mask
from trainer.models.trunks.assemble import build_trunk
from trainer.models.trunks.swinv2 import PRESETS
from trainer.models.weights.swinv2 import load_swinv2, variable_path

GOLDENS = np.load(Path(__file__).parents[1] / "reference" / "swinv2_goldens.npz")


def build(case: str, **changes) -> keras.Model:
    values = CASES[case]
    return build_swinv2(
        keras.Input(image_shape(case)),
        embed_dim=values["embed_dim"],
        depths=tuple(values["depths"]),
        heads=tuple(values["num_heads"]),
        window=values["window_size"],
        pretrained_windows=tuple(values.get("pretrained_window_sizes", ())),
        **{"drop_path": 0.0} | changes,
    )


def shapes(case: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(s) for name, s in json.loads(str(GOLDENS[f"{case}|shapes"])).items()}


def loaded(case: str, **changes) -> keras.Model:
    model = build(case, **changes)
    load_swinv2(model, {name: weight(name, shape) for name, shape in shapes(case).items()})
    return model


def in_torch_layout(array: np.ndarray, path: str) -> np.ndarray:
    if not path.endswith("kernel"):
        return array
    return array.transpose((3, 2, 0, 1)) if array.ndim == 4 else array.T


@pytest.mark.parametrize(("case", "xla"), [*((case, False) for case in CASES), ("plain", True)])
def test_tokens_pooled_output_and_gradients_are_those_of_transformers(case, xla):
    model = loaded(case)
    x = tf.constant(pictures(case))
    sources = [x] + [variable.value for variable in model.trainable_variables]

    def tokens_and_gradients():
        with tf.GradientTape() as tape:
            tape.watch(x)
            tokens = model(x)
            flat = tf.reshape(tokens, (2, -1, tokens.shape[-1]))
            value = tf.reduce_sum(flat * draw(f"target {case}", tuple(flat.shape)))
        return flat, tape.gradient(value, sources)

    if xla:
        tokens_and_gradients = tf.function(tokens_and_gradients, jit_compile=True)
    flat, gradients = tokens_and_gradients()
    np.testing.assert_allclose(flat, GOLDENS[f"{case}|last"], atol=1e-4)
    np.testing.assert_allclose(np.mean(flat, axis=1), GOLDENS[f"{case}|pooled"], atol=1e-4)

    names = {variable_path(name): name for name in shapes(case)}
    labels = ["pictures"] + [names[v.path] for v in model.trainable_variables]
    paths = [""] + [v.path for v in model.trainable_variables]
    assert len(labels) == len(shapes(case)) + 1
    for label, path, gradient in zip(labels, paths, gradients, strict=True):
        found = in_torch_layout(np.asarray(gradient), path).astype(np.float64).reshape(-1)
        norm, product = GOLDENS[f"{case}|gradient|{label}"]
        assert np.linalg.norm(found) == pytest.approx(norm, rel=1e-3, abs=1e-3), label
        direction = draw(f"direction {label}", found.shape)
        # A product of vectors of these lengths is uncertain by their rounding, not by its own.
        assert found @ direction == pytest.approx(product, abs=1e-3 + 1e-3 * norm), label


@pytest.mark.parametrize("preset", PRESETS)
def test_the_published_sizes_have_as_many_weights_as_those_of_transformers(preset):
    dim, depths, heads, _ = PRESETS[preset]
    # Nothing depends on the size of picture or window but the time that this takes.
    model = build_swinv2(
        keras.Input((32, 32, 3)), embed_dim=dim, depths=depths, heads=heads, window=4
    )
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert weights == int(GOLDENS[f"parameters|{preset}"])


def test_the_mask_keeps_apart_what_the_shift_has_joined():
    height, width, window, shift = 8, 12, (4, 6), (2, 3)
    mask = shift_mask(height, width, window, shift)
    # Independently: after the roll a token holds what lay `shift` further; two of them may attend
    # to each other if no border of the map lies between them.
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    from_y, from_x = (y + shift[0]) % height, (x + shift[1]) % width
    for number in range(4):
        top, left = 4 * (number // 2), 6 * (number % 2)
        part = np.s_[top : top + 4, left : left + 6]
        rows, columns = from_y[part].reshape(-1, 1), from_x[part].reshape(-1, 1)
        near = (abs(rows - rows.T) < window[0]) & (abs(columns - columns.T) < window[1])
        np.testing.assert_array_equal(mask[number] == 0, near)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_close_and_its_gradients_are_finite(dtype):
    exact = loaded("padded")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = loaded("padded")
    finally:
        keras.config.set_dtype_policy(before)
    x = tf.constant(pictures("padded"))
    with tf.GradientTape() as tape:
        tokens = model(x)
        value = tf.reduce_mean(tf.cast(tokens, tf.float32) ** 2)
    assert tokens.dtype == dtype.removeprefix("mixed_")
    error = np.abs(np.asarray(tf.cast(tokens, tf.float32)) - exact(x)).mean()
    assert error < (0.02 if dtype.removeprefix("mixed_") == "float16" else 0.15)
    for gradient in tape.gradient(value, [v.value for v in model.trainable_variables]):
        assert np.isfinite(np.asarray(tf.cast(gradient, tf.float32))).all()


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean():
    layer = DropPath(0.25, seed=1)
    ones = np.ones((4000, 2, 3), np.float32)
    dropped = np.asarray(layer(ones, training=True))
    assert np.unique(dropped) == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all()
    assert (dropped[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(layer(ones), ones)


def test_blocks_further_on_are_dropped_more_often():
    model = build("plain", drop_path=0.3)
    rates = [layer.rate for layer in model.layers if isinstance(layer, DropPath)]
    # Two branches a block; the first block keeps all of its rows.
    assert rates == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_a_checkpoint_makes_an_embedding_model(tmp_path):
    tiny = "swinv2(preset='tiny', window=4)"
    trunk = build_trunk(tiny, 32, weights="none", skips=("none",), frozen=0)
    arrays = {}
    for variable in trunk.trainable_variables:
        (name,) = [n for n in hugging_face_names() if variable_path(n) == variable.path]
        arrays[f"swinv2.{name}"] = np.ascontiguousarray(
            in_torch_layout(draw(name, tuple(variable.shape)), variable.path)
        )
    arrays["classifier.weight"] = np.zeros((10, 768), np.float32)
    save_file(arrays, tmp_path / "model.safetensors")
    path = str(tmp_path / "model.safetensors")
    model = models.build(
        "mildnet", image_size=32, trunk=tiny, weights=path, embedding_dim=None, skips=("none",)
    )
    (kernel,) = [v for v in model.variables if v.path.endswith("patches/kernel")]
    np.testing.assert_array_equal(
        kernel, draw("embeddings.patch_embeddings.projection.weight", (4, 4, 3, 96))
    )
    assert model.output_shape == (None, 768)

    (tmp_path / "cut.safetensors").write_bytes(Path(path).read_bytes()[:1000])
    del arrays["swinv2.layernorm.bias"]
    save_file(arrays, tmp_path / "less.safetensors")
    save_file({**arrays, "odd.weight": np.zeros(3)}, tmp_path / "more.safetensors")
    for name, words in (
        ("cut", "cannot be read as a safetensors file"),
        ("less", "has no weights for norm/beta"),
        ("more", r"has weights that \w+ does not: odd.weight"),
        ("none", "no such file|No such file"),
    ):
        with pytest.raises(UserError, match=words):
            build_trunk(
                tiny, 32, weights=str(tmp_path / f"{name}.safetensors"), skips=("none",), frozen=0
            )
    with pytest.raises(UserError, match=r"model\.safetensors"):
        build_trunk(tiny, 32, weights="imagenet", skips=("none",), frozen=0)


def hugging_face_names() -> list[str]:
    """The names of a tiny model, made from those of a smaller one."""
    names = []
    for name in shapes("plain"):
        for stage, depth in enumerate(PRESETS["tiny"][1]):
            for block in range(depth):
                name_here = name.replace("layers.0", f"layers.{stage}")
                names.append(name_here.replace("blocks.0", f"blocks.{block}"))
    return sorted(set(names))


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match="6 channels cannot be shared by 4 heads"):
        WindowAttention(4, (2, 2))(np.zeros((1, 4, 4, 6), np.float32))
    with pytest.raises(ValueError, match="window must be above 0"):
        build_trunk("swinv2(window=0)", 32, weights="none", skips=("none",), frozen=0)
    with pytest.raises(ValueError, match="pretrained_windows needs one number for each of 4"):
        build_trunk("swinv2(pretrained_windows=(8,))", 32, weights="none", skips=(), frozen=0)
    with pytest.raises(ValueError, match="heads needs one number for each of 2 stages, not 4"):
        build_trunk("swinv2(depths=(1, 1))", 32, weights="none", skips=(), frozen=0)
    with pytest.raises(ValueError, match="depths, heads and patch must be above 0"):
        build_trunk("swinv2(patch=0)", 32, weights="none", skips=(), frozen=0)


def test_a_net_of_other_numbers_than_the_published_ones():
    numbers = "swinv2(embed_dim=8, depths=(1, 2), heads=(1, 2), patch=2, window=4)"
    trunk = build_trunk(numbers, 32, weights="none", skips=("default",), frozen=0)
    assert [tuple(output.shape[1:]) for output in trunk.outputs] == [
        (8, 8, 16), (16, 16, 8), (8, 8, 16),
    ]  # fmt: skip

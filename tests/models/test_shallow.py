"""The shallow paths against plain loops over the description of each."""

import keras
import numpy as np
import pytest

from trainer import models

SIZE = 72

# For each name, path by path: shrink, padding before the convolution, its stride and padding,
# whether it ends in ReLU, padding before the pooling, the pooling's window, stride and padding.
STEPS = {
    "visnet": [
        (1, 0, 16, "same", False, 0, 3, 4, "same"),
        (1, 0, 32, "same", False, 0, 7, 2, "same"),
    ],
    "visnet_lrn2d": [
        (4, 0, 4, "valid", True, 3, 7, 4, "same"),
        (8, 0, 4, "valid", True, 1, 3, 2, "same"),
    ],
    "ranknet": [
        (4, 4, 4, "valid", False, 2, 7, 4, "valid"),
        (8, 4, 4, "valid", False, 1, 3, 2, "valid"),
    ],
}
STEPS["visnet_no_lrn"] = STEPS["visnet_lrn2d"]


def windows(x: np.ndarray, size: int, stride: int, padding: str, fill: float):
    """Yield (row, column, window) of TensorFlow's windows over the map (H, W, C)."""
    if padding == "same":
        sides = []
        for length in x.shape[:2]:
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            sides.append((total // 2, total - total // 2))
        x = np.pad(x, [*sides, (0, 0)], constant_values=fill)
    for row in range((x.shape[0] - size) // stride + 1):
        for column in range((x.shape[1] - size) // stride + 1):
            top, left = row * stride, column * stride
            yield row, column, x[top : top + size, left : left + size]


def assemble(cells) -> np.ndarray:
    rows, columns = max(c[0] for c in cells) + 1, max(c[1] for c in cells) + 1
    return np.array([value for *_, value in cells]).reshape(rows, columns, -1)


def max_pool(x, size, stride, padding):
    found = windows(x, size, stride, padding, -np.inf)
    return assemble([(row, column, window.max((0, 1))) for row, column, window in found])


def path(picture, steps, kernel, bias, lrn) -> np.ndarray:
    shrink, conv_pad, stride, padding, relu, pool_pad, pool, pool_stride, pool_padding = steps
    x = max_pool(picture, shrink, shrink, "valid") if shrink > 1 else picture
    x = np.pad(x, [(conv_pad, conv_pad)] * 2 + [(0, 0)])
    x = assemble(
        [
            (row, column, np.einsum("ijc,ijcd->d", window, kernel) + bias)
            for row, column, window in windows(x, 8, stride, padding, 0.0)
        ]
    )
    x = np.maximum(x, 0) if relu else x
    if lrn:
        near = np.abs(np.subtract.outer(np.arange(96), np.arange(96))) <= 2
        x = x / (2 + 1e-4 * (x**2 @ near)) ** 0.75
    x = np.pad(x, [(pool_pad, pool_pad)] * 2 + [(0, 0)])
    return max_pool(x, pool, pool_stride, pool_padding).ravel()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("name", STEPS)
def test_paths_come_first_and_are_joined_with_the_deep_branch(name):
    keras.utils.set_random_seed(1)
    model = models.build(
        "mildnet", image_size=SIZE, trunk="convnet_small(widths=(4,))", hidden=(6,), shallow=name,
        preprocessing="none", embedding_dim=None, normalize=False,
    )  # fmt: skip
    for number in (1, 2):
        # Large enough for the normalisation across channels to show.
        layer = model.get_layer(f"shallow_{number}_conv")
        layer.bias.assign(np.random.default_rng(number).normal(0, 9, 96))
    picture = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3))
    convolutions = [model.get_layer(f"shallow_{n}_conv").get_weights() for n in (1, 2)]
    found = [
        path(picture, steps, *weights, lrn=name == "visnet_lrn2d")
        for steps, weights in zip(STEPS[name], convolutions, strict=True)
    ]
    shallow = unit(np.concatenate(found)) if name == "ranknet" else np.concatenate(
        [unit(vector) for vector in found]
    )  # fmt: skip
    hidden = keras.Model(model.input, model.get_layer("hidden_1").output)
    deep = unit(np.asarray(hidden(picture[None]), "float64")[0])
    np.testing.assert_allclose(model(picture[None])[0], np.concatenate([shallow, deep]), atol=2e-5)


def test_lrn_is_what_sets_the_two_visnets_with_fine_strides_apart():
    parameters = {"trunk": "convnet_small(widths=(4,))", "hidden": (8,), "embedding_dim": 8}
    corrected, released = (
        models.build(
            "visnet_lrn2d_model",
            image_size=SIZE,
            weights="none",
            dropout=0.0,
            fidelity=fidelity,
            **parameters,
        )
        for fidelity in ("corrected", "released")
    )
    names = {layer.name for layer in corrected.layers} - {layer.name for layer in released.layers}
    assert names == {"shallow_1_lrn", "shallow_2_lrn"}
    released.set_weights(corrected.get_weights())
    picture = np.random.default_rng(0).uniform(0, 255, (1, SIZE, SIZE, 3)).astype("float32")
    released.get_layer("shallow_1_conv").bias.assign(np.linspace(0, 300, 96))
    corrected.get_layer("shallow_1_conv").bias.assign(np.linspace(0, 300, 96))
    assert np.abs(corrected(picture) - released(picture)).max() > 1e-3

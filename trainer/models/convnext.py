"""ConvNeXt: blocks of a wide depthwise convolution and a two-layer net at each position.

The nets of `keras.applications` have the same layers, and their ImageNet weights are taken from
there. They are not built from there, because their functions offer five sizes and no more: no
stochastic depth, no other epsilon (CLIP's XXLarge needs it), no net without layer scale. Beyond
that their layers are numbered in part, so that weights could not be told by name, and their
depthwise convolution is one in as many groups as channels, which TensorFlow runs on a CPU in some
twenty times the time of its depthwise one.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from trainer.models.heads import pool
from trainer.models.layers import DropPath, Residual, TokenDense, gelu


@keras.saving.register_keras_serializable(package="mildnet")
class LayerScale(keras.layers.Layer):
    """Multiply each channel by a learned factor.

    Args:
        initial: what all factors start from.

    Touvron et al.: Going deeper with image transformers, 2021, arXiv 2103.17239.
    """

    def __init__(self, initial: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial = float(initial)

    def build(self, input_shape: Any) -> None:
        start = keras.initializers.Constant(self.initial)
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer=start, name="gamma")

    def call(self, features: Any) -> Any:
        return features * ops.cast(self.gamma, features.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial": self.initial}


def build_convnext(
    images: Any,
    *,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    head: Literal["map", "norm", "linear", "mlp"] = "map",
    pooling: Literal["gap", "gem"] = "gap",
    projection: int = 1024,
    projection_bias: bool = False,
    layer_scale: float = 1e-6,
    epsilon: float = 1e-6,
    drop_path: float = 0.0,
) -> keras.Model:
    """Build a ConvNeXt on preprocessed pictures.

    Args:
        images: Keras tensor (B, H, W, 3), of any size of 4 * 2^(stages - 1) pixels or more.
        depths: blocks of each stage.
        widths: channels of each stage.
        head: `map`: the last map, normalised at each position; `norm`: the last map pooled, then
            normalised; `linear`: this, projected; `mlp`: this, through a hidden layer of twice the
            projection with GELU, projected.
        pooling: before the normalisation, average or generalised mean; of no use to `map`.
        projection: size of the vectors of `linear` and `mlp`.
        projection_bias: whether the projection has a bias. CLIP's has none.
        layer_scale: initial factor on the output of a block's branch; 0: there are no factors.
        epsilon: added to the variance in each normalisation.
        drop_path: share of rows that pass the last block by, at least 0, below 1; less in the
            blocks before, none in the first.

    Returns:
        A model from pictures to maps (B, h, w, C), or to float32 vectors (B, C) or
        (B, projection). Its layers `stageN_out` are what the stages give, at 1/4, 1/8, 1/16 and
        1/32 size; the rest of block M of stage N begins with `stageN_blockM_`.

    Liu et al.: A ConvNet for the 2020s, 2022, arXiv 2201.03545.
    """
    start = {"kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.02)}

    def norm(x: Any, name: str, **kwargs: Any) -> Any:
        return keras.layers.LayerNormalization(epsilon=epsilon, name=name, **kwargs)(x)

    x = keras.layers.Conv2D(widths[0], 4, strides=4, name="stem_conv", **start)(images)
    x = norm(x, "stem_norm")
    rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        if stage > 1:
            x = norm(x, f"stage{stage}_down_norm")
            x = keras.layers.Conv2D(width, 2, strides=2, name=f"stage{stage}_down_conv", **start)(x)
        for block in range(1, depth + 1):
            name, rate = f"stage{stage}_block{block}", next(rates)
            branch = keras.layers.DepthwiseConv2D(
                7,
                padding="same",
                depthwise_initializer=start["kernel_initializer"],
                name=f"{name}_depthwise",
            )(x)
            branch = norm(branch, f"{name}_norm")
            branch = TokenDense(4 * width, activation=gelu, name=f"{name}_expand", **start)(branch)
            branch = TokenDense(width, name=f"{name}_reduce", **start)(branch)
            if layer_scale:
                branch = LayerScale(layer_scale, name=f"{name}_scale")(branch)
            if rate:
                branch = DropPath(rate, name=f"{name}_drop")(branch)
            last = block == depth
            x = Residual(name=f"stage{stage}_out" if last else f"{name}_add")([x, branch])
    if head == "map":
        x = norm(x, "head_norm")
        return keras.Model(images, x, name="convnext")
    # In float32 whatever the policy: a few products, after which nothing averages errors out.
    x = norm(pool(x, pooling, "head_pool"), "head_norm", dtype="float32")
    if head == "mlp":
        x = keras.layers.Dense(
            2 * projection, activation=gelu, name="head_hidden", dtype="float32", **start
        )(x)
    if head != "norm":
        x = keras.layers.Dense(
            projection,
            use_bias=projection_bias,
            name="head_projection",
            dtype="float32",
            **start,
        )(x)
    return keras.Model(images, x, name="convnext")

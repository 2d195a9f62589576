"""MobileNet, from Keras' own applications."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import register


@register(
    "trunk",
    "mobilenet",
    skips="conv_dw_1_relu, conv_dw_2_relu, conv_dw_4_relu, conv_dw_6_relu, conv_dw_12_relu",
    preprocessing="tf",
    minimum="32",
)
def mobilenet(images: Any, weights: str | None, *, alpha: float = 1.0) -> keras.Model:
    """MobileNet without its classifier: depthwise convolutions, 1024 channels at 1/32 size.

    Args:
        alpha: factor on the channels of every layer; ImageNet weights exist for 0.25, 0.5, 0.75, 1.

    Howard et al.: MobileNets, 2017, arXiv 1704.04861.
    """
    return keras.applications.MobileNet(
        include_top=False,
        weights=weights,
        input_tensor=images,
        alpha=alpha,
    )

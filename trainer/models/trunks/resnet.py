"""ResNet-50 V2, from Keras' own applications."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import register


@register(
    "trunk",
    "resnet50v2",
    skips="conv2_block2_out, conv3_block3_out, conv4_block5_out",
    preprocessing="tf",
    minimum="32",
)
def resnet50v2(images: Any, weights: str | None) -> keras.Model:
    """ResNet-50 V2 without its classifier: 16 residual blocks, 2048 channels at 1/32 size.

    Normalisation comes before each convolution, and once more after the last block. By default the
    maps at 1/4, 1/8 and 1/16 join as skips.

    He et al.: Identity mappings in deep residual networks, 2016, arXiv 1603.05027.
    """
    return keras.applications.ResNet50V2(include_top=False, weights=weights, input_tensor=images)

"""AlexNet's convolutions."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import register
from trainer.models.layers import LRN2D


@register("trunk", "alexnet", skips="convpool_1, convpool_2", preprocessing="rescale", minimum="67")
def alexnet(images: Any, weights: str | None) -> keras.Model:
    """AlexNet without its classifier: 5 convolutions, grouped as in the paper, 256 channels.

    A picture of 227 pixels leaves `convpool_5` as 6 x 6 x 256. Skips are taken behind the first
    two poolings.

    Raises:
        ValueError: `weights="imagenet"`, which Keras does not offer for it.

    Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks,
    2012.
    """
    if weights is not None:
        raise ValueError("alexnet has no ImageNet weights: set weights to none or to a path")
    conv, pool = keras.layers.Conv2D, keras.layers.MaxPooling2D
    x = conv(96, 11, strides=4, activation="relu", name="conv_1")(images)
    x = pool(3, strides=2, name="convpool_1")(x)
    x = LRN2D(name="lrn_1")(x)
    x = conv(256, 5, padding="same", groups=2, activation="relu", name="conv_2")(x)
    x = pool(3, strides=2, name="convpool_2")(x)
    x = LRN2D(name="lrn_2")(x)
    x = conv(384, 3, padding="same", activation="relu", name="conv_3")(x)
    x = conv(384, 3, padding="same", groups=2, activation="relu", name="conv_4")(x)
    x = conv(256, 3, padding="same", groups=2, activation="relu", name="conv_5")(x)
    x = pool(3, strides=2, name="convpool_5")(x)
    return keras.Model(images, x, name="alexnet")

"""VGG16 and VGG19, from Keras' own applications."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import register


@register("trunk", "vgg16", skips="block[1-4]_pool", preprocessing="caffe", minimum="32")
def vgg16(images: Any, weights: str | None) -> keras.Model:
    """VGG16 without its classifier: 13 convolutions in 5 blocks, 512 channels at 1/32 size.

    Simonyan, Zisserman: Very deep convolutional networks, 2015, arXiv 1409.1556.
    """
    return keras.applications.VGG16(include_top=False, weights=weights, input_tensor=images)


@register("trunk", "vgg19", skips="block[1-4]_pool", preprocessing="caffe", minimum="32")
def vgg19(images: Any, weights: str | None) -> keras.Model:
    """VGG19 without its classifier: 16 convolutions in 5 blocks, 512 channels at 1/32 size.

    Simonyan, Zisserman: Very deep convolutional networks, 2015, arXiv 1409.1556.
    """
    return keras.applications.VGG19(include_top=False, weights=weights, input_tensor=images)

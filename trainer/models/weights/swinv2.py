"""Swin V2 from Hugging Face's names and layouts to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from keras import ops

from trainer.config import UserError
from trainer.models.weights.assign import assign

#: What a checkpoint holds besides: the head, a mask token, and tables that follow from the window.
LEFT_OUT = re.compile(
    r"classifier\.(weight|bias)|embeddings\.mask_token|decoder\..*"
    r"|.*\.(relative_coords_table|relative_position_index)"
)

OUTSIDE = {
    "embeddings.patch_embeddings.projection": "patches",
    "embeddings.norm": "patches_norm",
    "layernorm": "norm",
}
INSIDE = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/project",
    "attention.self.continuous_position_bias_mlp.0": "attention/position_hidden",
    "attention.self.continuous_position_bias_mlp.2": "attention/position_bias",
    "layernorm_before": "attention_norm",
    "layernorm_after": "mlp_norm",
    "intermediate.dense": "mlp_1",
    "output.dense": "mlp_2",
}


def load(trunk: keras.Model, path: str | Path) -> None:
    """Load a `model.safetensors` of Hugging Face into our trunk.

    Raises:
        UserError: no such file, the file is damaged, it holds something else or something less, or
            the package that reads it is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise UserError(
            f'{path} needs the package safetensors: pip install "mildnet[pretrained]"'
        ) from None
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as a safetensors file: {error}") from None
    load_swinv2(trunk, arrays, str(path))


def load_swinv2(
    trunk: keras.Model, mapping: Mapping[str, np.ndarray], source: str = "the mapping"
) -> None:
    """Set all weights of a Swin V2 trunk.

    Args:
        trunk: what :func:`trainer.models.swinv2.build_swinv2` made.
        mapping: Hugging Face's names -> arrays in PyTorch's layout; names of a model that has the
            trunk as `swinv2.` are taken too.
        source: where they come from, for messages.

    Raises:
        UserError: an array that is missing, unknown, or of another shape.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in mapping.items():
        short = name.removeprefix("swinv2.")
        if LEFT_OUT.fullmatch(short):
            continue
        target = variable_path(short)
        if target is None or target in arrays:
            raise UserError(f"{source} has weights that {trunk.name} does not: {name}")
        if target.endswith("/kernel"):
            array = array.transpose((2, 3, 1, 0)) if array.ndim == 4 else array.T
        arrays[target] = np.asarray(array)
    # The random states of stochastic depth stay: they are no weights.
    states = {
        variable.path: ops.convert_to_numpy(variable)
        for variable in trunk.variables
        if variable.path.endswith("/seed_generator_state")
    }
    assign(trunk, states | arrays, source)


def variable_path(name: str) -> str | None:
    """Return the path of our variable for a name of Hugging Face, or None if there is none.

    >>> variable_path("encoder.layers.0.blocks.1.attention.self.query.weight")
    'stage1_block2_attention/query/kernel'
    >>> variable_path("encoder.layers.2.downsample.norm.bias")
    'stage3_merging/norm/beta'
    """
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", module)
    merging = re.fullmatch(r"encoder\.layers\.(\d+)\.downsample\.(reduction|norm)", module)
    if block and block[3] == "attention.self" and kind == "logit_scale":
        return f"stage{int(block[1]) + 1}_block{int(block[2]) + 1}_attention/logit_scale"
    if block and block[3] in INSIDE:
        layer = f"stage{int(block[1]) + 1}_block{int(block[2]) + 1}_{INSIDE[block[3]]}"
    elif merging:
        layer = f"stage{int(merging[1]) + 1}_merging/{merging[2]}"
    elif module in OUTSIDE:
        layer = OUTSIDE[module]
    else:
        return None
    norm = {"weight": "gamma", "bias": "beta"}
    plain = {"weight": "kernel", "bias": "bias"}
    variable = (norm if layer.endswith("norm") else plain).get(kind)
    return variable and f"{layer}/{variable}"

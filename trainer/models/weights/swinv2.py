"""Swin V2 from the names and layouts of Hugging Face, timm and Microsoft's release to ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainer.config import UserError
from trainer.models.weights.assign import assign
from trainer.models.weights.files import read_arrays
from trainer.models.weights.swinv2_sizes import read_sizes

LOG = logging.getLogger(__name__)

#: What a checkpoint holds besides: the head, a mask token, and tables that follow from the window.
LEFT_OUT = re.compile(
    r"(classifier|head|head\.fc)\.(weight|bias)|(embeddings\.)?mask_token|decoder\..*"
    r"|.*\.(relative_coords_table|relative_position_index|attn_mask)"
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

#: Names of Microsoft's release, which timm shares, -> Hugging Face's: around blocks, in a block.
RELEASED_OUTSIDE = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    "norm": "layernorm",
}
RELEASED_INSIDE = {
    "attn.q_bias": "attention.self.query.bias",
    "attn.v_bias": "attention.self.value.bias",
    "attn.logit_scale": "attention.self.logit_scale",
    "attn.relative_coords_table": "attention.self.relative_coords_table",
    "attn.cpb_mlp.0": "attention.self.continuous_position_bias_mlp.0",
    "attn.cpb_mlp.2": "attention.self.continuous_position_bias_mlp.2",
    "attn.proj": "attention.output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def load(trunk: keras.Model, path: str | Path) -> None:
    """Load a checkpoint of Hugging Face, timm or Microsoft's release into our trunk.

    A warning tells if the trunk measures positions by other windows than the checkpoint was
    trained with, as far as it says so.

    Raises:
        UserError: no such file, the file is damaged, it holds something else or something less, or
            the package that reads it is not installed.
    """
    arrays = hugging_face(read_arrays(path), str(path))
    load_swinv2(trunk, arrays, str(path))
    try:
        trained = read_sizes(arrays, str(path)).units()
    except UserError:
        # It does not say, or the config.json beside it is about something else.
        return
    layers = [trunk.get_layer(f"stage{n + 1}_block1_attention") for n in range(len(trained))]
    ours = [layer.pretrained_window or max(layer.window) for layer in layers]
    if ours != list(trained):
        LOG.warning(
            "%s was trained with windows of %s tokens, the trunk measures positions by %s: set its"
            " pretrained_windows to the former, or window and image_size",
            path,
            trained,
            tuple(ours),
        )


def load_swinv2(
    backbone: keras.Model, mapping: Mapping[str, Any], source: str = "the mapping"
) -> None:
    """Set all weights of a Swin V2.

    Args:
        backbone: a :class:`trainer.models.swinv2_backbone.SwinV2Backbone`, or what
            :func:`trainer.models.swinv2.build_swinv2` made.
        mapping: names -> arrays in PyTorch's layout, as :func:`hugging_face` takes them. A
            classifier and what follows from the window are left out; all else is used once.
        source: where they come from, for messages.

    Raises:
        UserError: an array that is missing, unknown, or of another shape. No weight is changed
            then.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in hugging_face(mapping, source).items():
        if LEFT_OUT.fullmatch(name):
            continue
        target = variable_path(name)
        if target is None:
            raise UserError(f"{source} has weights that {backbone.name} does not: {name}")
        if target.endswith("/kernel"):
            array = array.transpose((2, 3, 1, 0)) if array.ndim == 4 else array.T
        arrays[target] = array
    assign(backbone, arrays, source)


def hugging_face(mapping: Mapping[str, Any], source: str) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint under the names of Hugging Face's Swinv2Model.

    Args:
        mapping: names -> arrays. Taken are the names of Swinv2Model, also behind `swinv2.` as a
            model with a head has them; of timm, whose stages begin with their merging; and of
            Microsoft's release, whose stages end with it.
        source: where they come from, for messages.

    Returns:
        Name -> float32 array; names of neither kind as they were.

    Raises:
        UserError: two names for one array.
    """
    # timm's first stage has nothing to merge, Microsoft's has.
    ahead = 0 if any(name.startswith("layers.0.downsample.") for name in mapping) else 1
    arrays: dict[str, np.ndarray] = {}
    for name, value in mapping.items():
        for found, array in _translate(name.removeprefix("swinv2."), np.asarray(value), ahead):
            if found in arrays:
                raise UserError(f"{source} has two arrays for {found}; one is {name}")
            arrays[found] = np.asarray(array, np.float32)
    return arrays


def _translate(name: str, array: np.ndarray, ahead: int) -> Iterator[tuple[str, np.ndarray]]:
    """Give the Hugging Face name of an array, or its parts with theirs."""
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", name)
    merging = re.fullmatch(r"layers\.(\d+)\.(downsample\..+)", name)
    if block:
        lead = f"encoder.layers.{block[1]}.blocks.{block[2]}"
        module, _, kind = block[3].rpartition(".")
        if block[3] == "attn.qkv.weight":
            for part, rows in zip(("query", "key", "value"), np.array_split(array, 3), strict=True):
                yield f"{lead}.attention.self.{part}.weight", rows
        elif block[3] in RELEASED_INSIDE:
            yield f"{lead}.{RELEASED_INSIDE[block[3]]}", array
        elif module in RELEASED_INSIDE:
            yield f"{lead}.{RELEASED_INSIDE[module]}.{kind}", array
        else:
            yield name, array
    elif merging:
        yield f"encoder.layers.{int(merging[1]) - ahead}.{merging[2]}", array
    elif module in RELEASED_OUTSIDE:
        yield f"{RELEASED_OUTSIDE[module]}.{kind}", array
    else:
        yield name, array


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

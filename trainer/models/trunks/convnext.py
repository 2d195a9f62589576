"""ConvNeXt in its published sizes, with ImageNet weights from Keras' applications."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

from trainer.config import UserError, register
from trainer.models.convnext import build_convnext
from trainer.models.weights.assign import assign

#: Depths, channels of each stage, and epsilon of the normalisations. XXLarge is OpenCLIP's, as timm
#: has it.
PRESETS: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 1e-6),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 1e-6),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 1e-6),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536), 1e-6),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048), 1e-6),
    "xxlarge": ((3, 4, 30, 3), (384, 768, 1536, 3072), 1e-5),
}

#: Preset -> function of `keras.applications` that has its ImageNet weights.
APPLICATIONS = {
    "tiny": "ConvNeXtTiny",
    "small": "ConvNeXtSmall",
    "base": "ConvNeXtBase",
    "large": "ConvNeXtLarge",
    "xlarge": "ConvNeXtXLarge",
}


@register(
    "trunk",
    "convnext",
    skips="stage[1-3]_out",
    preprocessing="torch",
    minimum="32",
    torch="trainer.models.weights.open_clip",
)
def convnext(
    images: Any,
    weights: str | None,
    *,
    preset: Literal["tiny", "small", "base", "large", "xlarge", "xxlarge"] = "tiny",
    depths: tuple[int, ...] = (),
    widths: tuple[int, ...] = (),
    head: Literal["map", "norm", "linear", "mlp"] = "map",
    pooling: Literal["gap", "gem"] = "gap",
    projection: int = 1024,
    projection_bias: bool = False,
    layer_scale: float = 1e-6,
    epsilon: float | None = None,
    drop_path: float = 0.1,
) -> keras.Model:
    """ConvNeXt without its classifier, or with CLIP's projection: 768 to 3072 channels at 1/32.

    With `head="linear"` (XXLarge, Base) or `"mlp"` (Large) and a CLIP checkpoint as
    `model.weights=PATH`, its output is CLIP's own embedding of a picture, for
    `model.preprocessing=clip`, `model.skips=none` and `model.embedding_dim=none`.

    Args:
        preset: the published size, as far as the next two leave it.
        depths: blocks of each stage, above 0.
        widths: channels of each stage, above 0; as many numbers as `depths`.
        head: `map`: the last map, each position normalised, for the model to pool; `norm`: pooled,
            then normalised, as published; `linear`: and projected; `mlp`: and projected through a
            hidden layer of twice the projection.
        pooling: of all heads but `map`: `gap` (average) or `gem` (generalised mean).
        projection: size of what `linear` and `mlp` give, above 0.
        projection_bias: whether their last layer has a bias; CLIP's has none.
        layer_scale: initial factor on what a block adds, at least 0; 0: there is none.
        epsilon: added to variances, above 0; default: as published, 1e-5 for xxlarge, else 1e-6.
        drop_path: share of rows that pass the last block by while training, at least 0, below 1;
            less in the blocks before.

    Raises:
        UserError: `imagenet`, for a size or head that there are no such weights for.
        ValueError: a number out of range, or depths and widths that do not give one number for
            each stage.

    Liu et al.: A ConvNet for the 2020s, 2022, arXiv 2201.03545.
    """
    published = PRESETS[preset]
    depths, widths = depths or published[0], widths or published[1]
    if len(depths) != len(widths):
        raise ValueError(
            f"widths needs one number for each of {len(depths)} stages, not {len(widths)}"
        )
    if min(*depths, *widths, projection) < 1:
        raise ValueError("depths, widths and projection must be above 0")
    if layer_scale < 0 or (epsilon is not None and epsilon <= 0):
        raise ValueError("layer_scale must be at least 0, and epsilon above 0")
    model = build_convnext(
        images,
        depths=depths,
        widths=widths,
        head=head,
        pooling=pooling,
        projection=projection,
        projection_bias=projection_bias,
        layer_scale=layer_scale,
        epsilon=published[2] if epsilon is None else epsilon,
        drop_path=drop_path,
    )
    if weights is not None:
        if preset not in APPLICATIONS:
            raise UserError(
                f"model.weights=imagenet: there are none for convnext of preset {preset}: fetch"
                " open_clip_pytorch_model.bin of"
                " laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup from huggingface.co and"
                " set model.weights to its path, or model.weights=none to train from scratch"
            )
        same = (depths, widths) == published[:2] and layer_scale and pooling == "gap"
        if not same or head not in ("map", "norm"):
            raise UserError(
                "model.weights=imagenet: they are for convnext with depths, widths, layer scale and"
                " pooling as published and head map or norm: set model.weights=none"
            )
        source = getattr(keras.applications, APPLICATIONS[preset])(
            include_top=False, weights=weights, input_shape=(32, 32, 3)
        )
        assign(model, from_application(source), f"ImageNet weights of {source.name}")
    return model


def from_application(source: keras.Model) -> dict[str, np.ndarray]:
    """Return the weights of a ConvNeXt of `keras.applications` by the paths that ours have.

    Args:
        source: made with `include_top=False`.
    """
    arrays: dict[str, np.ndarray] = {}
    for layer in source._flatten_layers():
        if isinstance(layer, keras.Model) or not layer.weights:
            continue
        name = _our_layer(layer.name.removeprefix(f"{source.name}_"))
        for weight in layer.weights:
            # Layer scale is a weight without a name.
            kind = "gamma" if name.endswith("_scale") else weight.name
            array = np.asarray(weight)
            if name.endswith("_depthwise") and kind == "kernel":
                array = array.transpose((0, 1, 3, 2))
            arrays[f"{name}/{kind}"] = array
    return arrays


def _our_layer(name: str) -> str:
    """Return our name of a layer of Keras'.

    >>> _our_layer("stage_0_block_2_pointwise_conv_1"), _our_layer("downsampling_conv_0")
    ('stage1_block3_expand', 'stage2_down_conv')
    """
    first, _, rest = name.partition("_")
    if first == "stem":
        return {"conv": "stem_conv", "layernorm": "stem_norm"}[rest]
    if first == "downsampling":
        kind, _, number = rest.partition("_")
        return f"stage{int(number) + 2}_down_{'norm' if kind == 'layernorm' else kind}"
    if first != "stage":  # Keras numbers the last normalisation
        return "head_norm"
    stage, _, block, kind = rest.split("_", 3)
    ours = {
        "depthwise_conv": "depthwise",
        "layernorm": "norm",
        "pointwise_conv_1": "expand",
        "pointwise_conv_2": "reduce",
        "layer_scale": "scale",
    }[kind]
    return f"stage{int(stage) + 1}_block{int(block) + 1}_{ours}"

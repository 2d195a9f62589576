"""Swin Transformer V2 in its published sizes."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.config import UserError, register
from trainer.models.swinv2 import build_swinv2

#: Channels of the first stage, depths, heads, side of a window in tokens; Liu et al.'s table, with
#: the windows of the checkpoints for 256 pixels (large: 192).
PRESETS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 8),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 8),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 16),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


@register(
    "trunk",
    "swinv2",
    skips="stage1_out, stage2_out, stage3_out",
    preprocessing="torch",
    minimum="32",
    torch="trainer.models.weights.swinv2",
)
def swinv2(
    images: Any,
    weights: str | None,
    *,
    preset: Literal["tiny", "small", "base", "large"] = "tiny",
    window: int | None = None,
    pretrained_windows: tuple[int, ...] = (),
    drop_path: float = 0.1,
) -> keras.Model:
    """Swin V2 without its classifier: attention in shifted windows, 768 to 1536 channels at 1/32.

    Its pooled output (`model.pooling=gap`, `model.skips=none`, `model.embedding_dim=none`) is what
    Hugging Face's Swinv2Model calls `pooler_output`. `model.weights=PATH` takes a
    `model.safetensors` of theirs.

    Args:
        preset: the published size.
        window: side of a window, in tokens of 4 pixels; default: that of the preset's checkpoint
            for 256 pixels (tiny and small 8, base 16, large 12 for 192 pixels).
        pretrained_windows: for each of the four stages the side that the weights were trained
            with, if windows have grown since; 0 and default: the same.
        drop_path: share of rows that pass the last block by while training, at least 0, below 1;
            less in the blocks before.

    Raises:
        UserError: `imagenet`: the weights have to be fetched by hand.
        ValueError: a window below 1, or not one pretrained window for each stage.

    Liu et al.: Swin Transformer V2, 2022, arXiv 2111.09883.
    """
    embed_dim, depths, heads, published = PRESETS[preset]
    if weights is not None:
        raise UserError(
            f"model.weights={weights}: trunk swinv2 takes a file: fetch model.safetensors of a"
            f" microsoft/swinv2-{preset}-patch4-... from huggingface.co and set model.weights to"
            " its path, or model.weights=none to train from scratch"
        )
    if window is not None and window < 1:
        raise ValueError(f"window must be above 0, not {window}")
    if pretrained_windows and len(pretrained_windows) != len(depths):
        raise ValueError(
            f"pretrained_windows needs one side for each of {len(depths)} stages, not"
            f" {len(pretrained_windows)}"
        )
    return build_swinv2(
        images,
        embed_dim=embed_dim,
        depths=depths,
        heads=heads,
        window=window or published,
        pretrained_windows=pretrained_windows,
        drop_path=drop_path,
    )

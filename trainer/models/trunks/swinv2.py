"""Swin Transformer V2 in its published sizes."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.config import UserError, register
from trainer.models.swinv2 import build_swinv2

#: Channels of the first stage, depths, heads, side of a window in tokens; Liu et al.'s table, with
#: the windows of the checkpoints for 256 pixels (large: 192).
PRESETS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 8),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 8),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 16),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


@register(
    "trunk",
    "swinv2",
    skips="stage[1-3]_out",
    preprocessing="torch",
    minimum="32",
    torch="trainer.models.weights.swinv2",
)
def swinv2(
    images: Any,
    weights: str | None,
    *,
    preset: Literal["tiny", "small", "base", "large"] = "tiny",
    embed_dim: int | None = None,
    depths: tuple[int, ...] = (),
    heads: tuple[int, ...] = (),
    patch: int = 4,
    window: int | None = None,
    pretrained_windows: tuple[int, ...] = (),
    drop_path: float = 0.1,
) -> keras.Model:
    """Swin V2 without its classifier: attention in shifted windows, 768 to 1536 channels at 1/32.

    Its pooled output (`model.pooling=gap`, `model.skips=none`, `model.embedding_dim=none`) is what
    Hugging Face's Swinv2Model calls `pooler_output`. `model.weights=PATH` takes a checkpoint of
    theirs, timm's or Microsoft's. Smaller nets for smaller pictures can be had by their numbers.

    Args:
        preset: the published size, as far as the next three leave it.
        embed_dim: channels of the first stage, above 0; each later stage has twice those before.
        depths: blocks of each stage, above 0; as many numbers as `heads`.
        heads: attention heads of each stage; they divide its channels.
        patch: side of the patches that become the first tokens, in pixels, above 0; published: 4.
        window: side of a window, in tokens; default: that of the preset's checkpoint for 256
            pixels (tiny and small 8, base 16, large 12 for 192 pixels).
        pretrained_windows: for each stage the side that the weights were trained with, if windows
            have grown since; 0 and default: the same.
        drop_path: share of rows that pass the last block by while training, at least 0, below 1;
            less in the blocks before.

    Raises:
        UserError: `imagenet`: the weights have to be fetched by hand.
        ValueError: a number out of range, or depths, heads or pretrained windows that do not give
            one number for each stage.

    Liu et al.: Swin Transformer V2, 2022, arXiv 2111.09883.
    """
    channels, blocks, shared, published = PRESETS[preset]
    channels = channels if embed_dim is None else embed_dim
    blocks, shared = depths or blocks, heads or shared
    if weights is not None:
        raise UserError(
            f"model.weights={weights}: trunk swinv2 takes a file: fetch model.safetensors of a"
            f" microsoft/swinv2-{preset}-patch4-... from huggingface.co and set model.weights to"
            " its path, or model.weights=none to train from scratch"
        )
    if window is not None and window < 1:
        raise ValueError(f"window must be above 0, not {window}")
    if min(channels, patch, *blocks, *shared) < 1:
        raise ValueError("embed_dim, depths, heads and patch must be above 0")
    for name, numbers in (("heads", shared), ("pretrained_windows", pretrained_windows)):
        if numbers and len(numbers) != len(blocks):
            raise ValueError(
                f"{name} needs one number for each of {len(blocks)} stages, not {len(numbers)}"
            )
    return build_swinv2(
        images,
        embed_dim=channels,
        depths=blocks,
        heads=shared,
        patch=patch,
        window=window or published,
        pretrained_windows=pretrained_windows,
        drop_path=drop_path,
    )

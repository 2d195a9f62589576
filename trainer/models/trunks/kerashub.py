"""Backbones of KerasHub by the names of their presets: DINO, SigLIP, CLIP, ViT, ResNet and more."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.config import UserError, register
from trainer.models.layers import FitPixels, TokenPool
from trainer.models.trunks.presets import check_preset, library, local_preset, read_preset


@register(
    "trunk",
    "kerashub",
    skips="none",
    preprocessing="none",
    minimum="1",
    argument="preset",
    brings="pixels, weights",
)
def kerashub(
    images: Any,
    weights: str | None,
    *,
    preset: str,
    tokens: Literal["auto", "cls", "mean", "map"] = "auto",
    size: int | None = None,
) -> keras.Model:
    """A backbone of KerasHub (extra `kerashub`), pretrained: DINO, SigLIP, CLIP, ViT, ResNet, ...

    Pictures are resized and scaled in the model as the preset says. `model.weights=none` takes the
    net of the preset at random weights.

    Args:
        preset: a name of KerasHub's, such as `dinov2_small`, the folder of a preset, or an address
            (kaggle://, hf://) of one or of weights of timm or transformers that KerasHub converts.
        tokens: what of a net of tokens is its output: `cls`, the class token; `mean` of the tokens
            of patches; `map` of these, to be pooled as `model.pooling` says. `auto`: the image
            embedding of nets that were trained with texts, the class token if there is one, else
            the mean. Nets that give maps have no choice.
        size: height and width in pixels that pictures are resized to, above 0; default: those of
            the preset. Nets that cannot work at another size say so.

    Raises:
        UserError: no such preset, KerasHub is missing, or the preset cannot be had.
        ValueError: a size below 1, or a choice that the net does not offer.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be above 0, not {size}")
    trunk = f"kerashub:{preset}"
    hub = library("keras_hub", trunk)
    check_preset(preset, trunk, _known(hub))
    source = local_preset(preset) or preset
    shape = {} if size is None else {"image_shape": (size, size, 3)}
    converter = read_preset(preset, trunk, lambda: hub.layers.ImageConverter.from_preset(source))
    backbone = read_preset(
        preset,
        trunk,
        lambda: hub.models.Backbone.from_preset(
            source,
            load_weights=weights is not None,
            dtype=keras.config.dtype_policy().name,
            **shape,
        ),
    )
    if type(converter).call is not hub.layers.ImageConverter.call:
        raise UserError(f"trunk {trunk}: no net for single pictures, but {type(backbone).__name__}")
    net = _image_part(backbone, trunk, tokens)
    _keep_positions(net)
    pixels = _preprocess(images, converter, net, size)
    taken = dict.fromkeys(net.input, pixels) if isinstance(net.input, dict) else pixels
    return keras.Model(images, _pooled(net(taken), net, backbone, tokens, trunk), name="kerashub")


def _known(hub: Any) -> set[str]:
    """Return the names of presets whose nets look at pictures."""
    found: set[str] = set()
    for converter in vars(hub.layers).values():
        if isinstance(converter, type) and issubclass(converter, hub.layers.ImageConverter):
            backbone: Any = vars(converter).get("backbone_cls")
            found |= set(getattr(backbone, "presets", ()))
    return found


def _image_part(backbone: Any, trunk: str, tokens: str) -> keras.Model:
    """Return the part of a backbone that takes pictures alone."""
    if hasattr(backbone, "vision_encoder") and hasattr(backbone, "get_vision_embeddings"):
        if tokens != "auto":
            return backbone.vision_encoder
        pictures = keras.Input(_picture_shape(backbone.vision_encoder), name="pictures")
        embedding = backbone.get_vision_embeddings(pictures)
        return keras.Model(pictures, embedding, name="vision_tower")
    if len(backbone.inputs) != 1 or len(backbone.inputs[0].shape) != 4:
        raise UserError(f"trunk {trunk}: {type(backbone).__name__} takes more than pictures")
    return backbone


def _picture_shape(net: Any) -> tuple[int | None, ...]:
    return tuple(net.inputs[0].shape[1:])


def _keep_positions(net: keras.Model) -> None:
    """Keep DINOv2's positions as they are while training.

    KerasHub trains those of the picture's size and saves those of the checkpoint's, which it finds
    by resizing back: what had been learned would not be what a file of the model holds.
    """
    for layer in net._flatten_layers():
        positions = getattr(layer, "interpolated_position_embeddings", None)
        if positions is not None:
            positions.trainable = False


def _preprocess(images: Any, converter: Any, net: Any, size: int | None) -> Any:
    """Do to pictures what KerasHub's ImageConverter does."""
    height, width, _ = _picture_shape(net)
    if size is not None and (height or size, width or size) != (size, size):
        raise ValueError(f"{type(net).__name__} takes {height} x {width} pixels, not {size}")
    if size is not None:
        target: Any = (size, size)
    else:
        target = converter.image_size or tuple(images.shape[1:3])
    # Positions that were learned for one size decide, should the converter say otherwise.
    target = (height or target[0], width or target[1])
    return FitPixels(
        target,
        scale=1.0 if converter.scale is None else converter.scale,
        offset=0.0 if converter.offset is None else converter.offset,
        interpolation=converter.interpolation,
        antialias=converter.antialias,
        crop_to_aspect_ratio=converter.crop_to_aspect_ratio,
        pad_to_aspect_ratio=converter.pad_to_aspect_ratio,
        name="pixels",
    )(images)


def _pooled(features: Any, net: Any, backbone: Any, tokens: str, trunk: str) -> Any:
    if not isinstance(features, keras.KerasTensor):
        raise UserError(f"trunk {trunk}: {type(backbone).__name__} gives several things")
    if len(features.shape) != 3:
        if tokens != "auto":
            raise ValueError(f"{trunk} gives no tokens of which tokens={tokens} could be taken")
        return features
    patch = net.patch_size
    high, wide = (patch, patch) if isinstance(patch, int) else patch
    height, width, _ = _picture_shape(net)
    rows, columns = (height or 0) // high, (width or 0) // wide
    prefix = (features.shape[1] or 0) - rows * columns
    if prefix < 0 or not rows:
        raise ValueError(f"{trunk} gives {features.shape[1]} tokens for {rows} x {columns} patches")
    if tokens == "cls" and not prefix:
        raise ValueError(f"{trunk} has no class token: tokens is mean or map")
    kind = ("cls" if prefix else "mean") if tokens == "auto" else tokens
    return TokenPool(kind, rows, columns, name="tokens")(features)

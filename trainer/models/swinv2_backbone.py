"""Swin V2 as KerasCV wants a backbone: a model by its numbers, with a pyramid of features."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, ClassVar

import keras

from trainer.models.layers import Preprocess
from trainer.models.swinv2 import build_swinv2
from trainer.models.trunks.swinv2 import PRESETS

#: Side of the pictures that a preset's checkpoint was trained on, in pixels.
IMAGE_SIZES = {"tiny": 256, "small": 256, "base": 256, "large": 192}


def _presets() -> dict[str, Any]:
    return {
        f"swinv2_{name}": types.MappingProxyType(
            {
                "input_shape": (IMAGE_SIZES[name], IMAGE_SIZES[name], 3),
                "embed_dim": embed_dim,
                "depths": depths,
                "num_heads": heads,
                "window_size": window,
            }
        )
        for name, (embed_dim, depths, heads, window) in PRESETS.items()
    }


@keras.saving.register_keras_serializable(package="mildnet")
class SwinV2Backbone(keras.Model):
    """Swin V2 for KerasCV's tasks, such as `keras_cv.models.ImageClassifier`; needs no KerasCV.

    Maps pictures (B, H, W, 3) to normalised tokens (B, ceil(H / 32), ceil(W / 32), C). Its weights
    start at random; :func:`trainer.models.weights.load_swinv2` gives it published ones.

    Args:
        include_rescaling: whether pictures come as 0..255 and the model makes of them what
            published weights were trained on: x / 255, minus mean, over deviation of ImageNet.
        input_shape: height and width in pixels, any size, and 3 channels.
        input_tensor: Keras input to build on, instead of `input_shape`.
        embed_dim: channels of the first stage; each later one has twice those before.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; they divide its channels.
        window_size: side of a window, in tokens; a smaller map is one window.
        pretrained_window_sizes: for each stage the side that the weights were trained with, 0 for
            the same; default: the same everywhere.
        patch_size: side of the patches that become the first tokens, in pixels, a power of two.
        mlp_ratio: width of the hidden layer of a block over its channels.
        drop_path_rate: share of rows that pass the last block by while training, at least 0, below
            1; less in the blocks before.

    Raises:
        ValueError: a shape without height or width, or a number out of range.

    >>> tiny = SwinV2Backbone(input_shape=(64, 64, 3), embed_dim=16, num_heads=(1, 2, 4, 8))
    >>> tiny.output_shape
    (None, 2, 2, 128)
    >>> tiny.pyramid_level_inputs["P3"]
    'stage2_out'

    Liu et al.: Swin Transformer V2, 2022, arXiv 2111.09883.
    """

    #: Arguments of the published sizes, by the names that :meth:`from_preset` takes.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = types.MappingProxyType(_presets())
    #: None: published weights have to be fetched.
    presets_with_weights: ClassVar[Mapping[str, Mapping[str, Any]]] = types.MappingProxyType({})

    def __init__(
        self,
        *,
        include_rescaling: bool = False,
        input_shape: tuple[int, int, int] = (256, 256, 3),
        input_tensor: Any = None,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window_size: int = 8,
        pretrained_window_sizes: tuple[int, ...] = (),
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        **kwargs: Any,
    ) -> None:
        images = keras.Input(tuple(input_shape)) if input_tensor is None else input_tensor
        if None in images.shape[1:]:
            raise ValueError(f"height and width have to be given, not {tuple(images.shape[1:])}")
        if patch_size < 1 or patch_size & (patch_size - 1):
            raise ValueError(f"patch_size must be a power of two, not {patch_size}")
        pixels = Preprocess("torch", name="preprocess")(images) if include_rescaling else images
        net = build_swinv2(
            pixels,
            embed_dim=embed_dim,
            depths=tuple(depths),
            heads=tuple(num_heads),
            window=window_size,
            pretrained_windows=tuple(pretrained_window_sizes),
            patch=patch_size,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path_rate,
            inputs=images,
        )
        super().__init__(net.input, net.output, **kwargs)
        self._numbers: dict[str, Any] = {
            "include_rescaling": include_rescaling,
            "input_shape": tuple(images.shape[1:]),
            "embed_dim": embed_dim,
            "depths": tuple(depths),
            "num_heads": tuple(num_heads),
            "window_size": window_size,
            "pretrained_window_sizes": tuple(pretrained_window_sizes),
            "patch_size": patch_size,
            "mlp_ratio": mlp_ratio,
            "drop_path_rate": drop_path_rate,
        }

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """Name of the layer of each level: `P2` to `P5` of four stages on patches of 4 pixels.

        Level Pn has 1 / 2^n of the height and width, rounded up. The maps are those of Hugging
        Face's Swinv2Backbone: of each stage as it ends, the last one before the final norm.
        """
        first = self._numbers["patch_size"].bit_length() - 1
        stages = range(len(self._numbers["depths"]))
        return {f"P{first + stage}": f"stage{stage + 1}_out" for stage in stages}

    @property
    def embedding_dims(self) -> tuple[int, ...]:
        """Channels of each level, as `keras_cv.models.SegFormer` asks for them."""
        stages = range(len(self._numbers["depths"]))
        return tuple(self._numbers["embed_dim"] * 2**stage for stage in stages)

    def get_config(self) -> dict[str, Any]:
        # Not a functional model's own config, which names all layers: the numbers rebuild them.
        return {"name": self.name, "trainable": self.trainable, **self._numbers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SwinV2Backbone:
        return cls(**config)

    @classmethod
    def from_preset(
        cls, preset: str, load_weights: bool | None = None, **kwargs: Any
    ) -> SwinV2Backbone:
        """Build a published size, with random weights.

        Args:
            preset: `swinv2_tiny`, `swinv2_small`, `swinv2_base` or `swinv2_large`.
            load_weights: None or False; no preset brings weights.
            **kwargs: arguments that win over those of the preset.

        Raises:
            ValueError: an unknown preset, or weights are asked for.
        """
        if preset not in cls.presets:
            raise ValueError(f"no preset {preset!r}; there are {', '.join(cls.presets)}")
        if load_weights:
            raise ValueError(
                f"{preset} brings no weights: fetch model.safetensors from huggingface.co and give"
                " it to trainer.models.weights.load_swinv2"
            )
        return cls(**{**cls.presets[preset], **kwargs})

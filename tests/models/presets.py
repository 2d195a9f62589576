"""Small presets of KerasCV and KerasHub with random weights, as their own functions write them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import keras

from .saved_models import make_v2


def hub_nets() -> dict[str, Any]:
    """Return by family what makes a (backbone, image converter) of KerasHub."""
    from keras_hub import layers, models

    tokens = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    patches = {**tokens, "patch_size": 8, "image_shape": (32, 32, 3)}
    words = {**tokens, "vocabulary_size": 16, "embedding_dim": 8, "intermediate_dim": 16}
    wide = {"intermediate_dim": 16}

    def dinov2() -> tuple[Any, Any]:
        shapes = {"image_shape": (28, 28, 3), "position_embedding_shape": (35, 35, 3)}
        return (
            models.DINOV2Backbone(patch_size=7, num_register_tokens=2, **shapes, **tokens, **wide),
            layers.DINOV2ImageConverter(
                image_size=(28, 28),
                scale=[1 / 50, 1 / 60, 1 / 70],
                offset=[-2.0, -1.9, -1.8],
                interpolation="bicubic",
                antialias=True,
            ),
        )

    return {
        "vit": lambda: (
            models.ViTBackbone(mlp_dim=16, **patches),
            layers.ViTImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0),
        ),
        "dinov2": dinov2,
        "dinov3": lambda: (
            models.DINOV3Backbone(**patches, **wide),
            layers.DINOV3ImageConverter(image_size=(32, 32), scale=1 / 255),
        ),
        "resnet": lambda: (
            models.ResNetBackbone([64], [3], [64], [1], [1], "basic_block"),
            layers.ResNetImageConverter(image_size=(24, 24), scale=1 / 255),
        ),
        "siglip": lambda: (
            models.SigLIPBackbone(
                models.SigLIPVisionEncoder(**patches, **wide), models.SigLIPTextEncoder(**words)
            ),
            layers.SigLIPImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0),
        ),
        "clip": lambda: (
            models.CLIPBackbone(
                models.CLIPVisionEncoder(**patches, **wide), models.CLIPTextEncoder(**words), 6
            ),
            layers.CLIPImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0),
        ),
    }


@functools.cache
def hub_preset(family: str) -> tuple[str, Any, Any]:
    """Return folder, backbone and image converter of a preset of KerasHub."""
    keras.utils.set_random_seed(7)
    backbone, converter = hub_nets()[family]()
    folder = _folder(family)
    backbone.save_to_preset(folder)
    converter.save_to_preset(folder)
    return folder, backbone, converter


@functools.cache
def cv_preset() -> tuple[str, Any]:
    """Return folder and backbone of a preset of KerasCV."""
    import keras_cv
    from keras_cv.src.utils.preset_utils import save_to_preset

    keras.utils.set_random_seed(7)
    backbone = keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[2],
        stackwise_filters=[8],
        stackwise_kernel_size=[3],
        stackwise_stride=[2],
        stackwise_se_ratio=[None],
        stackwise_activation=["relu"],
        include_rescaling=True,
    )
    folder = _folder("mobilenet_v3")
    save_to_preset(backbone, folder)
    return folder, backbone


@functools.cache
def saved_model() -> str:
    """Return the folder of a reusable SavedModel."""
    return str(make_v2(Path(_folder("saved_model"))))


@functools.cache
def _everything() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _folder(name: str) -> str:
    folder = Path(_everything().name) / name
    folder.mkdir()
    return str(folder)

"""Backbones of KerasCV by the names of their presets."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import register
from trainer.models.trunks.presets import check_preset, library, local_preset, read_preset

#: Classes of backbones that look at something else than a picture.
NOT_PICTURES = ("VideoSwin", "CenterPillar")


@register(
    "trunk",
    "kerascv",
    skips="none",
    preprocessing="none",
    minimum="32",
    argument="preset",
    brings="pixels, weights",
)
def kerascv(images: Any, weights: str | None, *, preset: str) -> keras.Model:
    """A backbone of KerasCV (extra `kerascv`), with the weights of its preset if that has some.

    Presets with weights say what these were trained on, as `efficientnetv2_s_imagenet` does; the
    name without that is the net alone, at random weights, and so are all with `model.weights=none`.
    Pixels are scaled by the net itself. Its ResNet V2 cannot be built by Keras 3.15.

    Args:
        preset: a name of KerasCV's, or the folder of a preset. KerasCV fetches what a name means
            from Kaggle, even for the net alone, and keeps it.

    Raises:
        UserError: no such preset, KerasCV is missing, or the preset cannot be had.
        ValueError: it does not give a map of features.
    """
    trunk = f"kerascv:{preset}"
    models = library("keras_cv", trunk).models
    known = _known(models)
    check_preset(preset, trunk, known)
    source = local_preset(preset) or known.get(preset, {}).get("kaggle_handle", preset)
    given = {"input_shape": tuple(images.shape[1:]), "include_rescaling": True}
    load = None if weights is not None else False
    backbone = read_preset(
        preset, trunk, lambda: models.Backbone.from_preset(source, load_weights=load, **given)
    )
    if not isinstance(backbone.output, keras.KerasTensor) or len(backbone.output.shape) != 4:
        raise ValueError(f"{trunk} gives no map of features that could be pooled")
    return keras.Model(images, backbone(images), name="kerascv")


def _known(models: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dir(models):
        if name.endswith("Backbone") and not name.startswith(NOT_PICTURES):
            found |= getattr(models, name).presets
    return found

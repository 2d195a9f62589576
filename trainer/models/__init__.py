"""Embedding models by name, and which of their weights belong to the trunk.

Importing this package loads neither Keras nor TensorFlow; building a model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.config import get

if TYPE_CHECKING:
    import keras

__all__ = ["TRUNK", "build", "trunk_variables"]

#: Name of the layer that holds the trunk in every model; all other layers are the head.
TRUNK = "trunk"


def build(model_id: str, *, image_size: int = 224, **parameters: Any) -> keras.Model:
    """Build the embedding model `model_id`.

    Args:
        model_id: a registered model, such as `mildnet_vgg16` (`mildnet describe model` lists them).
        image_size: height and width of the input in pixels.
        **parameters: the model's parameters; what is left out takes its registered default.

    Returns:
        A model from images (B, image_size, image_size, 3), float 0..255 or uint8, RGB, to float32
        embeddings (B, D), of unit length unless `normalize=False`.

    Raises:
        UserError: an unknown model or parameter, a value of the wrong type, or trunk weights that
            cannot be had.
        ValueError: a value out of range, such as a skip that the trunk does not have.
    """
    return get("model", model_id).build(image_size, **parameters)


def trunk_variables(model: keras.Model) -> set[str]:
    """Return the paths of all variables of the trunk, frozen ones and statistics included.

    A path is what `variable.path` says, e.g. `block1_conv1/kernel`. Variables of the model that are
    not in the set belong to the head.
    """
    if TRUNK not in {layer.name for layer in model.layers}:
        return set()
    return {variable.path for variable in model.get_layer(TRUNK).variables}

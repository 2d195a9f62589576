"""A model module: the config, the data and the model of one experiment in one file.

`mildnet train --model-module trainer.examples.ranker` trains it on generated products, in a
minute or two without a GPU. Copy it beside your own code, and change what you like.
"""

import keras

from trainer.config import get
from trainer.data.table import ItemTable
from trainer.models.layers import L2Normalize

#: The keys of a job config; `mildnet describe config` and `mildnet describe train` list them.
config = {
    "loss": "triplet_semihard",
    "loss.margin": 0.2,
    "optimizer": "adam",
    "lr": 0.002,
    "schedule": "cosine",
    "sampler.images_per_class": 4,
    "batch_size": 64,
    "image_size": 48,
    "steps": 200,
    "train.validate_every": 50,
    "train.decay_exclude": "bias|norm",
}


def datasets() -> dict[str, ItemTable]:
    """Return the images to train on, to validate on and to measure at the end."""
    products = get("dataset", "synthetic").build("", classes=48, views=8, size=64)
    return {name: products.in_split(name) for name in ("train", "val", "test")}


def build(image_size: int) -> keras.Model:
    """Build the model: images (B, S, S, 3), RGB from 0 to 255, to embeddings (B, D)."""
    images = keras.Input((image_size, image_size, 3), name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(images)
    for number, width in enumerate((16, 32, 64), start=1):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool{number}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    x = keras.layers.Dense(64, name="embedding")(x)
    return keras.Model(images, L2Normalize(name="unit_length")(x), name="ranker")

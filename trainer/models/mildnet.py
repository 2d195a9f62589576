"""MILDNet: a pretrained trunk whose early layers reach the embedding through pooled skips."""

from __future__ import annotations

from typing import Literal

import keras

from trainer.config import register
from trainer.models.heads import dense_stack, finish, join, pool
from trainer.models.layers import Preprocess
from trainer.models.trunks.assemble import build_trunk, parse_trunk


@register("model", "mildnet")
@register(
    "model",
    "mildnet_vgg16",
    defaults={
        "trunk": "vgg16",
        "weights": "imagenet",
        "frozen": 10,
        "hidden": (2048,),
        "embedding_dim": 2048,
        "embedding_activation": "relu",
        "dropout": 0.6,
    },
)
@register(
    "model",
    "mildnet_vgg19",
    defaults={
        "trunk": "vgg19",
        "weights": "imagenet",
        "frozen": 10,
        "hidden": (2048,),
        "embedding_dim": 2048,
        "embedding_activation": "relu",
        "dropout": 0.6,
    },
)
@register(
    "model",
    "mildnet_mobilenet",
    defaults={
        "trunk": "mobilenet",
        "hidden": (1024,),
        "embedding_dim": 1024,
        "embedding_activation": "relu",
        "dropout": 0.5,
    },
)
def mildnet(
    image_size: int,
    *,
    trunk: str = "convnet_small",
    weights: str = "none",
    preprocessing: Literal["rescale", "caffe", "torch", "tf", "lite", "native", "none"] = "rescale",
    skips: tuple[str, ...] = ("default",),
    pooling: Literal["gap", "gem"] = "gap",
    hidden: tuple[int, ...] = (),
    activation: Literal["relu", "gelu", "silu", "linear"] = "relu",
    dropout: float = 0.0,
    embedding_dim: int | None = 128,
    embedding_activation: Literal["relu", "linear"] = "linear",
    normalize: bool = True,
    frozen: int | str = 0,
) -> keras.Model:
    """Pooled trunk and skip features, dense layers, unit-length embedding (MILDNet's builder).

    Trunk -> pooled last map and pooled skips, concatenated -> dense layers with dropout ->
    dense embedding -> L2 normalisation.

    Args:
        image_size: height and width of the input in pixels.
        trunk: a registered trunk (`mildnet describe trunk`); its parameters may follow in
            parentheses: `convnet_small(widths=(16, 32), norm="group")`.
        weights: trunk weights: `imagenet`, `none`, or the path of a `.weights.h5`, `.h5` or
            `.keras` file (efficientnet_lite0 also takes a `.pth` file).
        preprocessing: what the model does to pixels 0..255 first: `rescale` to 0..1 (MILDNet's),
            `caffe`, `torch`, `tf`, `lite` (see `Preprocess`), `native` for what the trunk's
            ImageNet weights expect, `none`.
        skips: trunk layers whose pooled output joins the embedding, in this order; `*` and `[2-4]`
            work as in file names. `default` for those of the trunk, `none` for no skips.
        pooling: `gap` (average) or `gem` (generalised mean with a learned exponent), for the
            trunk's output and all skips.
        hidden: widths of the dense layers before the embedding.
        activation: activation of the hidden dense layers.
        dropout: share 0..1 of values dropped after each hidden layer while training.
        embedding_dim: size of the embedding; none: the layer before is the embedding.
        embedding_activation: activation of the embedding before its normalisation.
        normalize: whether embeddings get unit length.
        frozen: how many of the trunk's first layers are not trained (its input counts as one, as
            in Keras' `layers[:10]`), or the name of the last layer that is not trained.

    Returns:
        The model: images (B, S, S, 3), float 0..255 or uint8 -> float32 embeddings (B, D).

    Raises:
        UserError: an unknown trunk, or trunk weights that cannot be had.
        ValueError: a value out of range.

    Vishvakarma et al.: MILDNet, 2019, arXiv 1903.00905.
    """
    if embedding_dim is not None and embedding_dim < 1:
        raise ValueError(f"embedding_dim must be above 0 or none, not {embedding_dim}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    component, _ = parse_trunk(trunk)
    mode = component.tags["preprocessing"] if preprocessing == "native" else preprocessing
    images = keras.Input((image_size, image_size, 3), name="image")
    features, *skipped = build_trunk(
        trunk, image_size, weights=weights, skips=skips, frozen=frozen
    )(Preprocess(mode, name="preprocess")(images))
    pooled = [pool(features, pooling, "pool")]
    pooled += [pool(skip, pooling, f"pool_skip_{n}") for n, skip in enumerate(skipped, start=1)]
    x = join(pooled, "joined")
    x = dense_stack(x, hidden, activation=activation, dropout=dropout, name="hidden")
    if embedding_dim is not None:
        x = keras.layers.Dense(embedding_dim, activation=embedding_activation, name="project")(x)
    return keras.Model(images, finish(x, normalize=normalize), name="mildnet")

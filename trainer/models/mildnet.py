"""MILDNet: a pretrained trunk whose early layers reach the embedding through pooled skips."""

from __future__ import annotations

from typing import Literal

import keras

from trainer.config import register
from trainer.models.heads import dense_stack, finish, join, pool
from trainer.models.layers import Dropout, L2Normalize, Preprocess
from trainer.models.shallow import shallow_paths
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
    released={},
)
@register(
    "model",
    "mildnet_vgg16_skip_1",
    like="mildnet_vgg16",
    defaults={"skips": ("block[2-4]_pool",)},
)
@register(
    "model",
    "mildnet_vgg16_skip_2",
    like="mildnet_vgg16",
    defaults={"skips": ("block[34]_pool",)},
)
@register(
    "model",
    "mildnet_vgg16_skip_3",
    like="mildnet_vgg16",
    defaults={"skips": ("block4_pool",)},
)
@register(
    "model",
    "mildnet_vgg16_skip_4",
    like="mildnet_vgg16",
    defaults={"skips": ("none",)},
    released={"pooling": "none"},
)
@register(
    "model",
    "mildnet_1024_512",
    like="mildnet_vgg16",
    defaults={"hidden": (1024,), "embedding_dim": 512},
)
@register(
    "model",
    "mildnet_512_512",
    like="mildnet_vgg16",
    defaults={"hidden": (512,), "embedding_dim": 512},
)
@register("model", "mildnet_512_no_dropout", like="mildnet_512_512", defaults={"dropout": 0.0})
@register("model", "mildnet_vgg19", like="mildnet_vgg16", defaults={"trunk": "vgg19"})
@register("model", "mildnet_all_trainable", like="mildnet_vgg16", defaults={"frozen": 0})
@register(
    "model",
    "mildnet_without_skip",
    like="mildnet_vgg16_skip_4",
    defaults={"frozen": 0, "hidden": (1024,), "embedding_dim": 1024},
)
@register(
    "model",
    "mildnet_without_skip_big",
    like="mildnet_without_skip",
    defaults={"hidden": (2048,), "embedding_dim": 2048},
)
@register(
    "model",
    "mildnet_vgg16_big",
    like="mildnet_vgg16",
    defaults={
        "hidden": (2048, 2048),
        "dropout": (0.6, 0.0),
        "shallow": "visnet",
        "embedding_dim": 4096,
        "embedding_activation": "linear",
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
    released={"skips": ("none",)},
)
@register(
    "model",
    "vanila_vgg16",
    defaults={
        "trunk": "vgg16",
        "weights": "imagenet",
        "skips": ("none",),
        "embedding_dim": None,
    },
    released={"pooling": "none", "normalize": False},
)
@register(
    "model",
    "visnet_model",
    defaults={
        "trunk": "vgg16",
        "weights": "imagenet",
        "skips": ("none",),
        "hidden": (4096, 4096),
        "dropout": 0.6,
        "shallow": "visnet",
        "embedding_dim": 4096,
    },
    released={},
)
@register(
    "model",
    "visnet_lrn2d_model",
    like="visnet_model",
    defaults={"shallow": "visnet_lrn2d"},
    released={"shallow": "visnet_no_lrn"},
)
@register(
    "model",
    "ranknet",
    like="visnet_model",
    defaults={"trunk": "vgg19", "dropout": 0.5, "shallow": "ranknet"},
)
@register(
    "model",
    "alexnet",
    like="visnet_model",
    defaults={"trunk": "alexnet", "weights": "none", "shallow": "visnet_no_lrn"},
)
def mildnet(
    image_size: int,
    *,
    trunk: str = "convnet_small",
    weights: str = "auto",
    preprocessing: Literal[
        "auto", "rescale", "caffe", "torch", "clip", "tf", "lite", "native", "none"
    ] = "auto",
    skips: tuple[str, ...] = ("default",),
    pooling: Literal["gap", "gem", "none"] = "gap",
    hidden: tuple[int, ...] = (),
    activation: Literal["relu", "gelu", "silu", "linear"] = "relu",
    dropout: float | tuple[float, ...] = 0.0,
    shallow: Literal["none", "visnet", "visnet_lrn2d", "visnet_no_lrn", "ranknet"] = "none",
    embedding_dim: int | None = 128,
    embedding_activation: Literal["relu", "linear"] = "linear",
    embedding_dropout: float = 0.0,
    normalize: bool = True,
    frozen: int | str = 0,
) -> keras.Model:
    """Pooled trunk and skip features, dense layers, unit-length embedding (MILDNet's builder).

    Trunk -> pooled last map and pooled skips, concatenated -> dense layers with dropout ->
    dense embedding -> L2 normalisation.

    With `shallow`, as in VisNet and RankNet, the dense layers' output is normalised and joined
    with two shallow paths over the same picture before the dense embedding.

    Args:
        image_size: height and width of the input in pixels.
        trunk: a registered trunk (`mildnet describe trunk`); its parameters may follow in
            parentheses: `convnet_small(widths=(16, 32), norm="group")`. Nets of KerasHub and
            KerasCV are `kerashub:PRESET` and `kerascv:NAME`, a SavedModel is `hub:FOLDER`.
        weights: trunk weights: `imagenet`, `none`, or the path of a `.weights.h5`, `.h5` or
            `.keras` file (convnext, efficientnet_lite0 and swinv2 also take PyTorch's). `auto`:
            those that a preset or a SavedModel brings; none for other trunks.
        preprocessing: what the model does to pixels 0..255 first: `rescale` to 0..1 (MILDNet's),
            `caffe`, `torch`, `clip`, `tf`, `lite` (see `Preprocess`), `native` for what the
            trunk's ImageNet weights expect, `none`. `auto`: nothing where the trunk scales pixels
            by itself (kerashub, kerascv, hub), else `rescale`.
        skips: trunk layers whose pooled output joins the embedding, in this order; `*` and `[2-4]`
            work as in file names. `default` for those of the trunk, `none` for no skips.
        pooling: `gap` (average) or `gem` (generalised mean with a learned exponent), for the
            trunk's output and all skips. `none` keeps the map, as MILDNet's code does where it
            forgets to pool: the dense layers work at each position, and the embedding is the map,
            normalised along its height and laid out as one vector. Goes without skips and shallow.
        hidden: widths of the dense layers before the embedding.
        activation: activation of the hidden dense layers.
        dropout: share 0..1 of values dropped after each hidden layer while training; one for all,
            or one for each.
        shallow: the two shallow paths: `visnet`; `visnet_lrn2d`, with finer strides and local
            response normalisation; `visnet_no_lrn`, the same without; `ranknet`; `none`.
        embedding_dim: size of the embedding; none: the layer before is the embedding.
        embedding_activation: activation of the embedding before its normalisation.
        embedding_dropout: share 0..1 of the embedding's values dropped while training, before it
            gets its length; a loss with a classifier sees the rest.
        normalize: whether embeddings get unit length.
        frozen: how many of the trunk's first layers are not trained (its input counts as one, as
            in Keras' `layers[:10]`), or the name of the last layer that is not trained, or `all`.

    Returns:
        The model: images (B, S, S, 3), float 0..255 or uint8 -> float32 embeddings (B, D).

    Raises:
        UserError: an unknown trunk, or trunk weights that cannot be had.
        ValueError: a value out of range.

    Vishvakarma et al.: MILDNet, 2019, arXiv 1903.00905.
    """
    if embedding_dim is not None and embedding_dim < 1:
        raise ValueError(f"embedding_dim must be above 0 or none, not {embedding_dim}")
    if not 0 <= embedding_dropout < 1:
        raise ValueError(
            f"embedding_dropout must be at least 0 and below 1, not {embedding_dropout}"
        )
    for share in dropout if isinstance(dropout, tuple) else (dropout,):
        if not 0 <= share < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {share}")
    component, _ = parse_trunk(trunk)
    mode = {"native": component.tags["preprocessing"], "auto": "rescale"}.get(
        preprocessing, preprocessing
    )
    if "brings" in component.tags:
        if preprocessing not in ("auto", "native", "none"):
            raise ValueError(
                f"trunk {component.name} scales pixels by itself: preprocessing is auto, not"
                f" {preprocessing}"
            )
        mode = "none"
    images = keras.Input((image_size, image_size, 3), name="image")
    pixels = Preprocess(mode, name="preprocess")(images)
    features, *skipped = build_trunk(
        trunk, image_size, weights=weights, skips=skips, frozen=frozen
    )(pixels)
    if pooling == "none":
        if skipped or shallow != "none":
            raise ValueError("pooling=none keeps the map, which joins neither skips nor shallow")
        x = features
    else:
        pooled = [pool(features, pooling, "pool")]
        pooled += [pool(s, pooling, f"pool_skip_{n}") for n, s in enumerate(skipped, start=1)]
        x = join(pooled, "joined")
    x = dense_stack(x, hidden, activation=activation, dropout=dropout, name="hidden")
    if shallow != "none":
        # The paths come first, as in the released code, whose weights can be converted.
        x = L2Normalize(name="deep_normalize")(x)
        x = join([*shallow_paths(pixels, shallow), x], "joined_shallow")
    if embedding_dim is not None:
        x = keras.layers.Dense(embedding_dim, activation=embedding_activation, name="project")(x)
    if embedding_dropout:
        x = Dropout(embedding_dropout, name="embedding_dropout")(x)
    return keras.Model(images, finish(x, normalize=normalize), name="mildnet")

"""From a trunk's name to a layer of the model: weights, skip outputs, frozen layers."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from trainer.config import Component, UserError, get
from trainer.config.spelling import parse_arguments
from trainer.models import TRUNK

#: Endings of checkpoints that a converter reads.
CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors")


def parse_trunk(trunk: str) -> tuple[Component, dict[str, Any]]:
    """Read a trunk as a config writes it.

    Its forms are `vgg16`, `convnet_small(widths=(16, 32))`, and for those with the tag `argument`
    `kerashub:PRESET` or `kerashub:PRESET(tokens="mean")`.

    Raises:
        UserError: no such trunk or parameter, or text that is none of these forms.
    """
    trunk = trunk.strip()
    # What follows a colon may be a path, with parentheses in it.
    head, parenthesis, rest = trunk.partition("(") if trunk.endswith(")") else (trunk, "", "")
    if not parenthesis and ":" not in head:
        head, parenthesis, rest = trunk.partition("(")
    name, colon, argument = head.partition(":")
    component = get("trunk", name.strip())
    given: dict[str, Any] = {}
    if parenthesis:
        try:
            given = parse_arguments(f"({rest}")
        except ValueError as error:
            raise UserError(f"trunk {trunk!r} cannot be read: {error}") from None
    if "argument" in component.tags:
        key = component.tags["argument"]
        if colon:
            given[key] = argument.strip()
        if not given.get(key):
            raise UserError(f"trunk {trunk!r} says no {key}: write {component.name}:{key.upper()}")
    elif colon:
        raise UserError(f"trunk {trunk!r} cannot be read: {component.name} takes no {argument!r}")
    return component, component.check(given)


def build_trunk(
    trunk: str, image_size: int, *, weights: str, skips: tuple[str, ...], frozen: int | str
) -> keras.Model:
    """Build a trunk as the layer that every embedding model calls `trunk`.

    Args:
        trunk: a registered trunk, with parameters in parentheses if need be.
        image_size: height and width of its input in pixels.
        weights: `auto`, `none`, `imagenet`, or the path of a file (a PyTorch checkpoint too, if the
            trunk has the tag `torch`).
        skips: names of layers whose output is wanted too, see :func:`match_layers`.
        frozen: how many of the first layers are not trained, the input layer counted, or the name
            of the last layer that is not trained, or `all`. A frozen batch normalisation uses its
            moving statistics and does not change them.

    Returns:
        A model from preprocessed pictures (B, S, S, 3) to the list of its last feature map and the
        outputs of the skips.

    Raises:
        UserError: no such trunk, or the weights cannot be had.
        ValueError: a size, skip or frozen layer that the trunk does not have.
    """
    component, parameters = parse_trunk(trunk)
    minimum = int(component.tags["minimum"])
    if image_size < minimum:
        raise ValueError(f"{component.name} needs an image size of {minimum} or more: {image_size}")
    images = keras.Input((image_size, image_size, 3), name="trunk_input")
    source = "imagenet" if weights == "imagenet" else None
    if "brings" in component.tags:
        if source:
            raise ValueError(
                f"trunk {component.name} brings weights of its own: weights is auto, none or a path"
            )
        source = "own" if weights == "auto" else None
    try:
        model = component.load()(images, source, **parameters)
    except Exception as error:
        # Keras' downloader raises a bare Exception with this text; all else is not about the net.
        if not str(error).startswith("URL fetch failure"):
            raise
        raise UserError(
            f"ImageNet weights of {component.name} cannot be downloaded ({error}):"
            " set model.weights=none to train from scratch, or model.weights=PATH to a weights"
            " file, or run once with network (Keras keeps the file)"
        ) from error
    if weights.endswith(CHECKPOINTS) and "torch" in component.tags:
        load_checkpoint(model, weights, component.tags["torch"])
    elif weights not in ("auto", "none", "imagenet"):
        load_weights(model, weights)
    if keras.backend.backend() == "tensorflow":
        # Statistics over the global batch, so that N replicas compute what one device computes.
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    freeze(model, frozen)
    if skips == ("default",):
        skips = tuple(name.strip() for name in component.tags["skips"].split(","))
    names = [] if skips == ("none",) else match_layers(model, skips)
    outputs = [model.output] + [model.get_layer(name).output for name in names]
    return keras.Model(model.input, outputs, name=TRUNK)


def match_layers(model: keras.Model, patterns: tuple[str, ...]) -> list[str]:
    """Return the names of the layers that `patterns` mean, pattern by pattern, each layer once.

    Args:
        model: the trunk. Its last layer is left out: that one is pooled anyway.
        patterns: names of layers; `*`, `?` and `[1-4]` stand for what they mean in file names.

    Raises:
        ValueError: a pattern that no layer matches.
    """
    names = [layer.name for layer in model.layers[1:]]
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise ValueError(f"no layer {pattern!r} in trunk {model.name}: {', '.join(names)}")
        found.update(dict.fromkeys(matches))
    found.pop(names[-1], None)
    return list(found)


def freeze(model: keras.Model, frozen: int | str) -> None:
    """Stop training of the first layers of `model`: a number, up to and with a name, or `all`.

    The layers of a model in the model count one by one.

    Raises:
        ValueError: more layers than there are, a negative number, or an unknown name.
    """
    if frozen == "all":
        model.trainable = False
        return
    layers = list(_layers(model))
    names = [layer.name for layer in layers]
    if isinstance(frozen, str):
        if frozen not in names:
            raise ValueError(f"no layer {frozen!r} in trunk {model.name}: {', '.join(names)}")
        frozen = names.index(frozen) + 1
    if not 0 <= frozen <= len(names):
        raise ValueError(f"trunk {model.name} has {len(names)} layers, {frozen} cannot be frozen")
    for layer in layers[:frozen]:
        layer.trainable = False


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def load_weights(trunk: keras.Model, path: str) -> None:
    """Load the weights of a trunk from a file.

    Args:
        trunk: the trunk as its function returned it.
        path: a `.weights.h5` or `.h5` file of this trunk, as Keras writes and publishes them, or a
            `.keras` file of the trunk or of an embedding model that has it.

    Raises:
        UserError: no such file, or it does not hold the weights of this trunk.
    """
    if not Path(path).is_file():
        raise UserError(f"model.weights={path}: no such file; allowed are imagenet, none or a file")
    if not path.endswith((".keras", ".h5")):
        raise UserError(f"model.weights={path}: the file must end in .keras, .weights.h5 or .h5")
    try:
        if path.endswith(".h5"):
            _expect_as_many(trunk, path)
            trunk.load_weights(path)
            return
        source = keras.saving.load_model(path, compile=False)
        if TRUNK in {layer.name for layer in source.layers}:
            source = source.get_layer(TRUNK)
        trunk.set_weights(source.get_weights())
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"model.weights={path} does not hold weights of trunk {trunk.name}:"
            f" {str(error).splitlines()[0]}"
        ) from error


def load_checkpoint(trunk: keras.Model, path: str, converter: str) -> None:
    """Load the weights of a trunk from a PyTorch checkpoint; nothing in the file is executed.

    Args:
        trunk: the trunk as its function returned it.
        path: a file with an ending of :data:`CHECKPOINTS`.
        converter: module whose `load(trunk, path)` knows the names in the file.

    Raises:
        UserError: no such file, or it does not hold the weights of this trunk.
    """
    try:
        importlib.import_module(converter).load(trunk, path)
    except UserError as error:
        raise UserError(f"model.weights: {error}") from None


def _expect_as_many(trunk: keras.Model, path: str) -> None:
    """Refuse a file with more layers, of which Keras would load the first ones without a word."""
    if not path.endswith(".weights.h5"):
        return
    found: list[str] = []
    with h5py.File(path) as file:
        file["layers"].visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
        )
    if len(found) != len(trunk.variables):
        raise ValueError(f"it holds {len(found)} weights, the trunk has {len(trunk.variables)}")

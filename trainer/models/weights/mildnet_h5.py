"""Weights that MILDNet's code saved: HDF5 files of tf.keras 1.10, read without running anything.

The layout: `layer_names` lists the layers in order, each has a group with `weight_names`, and the
arrays lie below it under these names. A file of weights has all that at its root, a whole model
below `model_weights`, beside a `model_config` that is not looked at.

The released builders leave the layers of Keras' applications their names and let Keras number all
others, so these are matched by their order: dense layers as they follow each other, convolutions of
the shallow paths from the finer to the coarser.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from trainer.config import UserError, components
from trainer.models import TRUNK, build

#: Trained with Theano, whose files mirror the convolutions and flatten maps in another order.
UNREADABLE = ("alexnet",)


@dataclass(frozen=True)
class FileLayer:
    """A layer of a file: its weights by name, such as `kernel`, in the file's order."""

    name: str
    weights: dict[str, h5py.Dataset]

    @property
    def rank(self) -> int:
        """Number of axes of the layer's first array: 2 of a dense layer, 4 of a convolution."""
        return len(next(iter(self.weights.values())).shape)


def released_models() -> list[str]:
    """Return the model ids whose files can be read."""
    return [
        name
        for name, component in components("model").items()
        if component.released is not None and name not in UNREADABLE
    ]


def check_model_id(model_id: str) -> None:
    """Check that there are files of this model that can be read.

    Raises:
        UserError: there are none.
    """
    if model_id in UNREADABLE:
        raise UserError(
            f"model_id={model_id}: was trained with Theano, whose files mirror convolutions and "
            "order maps in another way; they cannot be converted"
        )
    if model_id not in released_models():
        raise UserError(
            f"model_id={model_id}: no model of MILDNet's code; these are: "
            + ", ".join(released_models())
        )


def load_released(model: keras.Model, model_id: str, path: str) -> None:
    """Set all weights of `model` from a file of MILDNet's code.

    Args:
        model: the model as `model_id` builds it; it is changed only if the whole file fits.
        model_id: what messages call it.
        path: a `weights-improvement-*.h5` or `model.h5`.

    Raises:
        UserError: no such file, damaged or no such layout, or of another model; the message names
            the first layer that does not fit, and the models that do.
    """
    with _layers(path) as layers:
        try:
            pairs = _match(model, layers)
        except _Mismatch as mismatch:
            raise UserError(
                f"{path} does not fit {model_id}: {mismatch}; {_hint(layers)}"
            ) from None
        # All is read before the first weight is set.
        arrays = [dataset[...] for _, dataset in pairs]
    for (variable, _), array in zip(pairs, arrays, strict=True):
        variable.assign(array)


class _Mismatch(Exception):
    """What keeps a file and a model apart."""


def _match(model: keras.Model, layers: Sequence[FileLayer]) -> list[tuple[Any, h5py.Dataset]]:
    """Return each variable of `model` with the array that belongs to it, by names and shapes."""
    trunk = {layer.name: layer for layer in model.get_layer(TRUNK).layers if layer.weights}
    own = [layer for layer in model.layers if layer.weights and layer.name != TRUNK]
    found = {layer.name: layer for layer in layers}
    missing = [name for name in trunk if name not in found]
    if missing:
        raise _Mismatch(f"it has no layer {missing[0]}")
    pairs = [(layer, found[name]) for name, layer in trunk.items()]
    others = [layer for layer in layers if layer.name not in trunk]
    for kind, word, rank in (
        (keras.layers.Conv2D, "convolutions beside the trunk", 4),
        (keras.layers.Dense, "dense layers", 2),
    ):
        ours = [layer for layer in own if isinstance(layer, kind)]
        theirs = [layer for layer in others if layer.rank == rank]
        if len(ours) != len(theirs):
            names = ", ".join(layer.name for layer in theirs[:4])
            raise _Mismatch(
                f"it has {len(theirs)} {word} ({names})" if theirs else f"it has no {word}"
            )
        # Ours are numbered in the order of the released builders: hidden_1, hidden_2, project.
        pairs += zip(sorted(ours, key=lambda layer: layer.name), theirs, strict=True)
    known = {id(layer) for layer, _ in pairs}
    strangers = [layer.name for layer in own if id(layer) not in known]
    strangers += [layer.name for layer in others if layer.rank not in (2, 4)]
    if strangers:
        raise _Mismatch(f"no layer fits {strangers[0]}")
    return [pair for layer, source in pairs for pair in _pair(layer, source)]


def _pair(layer: keras.Layer, source: FileLayer) -> Iterator[tuple[Any, h5py.Dataset]]:
    names = [weight.name for weight in layer.weights]
    if set(names) != set(source.weights):
        # The kernel of a depthwise convolution has another name in each version of Keras.
        names = list(source.weights)
    if len(names) != len(layer.weights):
        raise _Mismatch(f"its {source.name} has {len(source.weights)} arrays")
    for weight, name in zip(layer.weights, names, strict=True):
        dataset = source.weights[name]
        if tuple(dataset.shape) != tuple(weight.shape) or dataset.dtype.kind != "f":
            raise _Mismatch(
                f"its {source.name}/{name} is {dataset.dtype} of shape {tuple(dataset.shape)}, "
                f"{weight.path} has shape {tuple(weight.shape)}"
            )
        yield weight, dataset


def _hint(layers: Sequence[FileLayer]) -> str:
    """Return the models that a file fits, in words."""
    fitting = []
    for name in released_models():
        model = build(name, weights="none", fidelity="released")
        with contextlib.suppress(_Mismatch):
            _match(model, layers)
            fitting.append(name)
    if not fitting:
        return "nor does it fit another released model at 224 pixels"
    return f"it fits {', '.join(fitting)}"


@contextlib.contextmanager
def _layers(path: str) -> Iterator[list[FileLayer]]:
    """Give the layers of a file that have weights, in order; no array is read yet."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield _read(file, path)
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0].strip("'\"") if str(error) else type(error).__name__
        raise UserError(f"{path}: truncated, or no HDF5 file of tf.keras ({reason})") from None


def _read(file: h5py.File, path: str) -> list[FileLayer]:
    root = file
    if "layer_names" not in file.attrs and isinstance(file.get("model_weights"), h5py.Group):
        root = file["model_weights"]
    if "layer_names" not in root.attrs:
        raise UserError(f"{path}: an HDF5 file, but not of tf.keras: it lists no layer_names")
    if _text(root.attrs.get("backend", "tensorflow")) == "theano":
        raise UserError(
            f"{path}: written with Theano, whose convolutions are mirrored: cannot be converted"
        )
    layers = []
    for name in map(_text, root.attrs["layer_names"]):
        group = root[name]
        owners: dict[str, dict[str, h5py.Dataset]] = {}
        for weight in map(_text, group.attrs["weight_names"]):
            scope, _, leaf = weight.rpartition("/")
            dataset = group[weight]
            here = isinstance(dataset, h5py.Dataset) and dataset.file.filename == file.filename
            if not here or dataset.external:
                raise UserError(f"{path}: {weight} is no array in this file")
            owners.setdefault(scope.rpartition("/")[-1], {})[leaf.partition(":")[0]] = dataset
        if len(owners) == 1:
            # The scope of a lone layer may be numbered on; its group never is.
            owners = {name: next(iter(owners.values()))}
        layers += [FileLayer(owner, weights) for owner, weights in owners.items()]
    return layers


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

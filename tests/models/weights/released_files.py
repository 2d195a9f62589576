"""Files as MILDNet's code wrote them, made from lists of names and shapes alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import numpy as np

#: A layer: its name, and its weights by name.
Layer = tuple[str, dict[str, tuple[int, ...]]]

VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def conv(name: str, kernel: int, before: int, after: int) -> Layer:
    return name, {"kernel": (kernel, kernel, before, after), "bias": (after,)}


def vgg(kind: str) -> list[Layer]:
    layers, before = [], 3
    for block, count in enumerate(VGG_BLOCKS[kind], start=1):
        after = min(64 * 2 ** (block - 1), 512)
        for number in range(1, count + 1):
            layers.append(conv(f"block{block}_conv{number}", 3, before, after))
            before = after
        layers.append((f"block{block}_pool", {}))
    return layers


def norm(name: str, channels: int) -> Layer:
    return name, dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (channels,))


def mobilenet() -> list[Layer]:
    layers = [("conv1", {"kernel": (3, 3, 3, 32)}), norm("conv1_bn", 32), ("conv1_relu", {})]
    steps = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    for number, (before, after) in enumerate(itertools.pairwise(steps), start=1):
        layers += [
            (f"conv_dw_{number}", {"depthwise_kernel": (3, 3, before, 1)}),
            norm(f"conv_dw_{number}_bn", before),
            (f"conv_pw_{number}", {"kernel": (1, 1, before, after)}),
            norm(f"conv_pw_{number}_bn", after),
        ]
    return layers


def dense(*widths: int) -> list[Layer]:
    """Dense layers as tf.keras numbers them: dense, dense_1, ..."""
    return [
        (f"dense_{number}" if number else "dense", {"kernel": pair, "bias": pair[1:]})
        for number, pair in enumerate(itertools.pairwise(widths))
    ]


def with_shallow(trunk: list[Layer], widths: tuple[int, ...], joined: int) -> list[Layer]:
    """The paths' convolutions stand late in a file: their branches are short."""
    hidden = dense(*widths)
    last = (f"dense_{len(hidden)}", {"kernel": (joined, 4096), "bias": (4096,)})
    paths = [("input_2", {}), conv("conv2d", 8, 3, 96), ("input_3", {}), conv("conv2d_1", 8, 3, 96)]
    return [*trunk, *hidden[:1], *paths, *hidden[1:], ("concatenate", {}), last]


def mildnet(joined: int, *widths: int, trunk: str = "vgg16") -> list[Layer]:
    return [("input_1", {}), *vgg(trunk), *dense(joined, *widths)]


FILES: dict[str, list[Layer]] = {
    "vanila_vgg16": vgg("vgg16"),
    "mildnet_without_skip": mildnet(512, 1024, 1024),
    "mildnet_without_skip_big": mildnet(512, 2048, 2048),
    "mildnet_vgg16": mildnet(1472, 2048, 2048),
    "mildnet_all_trainable": mildnet(1472, 2048, 2048),
    "mildnet_vgg19": mildnet(1472, 2048, 2048, trunk="vgg19"),
    "mildnet_1024_512": mildnet(1472, 1024, 512),
    "mildnet_512_512": mildnet(1472, 512, 512),
    "mildnet_512_no_dropout": mildnet(1472, 512, 512),
    "mildnet_vgg16_skip_1": mildnet(1408, 2048, 2048),
    "mildnet_vgg16_skip_2": mildnet(1280, 2048, 2048),
    "mildnet_vgg16_skip_3": mildnet(1024, 2048, 2048),
    "mildnet_vgg16_skip_4": mildnet(512, 2048, 2048),
    "mildnet_mobilenet": [*mobilenet(), *dense(1024, 1024, 1024)],
    "mildnet_vgg16_big": with_shallow(vgg("vgg16"), (1472, 2048, 2048), 3072 + 2048),
    "visnet_model": with_shallow(vgg("vgg16"), (512, 4096, 4096), 3072 + 4096),
    "visnet_lrn2d_model": with_shallow(vgg("vgg16"), (512, 4096, 4096), 3936 + 4096),
    "ranknet": with_shallow(vgg("vgg19"), (512, 4096, 4096), 3072 + 4096),
}


def write(
    path: Path,
    layers: list[Layer],
    *,
    largest: int = 10**9,
    whole_model: bool = False,
    nested: str = "",
    backend: str = "tensorflow",
) -> dict[str, np.ndarray]:
    """Write a file and return its arrays by `layer/weight`.

    Args:
        path: the file.
        layers: what it holds.
        largest: arrays with more numbers stay empty, which costs no space, and read as zeros.
        whole_model: as `model.save` has it, below `model_weights`.
        nested: name of a layer that holds all layers of the trunk, as a model in a model.
        backend: what wrote it.
    """
    random = np.random.default_rng(0)
    arrays = {}
    with h5py.File(path, "w") as file:
        root: h5py.Group = file
        if whole_model:
            file.attrs["model_config"] = b'{"class_name": "Model", "config": {"layers": []}}'
            root = file.create_group("model_weights")
            file.create_group("optimizer_weights").attrs["weight_names"] = [b"training/m:0"]
        root.attrs["backend"] = backend.encode()
        root.attrs["keras_version"] = b"2.1.6-tf"
        groups: dict[str, list[bytes]] = {}
        for name, weights in layers:
            inside = nested and name.startswith(("block", "conv_", "conv1"))
            place = nested if inside else name
            listed = groups.setdefault(place, [])
            group = root.require_group(place)
            for weight, shape in weights.items():
                # Outside of nested models TensorFlow numbers a scope that was used before.
                scope = name if inside or not name.startswith("block1_conv1") else f"{name}_1"
                key = f"{scope}/{weight}:0"
                listed.append(key.encode())
                dataset = group.create_dataset(key, shape, "float32")
                if np.prod(shape) <= largest:
                    values = random.normal(0, 0.05, shape).astype("float32")
                    values = np.abs(values) if weight == "moving_variance" else values
                    dataset[...] = arrays[f"{name}/{weight}"] = values
        for name, listed in groups.items():
            root[name].attrs["weight_names"] = listed
        root.attrs["layer_names"] = [name.encode() for name in groups]
    return arrays

"""What a checkpoint of a ConvNeXt says of its net: by its arrays, and the config beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.models.layers import CLIP_MEAN, IMAGENET_MEAN
from trainer.models.trunks.convnext import PRESETS

#: Files beside a checkpoint that say more: OpenCLIP's, and timm's.
CONFIGS = ("open_clip_config.json", "config.json")


@dataclass(frozen=True)
class Sizes:
    """Numbers of a ConvNeXt.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        head: `norm`, `linear` or `mlp`, as the trunk calls them.
        projection: size of what the last two give; 0 for `norm`.
        layer_scale: whether blocks have factors.
        image_size: side of the pictures that it was trained on, in pixels.
        preprocessing: how pixels were scaled, `clip` or `torch`.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    head: str
    projection: int
    layer_scale: bool
    image_size: int
    preprocessing: str

    def trunk(self, epsilon: float | None = None) -> str:
        """Return the trunk as a config writes it: by preset where one has these numbers.

        Args:
            epsilon: of the normalisations, if another than the published one.
        """
        values: dict[str, Any] = {"depths": self.depths, "widths": self.widths}
        for preset, (depths, widths, _) in PRESETS.items():
            if (depths, widths) == (self.depths, self.widths):
                values = {"preset": preset}
        values["head"] = self.head
        if self.projection:
            values["projection"] = self.projection
        if not self.layer_scale:
            values["layer_scale"] = 0.0
        if epsilon is not None:
            values["epsilon"] = epsilon
        return f"convnext({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def read_sizes(arrays: Mapping[str, np.ndarray], path: str) -> Sizes:
    """Find out the sizes of a ConvNeXt.

    Stages and projection follow from the shapes. A last layer without bias, or with one of zeros,
    is CLIP's projection; with any other bias it is a classifier, which is left out. Size and
    scaling of the pictures are looked for in `open_clip_config.json` or `config.json` (timm's)
    beside the file; without, they are those of most: 256 pixels and CLIP's with a projection, else
    224 and ImageNet's.

    Args:
        arrays: what :func:`trainer.models.weights.open_clip.timm_names` returned.
        path: the file that they are of.

    Raises:
        UserError: no ConvNeXt, or a config of something else.
    """
    depths, widths = _stages(arrays, path)
    last, bias = arrays.get("head.fc.weight"), arrays.get("head.fc.bias")
    head, projection = "norm", 0
    if last is not None and (bias is None or not bias.any()):
        head = "mlp" if "head.pre_logits.fc.weight" in arrays else "linear"
        projection = len(last)
    usual = (224, "torch") if head == "norm" else (256, "clip")
    size, mean = _from_config(Path(path))
    return Sizes(
        depths,
        widths,
        head,
        projection,
        any(name.endswith(".gamma") for name in arrays),
        size or usual[0],
        _preprocessing(mean, path) if mean else usual[1],
    )


def _stages(arrays: Mapping[str, np.ndarray], path: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return depths and widths."""
    found: dict[int, list[int]] = {}
    for name, array in arrays.items():
        block = re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.weight", name)
        if block:
            found.setdefault(int(block[1]), []).append(len(array))
    if not found or sorted(found) != list(range(len(found))):
        raise UserError(
            f"{path} holds no ConvNeXt by the names of OpenCLIP or timm: its first is"
            f" {next(iter(arrays), 'none')}"
        )
    stages = [found[stage] for stage in range(len(found))]
    return tuple(map(len, stages)), tuple(widths[0] for widths in stages)


def _from_config(path: Path) -> tuple[int, tuple[float, ...]]:
    """Return side and mean of the pictures as a config beside the file says; 0, () if unknown."""
    for beside in map(path.with_name, CONFIGS):
        if not beside.is_file():
            continue
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
            if beside.name == CONFIGS[0]:
                size = config["model_cfg"]["vision_cfg"]["image_size"]
                mean = config.get("preprocess_cfg", {}).get("mean") or CLIP_MEAN
            else:
                pictures = config.get("pretrained_cfg") or {}
                size, mean = pictures.get("input_size", [0])[-1], pictures.get("mean") or ()
            return int(size), tuple(map(float, mean))
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"{beside} cannot be read: {error}") from None
    return 0, ()


def _preprocessing(mean: tuple[float, ...], path: str) -> str:
    for mode, known in (("clip", CLIP_MEAN), ("torch", IMAGENET_MEAN)):
        if len(mean) == 3 and np.allclose(mean, known, atol=1e-3):
            return mode
    raise UserError(
        f"{path}: the config beside it has pixels of mean {mean}, neither CLIP's nor ImageNet's"
    )

"""What a checkpoint of Swin V2 says of its net: by its arrays, and the `config.json` beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError

#: Side of a window in tokens -> side of the pictures in pixels, of the published checkpoints.
IMAGE_SIZES = {12: 192, 24: 384}
USUAL_IMAGE_SIZE = 256

#: What checkpoints are called: swinv2-tiny-patch4-window8-256 by Hugging Face,
#: swinv2_base_patch4_window12to16_192to256_22kto1k_ft by Microsoft, without `patch4` by timm.
PUBLISHED = re.compile(
    r"swinv2[-_][a-z]+[-_](?:patch4[-_])?window(?:(\d+)to)?(\d+)[-_](?:(\d+)to)?(\d+)"
)


@dataclass(frozen=True)
class Sizes:
    """Numbers of a Swin V2.

    Attributes:
        embed_dim: channels of the first stage.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        patch: side of a patch, in pixels.
        window: side of a window, in tokens.
        image_size: side of the pictures that it was trained on, in pixels.
        pretrained_windows: for each stage the side that counts as the unit of its positions, if it
            is another than that of its windows; 0 or empty: the same.
    """

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int
    window: int
    image_size: int
    pretrained_windows: tuple[int, ...] = ()

    def units(self) -> tuple[int, ...]:
        """Return the side in each stage, in tokens, that counts as the unit of its positions."""
        known = self.pretrained_windows or [0] * len(self.depths)
        return tuple(unit or side for unit, side in zip(known, self.sides(), strict=True))

    def sides(self) -> tuple[int, ...]:
        """Return the side of a window in each stage, in tokens: no larger than the map."""
        maps = (self.image_size // self.patch // 2**n for n in range(len(self.depths)))
        return tuple(max(min(side, self.window), 1) for side in maps)

    def resized(self, window: int | None, image_size: int | None) -> Sizes:
        """Return the numbers for other windows or pictures, with positions in the unit of before.

        Args:
            window: new side of a window, in tokens; None: as before.
            image_size: new side of the pictures, in pixels; None: as before.
        """
        after = replace(
            self,
            window=window or self.window,
            image_size=image_size or self.image_size,
            pretrained_windows=(),
        )
        units = self.units()
        return after if units == after.sides() else replace(after, pretrained_windows=units)


def read_sizes(
    arrays: Mapping[str, np.ndarray],
    path: str,
    window: int | None = None,
    image_size: int | None = None,
) -> Sizes:
    """Find out the sizes of a Swin V2.

    Channels, depths and heads follow from the shapes. The window is looked for in `config.json`
    beside the file (Hugging Face's, or timm's), then in the tables of positions that Microsoft's
    files hold, then in the name of the file or its folder, if that is a published one.

    Args:
        arrays: what :func:`trainer.models.weights.swinv2.hugging_face` returned.
        path: the file that they are of.
        window: what holds if neither says anything, in tokens.
        image_size: the same, in pixels; default: what the window was published for.

    Raises:
        UserError: no Swin V2, a `config.json` of another model, or nothing that tells the window.
    """
    shapes = _from_shapes(arrays, path)
    beside = Path(path).with_name("config.json")
    told = _from_config(beside, shapes) if beside.is_file() else {}
    told = told or _from_tables(arrays, len(shapes["depths"]))
    told = told or _from_name(Path(path).name, shapes) or _from_name(beside.parent.name, shapes)
    if not told and window is None:
        raise UserError(
            f"{path} does not tell the side of its windows: put the config.json that it was"
            " published with beside it, or give --window (as published: 8 or 16 for pictures of"
            " 256 pixels, 12 for 192)"
        )
    told = told or {"window": window, **({"image_size": image_size} if image_size else {})}
    usual = {"image_size": IMAGE_SIZES.get(told["window"], USUAL_IMAGE_SIZE)}
    # By way of resized, which leaves out what is the same.
    return Sizes(**shapes, **(usual | told)).resized(None, None)


def _from_shapes(arrays: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    patches = arrays.get("embeddings.patch_embeddings.projection.weight")
    found: dict[tuple[int, int], int] = {}
    for name, array in arrays.items():
        block = re.fullmatch(
            r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.attention\.self\.logit_scale", name
        )
        if block:
            found[int(block[1]), int(block[2])] = array.shape[0]
    depths = tuple(
        sum(stage == number for stage, _ in found) for number in range(len({s for s, _ in found}))
    )
    expected = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    if patches is None or patches.ndim != 4 or not found or sorted(found) != expected:
        raise UserError(
            f"{path} holds no Swin V2 by the names of Hugging Face, timm or Microsoft's release:"
            f" its first is {next(iter(arrays), 'none')}"
        )
    return {
        "embed_dim": patches.shape[0],
        "depths": depths,
        "heads": tuple(found[stage, 0] for stage in range(len(depths))),
        "patch": patches.shape[-1],
    }


def _from_config(path: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return window, picture and pretrained windows as a config.json says; empty if it does not."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object")
        if "architecture" in config:
            told = _from_name(str(config["architecture"]), shapes)
            if not told:
                raise UserError(
                    f"{path} is of {config['architecture']}, not of a published Swin V2"
                )
            return told
        if config.get("model_type", "swinv2") != "swinv2":
            raise UserError(f"{path} is of a {config['model_type']}, the file beside it a swinv2")
        for key, ours in (
            ("embed_dim", "embed_dim"),
            ("depths", "depths"),
            ("num_heads", "heads"),
            ("patch_size", "patch"),
        ):
            value = config.get(key, shapes[ours])
            value = tuple(value) if isinstance(value, list) else value
            if value != shapes[ours]:
                raise UserError(f"{path}: {key} is {config[key]}, in the weights {shapes[ours]}")
        if "window_size" not in config:
            return {}
        told = {"window": int(config["window_size"])}
        if "image_size" in config:
            told["image_size"] = int(config["image_size"])
        windows = tuple(map(int, config.get("pretrained_window_sizes") or ()))
        if len(windows) not in (0, len(shapes["depths"])):
            raise ValueError(f"{len(windows)} pretrained_window_sizes")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return {**told, "pretrained_windows": windows if any(windows) else ()}


def _from_name(name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the published name of a checkpoint says, empty if it is none."""
    match = PUBLISHED.match(name)
    if match is None:
        return {}
    before, window, size_before, size = (int(text) if text else 0 for text in match.groups())
    windows = tuple(
        min(before, (size_before or size) // shapes["patch"] // 2**stage)
        for stage in range(len(shapes["depths"]))
    )
    return {
        "window": window,
        "image_size": size,
        "pretrained_windows": windows if before else (),
    }


def _from_tables(arrays: Mapping[str, np.ndarray], stages: int) -> dict[str, Any]:
    """Return windows and pretrained windows as the tables of relative positions have them."""
    sides, units = [], []
    for stage in range(stages):
        table = arrays.get(f"encoder.layers.{stage}.blocks.0.attention.self.relative_coords_table")
        if table is None or table.ndim != 4:
            return {}
        side = (table.shape[1] + 1) // 2
        # The farthest two tokens: log2(8 (side - 1) / (unit - 1) + 1) / 3.
        farthest = (2.0 ** (3 * float(table.max())) - 1) / 8
        units.append(round((side - 1) / farthest) + 1 if side > 1 and farthest > 0 else side)
        sides.append(side)
    return {"window": max(sides), "pretrained_windows": tuple(units)}

"""Small ConvNeXts of the goldens, and checkpoints of them as OpenCLIP and timm write them."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np

from tests.reference.convnext_cases import CASES, weight
from trainer.models.convnext import build_convnext
from trainer.models.weights.open_clip import load_open_clip

GOLDENS = np.load(Path(__file__).parents[1] / "reference" / "convnext_goldens.npz")


def shapes(case: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(s) for name, s in json.loads(str(GOLDENS[f"{case}|shapes"])).items()}


def arrays(case: str) -> dict[str, np.ndarray]:
    """The weights of a case: of OpenCLIP's visual tower alone, or of timm's model."""
    return {name: weight(name, shape) for name, shape in shapes(case).items()}


def checkpoint(case: str) -> dict[str, np.ndarray]:
    """The weights as a whole model of OpenCLIP has them, with a text tower; of timm as they are."""
    if "proj" not in CASES[case]:
        return arrays(case)
    text = ("positional_embedding", "text_projection", "token_embedding.weight", "ln_final.bias")
    found = {name: np.ones((2, 2), np.float32) for name in text}
    found["logit_scale"] = np.ones((), np.float32)
    found["transformer.resblocks.0.attn.in_proj_weight"] = np.ones((3, 2), np.float32)
    return found | {f"visual.{name}": array for name, array in arrays(case).items()}


def build(case: str, **changes) -> keras.Model:
    values = CASES[case]
    options = {
        "depths": values["depths"],
        "widths": values["dims"],
        "head": values.get("proj", "norm"),
        "projection": values.get("embed_dim", 1),
        "layer_scale": 1e-6 if values.get("layer_scale", True) else 0.0,
        "epsilon": 1e-5 if values["model"] == "convnext_xxlarge" else 1e-6,
    }
    return build_convnext(keras.Input((*values["size"], 3)), **options | changes)


def loaded(case: str, **changes) -> keras.Model:
    model = build(case, **changes)
    load_open_clip(model, checkpoint(case))
    return model

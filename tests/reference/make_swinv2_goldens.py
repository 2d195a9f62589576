"""Swin V2 by Hugging Face's transformers -> swinv2_goldens.npz.

Run in an environment of its own (the README beside this file): `python make_swinv2_goldens.py`.
Of each case: `case|last` (2, tokens, C) and `case|pooled` (2, C); of the sum of last times drawn
numbers `case|gradient|NAME` (norm, and product with drawn numbers) for each weight and for the
pictures; `case|names` and `case|shapes` of the weights. `parameters|PRESET` counts the weights of
the published sizes.
"""

import json
from pathlib import Path

import numpy as np
import torch
from swinv2_cases import CASES, draw, pictures, weight
from transformers import Swinv2Config, Swinv2Model

PRESETS = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
}


def both(name: str, gradient: np.ndarray) -> np.ndarray:
    """Return two numbers that tell a gradient."""
    flat = gradient.astype(np.float64).reshape(-1)
    return np.array([np.linalg.norm(flat), flat @ draw(f"direction {name}", flat.shape)])


found = {}
for case, arguments in CASES.items():
    model = Swinv2Model(Swinv2Config(drop_path_rate=0.0, **arguments)).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    x = torch.from_numpy(pictures(case)).permute(0, 3, 1, 2).contiguous().requires_grad_()
    output = model(x)
    last = output.last_hidden_state
    found[f"{case}|last"] = last.detach().numpy()
    found[f"{case}|pooled"] = output.pooler_output.detach().numpy()
    (last * torch.from_numpy(draw(f"target {case}", tuple(last.shape)))).sum().backward()
    found[f"{case}|gradient|pictures"] = both("pictures", x.grad.permute(0, 2, 3, 1).numpy())
    for name, parameter in parameters.items():
        found[f"{case}|gradient|{name}"] = both(name, parameter.grad.numpy())
    shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
    found[f"{case}|shapes"] = np.array(json.dumps(shapes))
for preset, arguments in PRESETS.items():
    with torch.device("meta"):
        model = Swinv2Model(Swinv2Config(image_size=256, window_size=8, **arguments))
    found[f"parameters|{preset}"] = np.array(sum(p.numel() for p in model.parameters()))
np.savez_compressed(Path(__file__).with_name("swinv2_goldens.npz"), **found)

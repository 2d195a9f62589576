"""Swin V2 by timm -> swinv2_timm_goldens.npz.

Run in an environment of its own (the README beside this file).
`CASE|map` (2, h, w, C) is what timm's `forward_features` gives for each case of TIMM_CASES,
`CASE|stage N` the map of each stage, `CASE|shapes` the names and shapes of its state dict.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
from swinv2_cases import TIMM_CASES, pictures, weight

found = {}
for case, arguments in TIMM_CASES.items():
    model = timm.create_model(
        "swinv2_tiny_window8_256", pretrained=False, num_classes=3, drop_path_rate=0.0, **arguments
    ).eval()
    state = model.state_dict()
    shapes = {name: list(array.shape) for name, array in state.items()}
    model.load_state_dict({n: torch.from_numpy(weight(n, tuple(s))) for n, s in shapes.items()})
    x = torch.from_numpy(pictures(case)).permute(0, 3, 1, 2)
    with torch.no_grad():
        last, stages = model.forward_intermediates(x, output_fmt="NCHW")
    found[f"{case}|map"] = last.numpy()
    for number, stage in enumerate(stages, start=1):
        found[f"{case}|stage {number}"] = stage.permute(0, 2, 3, 1).numpy()
    found[f"{case}|shapes"] = np.array(json.dumps(shapes))
np.savez_compressed(Path(__file__).with_name("swinv2_timm_goldens.npz"), **found)

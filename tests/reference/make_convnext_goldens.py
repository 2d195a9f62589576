"""ConvNeXt by OpenCLIP and timm -> convnext_goldens.npz.

Run in an environment of its own (the README beside this file): `python make_convnext_goldens.py`.
Of each case: `case|output` (2, D), what OpenCLIP's visual tower gives, or timm's model before its
classifier; `case|map` (2, h, w, C), the last stage's; `case|shapes`, names and shapes of the
weights; `case|gradients` (weights + 1, 2), of the sum of the output times drawn numbers: norm, and
product with drawn numbers, by the pictures, then by each weight in this order (zeros: by none).
`parameters|PRESET` counts the weights of the published sizes without a classifier,
`parameters|OPEN_CLIP_MODEL` those of visual towers.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip.timm_model
import timm
import torch
from convnext_cases import CASES, draw, pictures, weight

PRESETS = ("tiny", "small", "base", "large", "xlarge", "xxlarge")
TOWERS = ("convnext_base_w", "convnext_large_d", "convnext_xxlarge")


def both(name, gradient):
    """Return two numbers that tell a gradient."""
    flat = gradient.astype(np.float64).reshape(-1)
    return np.array([np.linalg.norm(flat), flat @ draw(f"direction {name}", flat.shape)])


def build(arguments):
    """Return the model of a case, and the part of it that is timm's."""
    about = ("model", "size", "layer_scale")
    own = {key: value for key, value in arguments.items() if key not in about}
    tower = {key: own.pop(key) for key in ("proj", "embed_dim") if key in own}
    if not tower:
        model = trunk = timm.create_model(arguments["model"], **own)
    else:
        # OpenCLIP asks timm for a model by name alone; here it gets a small one.
        open_clip.timm_model.timm = SimpleNamespace(
            create_model=lambda name, **more: timm.create_model(name, **own, **more)
        )
        model = open_clip.timm_model.TimmModel(arguments["model"], pool="", drop_path=0.1, **tower)
        trunk = model.trunk
    if not arguments.get("layer_scale", True):
        for stage in trunk.stages:
            for block in stage.blocks:
                block.gamma = None
    return model, trunk


found = {}
for case, arguments in CASES.items():
    model, trunk = build(arguments)
    model.eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    x = torch.from_numpy(pictures(case)).permute(0, 3, 1, 2).contiguous().requires_grad_()
    if "proj" in arguments:
        output = model(x)
    else:
        output = model.forward_head(model.forward_features(x), pre_logits=True)
    (last,) = trunk.forward_intermediates(x, indices=1, intermediates_only=True)
    found[f"{case}|map"] = last.permute(0, 2, 3, 1).detach().numpy()
    found[f"{case}|output"] = output.detach().numpy()
    (output * torch.from_numpy(draw(f"target {case}", tuple(output.shape)))).sum().backward()
    gradients = {"pictures": x.grad.permute(0, 2, 3, 1)}
    gradients |= {name: parameter.grad for name, parameter in parameters.items()}
    found[f"{case}|gradients"] = np.array(
        [[0, 0] if g is None else both(name, g.numpy()) for name, g in gradients.items()]
    )
    shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
    found[f"{case}|shapes"] = np.array(json.dumps(shapes))
open_clip.timm_model.timm = timm
with torch.device("meta"):
    for preset in PRESETS:
        model = timm.create_model(f"convnext_{preset}", num_classes=0)
        found[f"parameters|{preset}"] = np.array(sum(p.numel() for p in model.parameters()))
    for name in TOWERS:
        config = open_clip.get_model_config(name)
        vision = config["vision_cfg"]
        model = open_clip.timm_model.TimmModel(
            vision["timm_model_name"],
            config["embed_dim"],
            pool=vision["timm_pool"],
            proj=vision["timm_proj"],
            drop_path=0.1,
        )
        found[f"parameters|{name}"] = np.array(sum(p.numel() for p in model.parameters()))
np.savez_compressed(Path(__file__).with_name("convnext_goldens.npz"), **found)

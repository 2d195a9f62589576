"""AutoAugment's table and operations by torchvision -> autoaugment.json, autoaugment_goldens.npz.

Run in an environment of its own (the README beside this file): `python
make_autoaugment_goldens.py`. The picture is a part of the photograph in efficientnet_goldens.npz.
Keys of the arrays are `picture` and `operation|magnitude|sign`, uint8 (S, S, 3); of the table,
`policy` (25 pairs of operation, probability, magnitude) and `magnitudes`, operation -> what its
magnitudes 0..9 stand for.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode, autoaugment
from torchvision.transforms import functional as F

HERE = Path(__file__).parent
PIXELS = 32


def apply(picture: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    if name == "ShearX":
        # AutoAugment's own leans about the upper left corner: the same, but for a shift.
        lean = math.degrees(math.atan(magnitude))
        return F.affine(picture, 0.0, [0, 0], 1.0, [lean, 0.0], InterpolationMode.BILINEAR)
    if name == "Solarize":
        # From 256 down as published, where the magnitude 0 leaves white as it is; here 255.
        magnitude *= 256 / 255
    return autoaugment._apply_op(picture, name, magnitude, InterpolationMode.BILINEAR, None)


def main() -> None:
    photo = np.load(HERE / "efficientnet_goldens.npz")["photo"]
    picture = torch.from_numpy(photo[10 : 10 + PIXELS, 30 : 30 + PIXELS]).permute(2, 0, 1)
    module = AutoAugment(AutoAugmentPolicy.IMAGENET)
    space = module._augmentation_space(10, (PIXELS, PIXELS))
    table = {
        "policy": module.policies,
        "magnitudes": {name: values.tolist() for name, (values, _) in space.items()},
        "signed": sorted(name for name, (_, signed) in space.items() if signed),
    }
    goldens = {"picture": picture.permute(1, 2, 0).numpy()}
    for name, _, magnitude in sorted({part for pair in module.policies for part in pair}, key=str):
        values, signed = space[name]
        for sign in (1, -1)[: 1 + signed]:
            value = 0.0 if magnitude is None else sign * float(values[magnitude])
            changed = apply(picture, name, value).permute(1, 2, 0).numpy()
            goldens[f"{name}|{magnitude or 0}|{sign}"] = changed
    (HERE / "autoaugment.json").write_text(json.dumps(table) + "\n")
    np.savez_compressed(HERE / "autoaugment_goldens.npz", **goldens)


if __name__ == "__main__":
    main()

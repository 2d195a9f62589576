"""Small checkpoints as PyTorch writes them -> torch_zip.pth, torch_legacy.pth, torch_files.npz.

Run in an environment of its own (the README beside this file): `python make_torch_files.py`. The
npz holds what PyTorch says is in them, bfloat16 as float32.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def main() -> None:
    torch.manual_seed(0)
    block = torch.randn(4, 6)
    kinds = {
        "double": torch.float64, "float": torch.float32, "half": torch.float16,
        "bfloat": torch.bfloat16, "long": torch.int64, "int": torch.int32, "short": torch.int16,
        "char": torch.int8, "byte": torch.uint8,
    }  # fmt: skip
    state = OrderedDict((name, (block * 50).abs().to(kind)) for name, kind in kinds.items())
    state["bool"] = block > 0
    state["scalar"] = torch.tensor(7)
    state["empty"] = torch.zeros(0, 3)
    state["turned"] = torch.randn(3, 5, 2).permute(2, 0, 1)
    state["channels_last"] = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    # Three views of one storage.
    state["whole"], state["column"], state["steps"] = block, block[:, 2], block[1::2, ::3]
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    # With the attribute `_metadata` that every state dict of a module carries.
    metadata = layer.state_dict()
    metadata.update(state)
    torch.save(metadata, HERE / "torch_zip.pth")
    torch.save(metadata, HERE / "torch_legacy.pth", _use_new_zipfile_serialization=False)
    plain = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in metadata.items()}
    np.savez_compressed(HERE / "torch_files.npz", **{k: v.numpy() for k, v in plain.items()})


if __name__ == "__main__":
    main()

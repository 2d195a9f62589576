"""Files of weights by their ending, as names and arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.config import UserError
from trainer.models.weights.torch_checkpoint import read_torch_checkpoint


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read a `.safetensors` file, or a PyTorch checkpoint under any other ending.

    Returns:
        Name -> array, as in the file. Nothing in the file is executed.

    Raises:
        UserError: no such file, the file is damaged, or the package that reads it is not installed.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    if Path(path).suffix != ".safetensors":
        return read_torch_checkpoint(path)
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise UserError(
            f'{path} needs the package safetensors: pip install "mildnet[pretrained]"'
        ) from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as a safetensors file: {error}") from None

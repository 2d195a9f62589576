"""Writes PyTorch checkpoints without PyTorch, whole ones and hostile ones.

The layouts are those of `torch.save`; `test_torch_checkpoint.py` compares with files that PyTorch
itself wrote.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {
    "f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage",
    "i4": "IntStorage", "i2": "ShortStorage", "i1": "CharStorage", "u1": "ByteStorage",
    "b1": "BoolStorage",
}  # fmt: skip
ITEMS = {name: int(code[1]) for code, name in KINDS.items()}
MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Storage:
    """A block of numbers as PyTorch keeps it; tensors may share one."""

    key: str
    data: bytes
    kind: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, right or wrong."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def storage(array: np.ndarray, key: str, kind: str | None = None) -> Storage:
    name = kind or KINDS[array.dtype.str[1:]]
    return Storage(key, array.tobytes(), name, array.size)


def tensor(array: np.ndarray, key: str) -> Tensor:
    """A tensor with a storage of its own, of the strides of the array."""
    order = "F" if array.flags.f_contiguous and array.ndim > 1 else "C"
    flat = array.ravel(order)
    strides = tuple(step // array.itemsize for step in array.strides)
    return Tensor(storage(flat, key), 0, array.shape, strides)


def state(arrays: dict[str, Any]) -> OrderedDict:
    """Turn arrays into tensors; what is no array stays as it is."""
    return OrderedDict(
        (name, tensor(value, str(n)) if isinstance(value, np.ndarray) else value)
        for n, (name, value) in enumerate(arrays.items())
    )


def _stand_ins() -> dict[str, types.ModuleType]:
    """Modules by PyTorch's names, for the pickle to refer to what it would in a real file."""
    torch, inside = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in (*KINDS.values(), "BFloat16Storage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError("written, never called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    inside._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = inside
    return {"torch": torch, "torch._utils": inside}


class _Pickler(pickle.Pickler):
    """Pickles tensors by PyTorch's recipe: a call, and the storage by reference."""

    def __init__(self, file: io.BytesIO, legacy: bool) -> None:
        super().__init__(file, protocol=2)
        self.legacy = legacy
        self.storages: dict[str, Storage] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        self.storages.setdefault(value.key, value)
        kind = getattr(sys.modules["torch"], value.kind)
        return ("storage", kind, value.key, "cpu", value.count) + ((None,) if self.legacy else ())

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        arguments = (value.storage, value.offset, value.shape, value.strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


def pickled(value: Any, *, legacy: bool = False) -> tuple[bytes, dict[str, Storage]]:
    """Return the pickle of a state dict, and the storages it refers to."""
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update(_stand_ins())
    try:
        file = io.BytesIO()
        pickler = _Pickler(file, legacy)
        pickler.dump(value)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return file.getvalue(), pickler.storages


def write_zip(path: Path, arrays: Any, *, raw: bytes | None = None, **options: Any) -> None:
    """Write the layout of PyTorch 1.6 and later; `raw` replaces the pickle."""
    value = state(arrays) if isinstance(arrays, dict) else arrays
    text, storages = pickled(value)
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", text if raw is None else raw)
        archive.writestr("archive/byteorder", "little")
        for key, block in storages.items():
            archive.writestr(f"archive/data/{key}", block.data)
        archive.writestr("archive/version", "3\n")


def write_legacy(path: Path, arrays: Any, *, raw: bytes | None = None) -> None:
    """Write the layout before PyTorch 1.6; `raw` replaces the pickle of the state dict."""
    value = state(arrays) if isinstance(arrays, dict) else arrays
    text, storages = pickled(value, legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    keys = sorted(storages)
    with path.open("wb") as file:
        for part in (MAGIC, 1001, system):
            file.write(pickle.dumps(part, protocol=2))
        file.write(text if raw is None else raw)
        file.write(pickle.dumps(keys, protocol=2))
        for key in keys:
            data = storages[key].data
            item = 2 if storages[key].kind == "BFloat16Storage" else ITEMS[storages[key].kind]
            file.write(struct.pack("<q", len(data) // item) + data)

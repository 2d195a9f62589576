"""PyTorch checkpoints as numpy arrays, without PyTorch and without running what is in the file.

A checkpoint is a pickle with raw numbers beside it, and unpickling runs whatever the pickle says.
Here a pickle has to pass twice: each of its instructions must be one that a state dict needs, and
the only names it may call on are those of :data:`ALLOWED`, which stand for harmless records of our
own. Numbers are copied out only after every size, offset and stride was found within bounds.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError

#: Largest file, and largest sum of all arrays, in bytes. The largest trunks are below 2 GiB.
MAX_BYTES = 8 * 2**30
#: Largest pickle in bytes. It holds names and shapes: a few hundred bytes for each tensor.
MAX_PICKLE = 64 * 2**20

#: Storage class in the pickle -> how its elements are stored. bfloat16, which numpy does not have,
#: is read as the upper half of a float32.
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
REBUILD = ("torch._utils", "_rebuild_tensor_v2")
ORDERED_DICT = ("collections", "OrderedDict")
#: The only names that a checkpoint may call on, as (module, name).
ALLOWED = {REBUILD, ORDERED_DICT} | {("torch", name) for name in STORAGES}

#: Entries that training scripts put the state dict under, beside epochs and optimizers.
WRAPPERS = ("state_dict", "model")

#: What the first pickle of a file holds that was written before PyTorch 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

#: Instructions that state dicts consist of. What is missing builds instances of arbitrary classes
#: (INST, OBJ, NEWOBJ), goes around the names (EXT1, ...) or does not occur.
OPCODES = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "POP_MARK",
        "DUP",
        "MEMOIZE",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
        "BINPERSID",
    ]
)


#: What zipfile raises for broken files, for passwords and for unknown versions.
BROKEN_ZIP = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, struct.error)


class _Refused(Exception):
    """The file is broken or asks for something that a checkpoint has no need of; says why."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Stands for a storage class of PyTorch in the pickle."""

    name: str

    @property
    def itemsize(self) -> int:
        return 2 if self.name == "BFloat16Storage" else np.dtype(STORAGES[self.name]).itemsize


@dataclass(frozen=True, slots=True)
class _Storage:
    """A block of `count` elements, in the file under `key`."""

    kind: _Kind
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage: element (i, j, ...) is at offset + i * strides[0] + j * strides[1]..."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Rebuild:
    """Stands for `torch._utils._rebuild_tensor_v2` in the pickle."""

    __slots__ = ()

    def __call__(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, **__: Any
    ) -> _Tensor:
        # What follows, whether gradients and hooks are wanted, is of no use here.
        if not isinstance(storage, _Storage):
            raise _Refused("a tensor without a storage")
        if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(strides)):
            raise _Refused("a tensor whose offset, shape or strides are not whole numbers from 0")
        if len(shape) != len(strides) or len(shape) > 16:
            raise _Refused(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
        tensor = _Tensor(storage, offset, tuple(shape), tuple(strides))
        if math.prod(shape) > storage.count:
            # An expanded tensor could ask for any amount of memory; weights are never stored so.
            raise _Refused(f"a tensor of {shape} over a storage of {storage.count} elements")
        if math.prod(shape):
            last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
            if last >= storage.count:
                raise _Refused(
                    f"a tensor that reaches to element {last} of a storage of {storage.count}"
                )
        return tensor


class _Unpickler(pickle.Unpickler):
    """Reads one pickle; names resolve to our own records or not at all."""

    def __init__(self, data: bytes, storages: dict[str, _Storage]) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Refused(f"it calls on {module}.{name}, which no weights need: nothing was run")
        if (module, name) == ORDERED_DICT:
            return collections.OrderedDict
        return _Rebuild() if (module, name) == REBUILD else _Kind(name)

    def persistent_load(self, pid: Any) -> _Storage:
        # ("storage", class, key, device, elements), older files add None, or a view of a storage.
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise _Refused("a reference to something that is not a storage")
        kind, key, count = pid[1], pid[2], pid[4]
        if pid[5:] not in ((), (None,)):
            raise _Refused("a view of a storage, as only PyTorch before 0.4 wrote it")
        if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_size(count):
            raise _Refused("a storage without type, key or size")
        storage = _Storage(kind, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise _Refused(f"storage {key!r} comes with two types or sizes")
        return storage


def read_torch_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Read the state dict of a PyTorch checkpoint (`.pth`, `.pt`, `.bin`) from a file.

    Both layouts are read: the zip file of PyTorch 1.6 and later, and the one before.

    Args:
        path: the file. It may hold the state dict itself or, as many training scripts write it, a
            dictionary that has it under `state_dict` or `model`.

    Returns:
        Name -> array, in the order of the file; contiguous copies of their own, of the type in the
        file (bfloat16 as float32).

    Raises:
        UserError: no such file, not a PyTorch checkpoint, one that is cut short or larger than
            :data:`MAX_BYTES`, or one that calls on anything but tensors.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _Refused(f"{size} bytes, more than {MAX_BYTES}")
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _read_zip(path)
        return _read_legacy(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except _Refused as error:
        raise UserError(f"{path} is no usable PyTorch checkpoint: {error}") from None
    except (
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        struct.error,
    ) as error:
        # What zipfile raises for broken files; a RuntimeError for passwords and unknown versions.
        raise UserError(f"{path} is no whole PyTorch checkpoint: {_line(error)}") from None


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            # Small files that unpack to large ones are not PyTorch's.
            raise _Refused("a compressed zip file; PyTorch does not compress")
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _Refused("a zip file without a data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise _Refused("it was written on a big-endian machine")
        if entries[pickles[0]].file_size > MAX_PICKLE:
            raise _Refused(f"a pickle of more than {MAX_PICKLE} bytes")
        storages: dict[str, _Storage] = {}
        found, _ = _unpickle(archive.read(pickles[0]), 0, storages)

        def fetch(storage: _Storage) -> bytes:
            info = entries.get(f"{root}data/{storage.key}")
            if info is None:
                raise _Refused(f"storage {storage.key!r} is missing")
            if info.file_size != storage.count * storage.kind.itemsize:
                raise _Refused(
                    f"storage {storage.key!r} has {info.file_size} bytes for"
                    f" {storage.count} elements"
                )
            return archive.read(info)

        return _arrays(found, fetch)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    storages: dict[str, _Storage] = {}
    magic, place = _unpickle(data, 0, {})
    if not isinstance(magic, int) or magic != LEGACY_MAGIC:
        raise _Refused("neither a zip file nor the layout before PyTorch 1.6")
    protocol, place = _unpickle(data, place, {})
    system, place = _unpickle(data, place, {})
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise _Refused(f"a layout that is not known: {protocol!r}")
    if system.get("little_endian") is not True:
        raise _Refused("it was written on a big-endian machine")
    found, place = _unpickle(data, place, storages)
    keys, place = _unpickle(data, place, {})
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise _Refused("its list of storages does not fit its tensors")
    blocks: dict[str, bytes | memoryview] = {}
    for key in keys:
        storage = storages[key]
        end = place + 8 + storage.count * storage.kind.itemsize
        if end > len(data):
            raise _Refused(f"it ends within storage {key!r}: cut short")
        if int.from_bytes(data[place : place + 8], "little") != storage.count:
            raise _Refused(f"storage {key!r} has another size than its tensors say")
        blocks[key] = memoryview(data)[place + 8 : end]
        place = end
    return _arrays(found, lambda storage: blocks[storage.key])


def _unpickle(data: bytes, start: int, storages: dict[str, _Storage]) -> tuple[Any, int]:
    """Read the pickle at `start`; return its value and the place after it."""
    stream = io.BytesIO(data)
    stream.seek(start)
    instructions = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            instructions += 1
            if opcode.name not in OPCODES:
                raise _Refused(
                    f"its pickle has an instruction {opcode.name}, which no weights need"
                )
            # Python makes room for as many remembered values as the largest number says.
            if (
                opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
                and int(argument or 0) > instructions
            ):
                raise _Refused("its pickle numbers values that it does not have")
            if stream.tell() - start > MAX_PICKLE:
                raise _Refused(f"a pickle of more than {MAX_PICKLE} bytes")
        end = stream.tell()
        return _Unpickler(data[start:end], storages).load(), end
    except _Refused:
        raise
    except Exception as error:
        # Broken bytes end in nearly any exception: ValueError, KeyError, UnicodeDecodeError, ...
        raise _Refused(
            f"its pickle cannot be read ({_line(error)}): cut short or not one"
        ) from None


def _arrays(found: Any, fetch: Callable[[_Storage], bytes | memoryview]) -> dict[str, np.ndarray]:
    """Copy the tensors of a state dict out of their storages, of which each is fetched once."""
    if isinstance(found, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(found.get(wrapper), Mapping):
                found = found[wrapper]
                break
    if not isinstance(found, Mapping):
        raise _Refused(f"it holds a {type(found).__name__}, not a dictionary of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise _Refused(f"its entry {name!r} is a {type(value).__name__}, not a tensor")
    total = sum(math.prod(x.shape) * x.storage.kind.itemsize for x in found.values())
    if total > MAX_BYTES:
        raise _Refused(f"its tensors take {total} bytes, more than {MAX_BYTES}")
    blocks: dict[str, np.ndarray] = {}
    arrays = {}
    for name, tensor in found.items():
        storage = tensor.storage
        if storage.key not in blocks:
            blocks[storage.key] = _decode(fetch(storage), storage.kind)
        block = blocks[storage.key]
        view = np.lib.stride_tricks.as_strided(
            # An empty tensor may start behind the end; it reads nothing.
            block[tensor.offset :],
            tensor.shape,
            [step * block.itemsize for step in tensor.strides],
            writeable=False,
        )
        arrays[name] = view.copy(order="C")
    return arrays


def _decode(data: bytes | memoryview, kind: _Kind) -> np.ndarray:
    if kind.name == "BFloat16Storage":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, STORAGES[kind.name])


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_size, values))


def _line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0]
    return text or type(error).__name__

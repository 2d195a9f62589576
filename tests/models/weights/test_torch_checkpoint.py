"""Checkpoints that PyTorch wrote, and files that want to do harm."""

import builtins
import contextlib
import io
import os
import pickle
import shutil
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models.weights.torch_files import (
    MAGIC,
    Storage,
    Tensor,
    pickled,
    state,
    storage,
    tensor,
    write_legacy,
    write_zip,
)
from trainer.config import UserError
from trainer.models.weights import torch_checkpoint
from trainer.models.weights.torch_checkpoint import read_torch_checkpoint

REFERENCE = Path(__file__).resolve().parents[2] / "reference"
LAYOUTS = pytest.mark.parametrize("write", [write_zip, write_legacy])
ARRAY = np.arange(12, dtype="f4").reshape(3, 4)


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_torch_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_files_that_pytorch_wrote(file):
    """All types, permuted and strided views, shared storages, a scalar, an empty tensor."""
    found = read_torch_checkpoint(REFERENCE / file)
    with np.load(REFERENCE / "torch_files.npz") as want:
        assert list(found) == list(want)
        for name, array in found.items():
            assert array.dtype == want[name].dtype, name
            assert array.shape == want[name].shape, name
            np.testing.assert_array_equal(array, want[name], err_msg=name)
            assert array.flags.c_contiguous
            assert array.flags.owndata
            assert array.flags.writeable
    assert "torch" not in sys.modules


@LAYOUTS
def test_our_writer_writes_what_pytorch_does(write, tmp_path):
    arrays = {"a": ARRAY, "b": np.asfortranarray(ARRAY), "c": np.arange(3), "d": np.array(True)}
    write(tmp_path / "x.pth", arrays)
    found = read_torch_checkpoint(tmp_path / "x.pth")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@LAYOUTS
def test_views_of_one_storage_become_arrays_of_their_own(write, tmp_path):
    block = storage(ARRAY.ravel(), "0")
    views = OrderedDict(
        whole=Tensor(block, 0, (3, 4), (4, 1)),
        turned=Tensor(block, 0, (4, 3), (1, 4)),
        corner=Tensor(block, 5, (2, 2), (4, 2)),
        none=Tensor(block, 12, (0, 4), (4, 1)),
    )
    write(tmp_path / "x.pth", views)
    found = read_torch_checkpoint(str(tmp_path / "x.pth"))
    np.testing.assert_array_equal(found["turned"], ARRAY.T)
    np.testing.assert_array_equal(found["corner"], ARRAY[1:, 1::2])
    assert found["none"].shape == (0, 4)
    found["whole"][:] = 0
    np.testing.assert_array_equal(found["turned"], ARRAY.T)


@LAYOUTS
def test_bfloat16(write, tmp_path):
    # Sign, eight bits of exponent, seven of fraction: 1.0, -2.5, the largest, a subnormal, NaN.
    bits = np.array([0x3F80, 0xC020, 0x7F7F, 0x0001, 0x7FC0], "<u2")
    write(tmp_path / "x.pth", {"x": Tensor(storage(bits, "0", "BFloat16Storage"), 0, (5,), (1,))})
    found = read_torch_checkpoint(tmp_path / "x.pth")["x"]
    assert found.dtype == np.float32
    want = [1.0, -2.5, (2 - 2**-7) * 2.0**127, 2.0**-133, np.nan]
    np.testing.assert_array_equal(found, np.array(want, "f4"))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@LAYOUTS
def test_a_state_dict_beside_epochs(write, wrapper, tmp_path):
    write(tmp_path / "x.pth", OrderedDict({"epoch": 3, wrapper: state({"a": ARRAY})}))
    found = read_torch_checkpoint(tmp_path / "x.pth")
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], ARRAY)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(flag: Path) -> dict[str, bytes]:
    """Pickles that would make the file `flag` if anything in them were run."""
    command = f"touch {flag}"
    code = f"open({str(flag)!r}, 'w')"
    ordered = "ccollections\nOrderedDict\n"
    return {
        "os.system": pickle.dumps({"a": Calls(os.system, command)}, protocol=2),
        "builtins.eval": pickle.dumps({"a": Calls(eval, code)}, protocol=2),
        "builtins.exec, protocol 0": pickle.dumps({"a": Calls(exec, code)}, protocol=0),
        "builtins.getattr": pickle.dumps(
            Calls(getattr, Calls(builtins.__import__, "os"), "system"), protocol=2
        ),
        "nested": pickle.dumps({"a": [{"b": (1, Calls(os.system, command))}]}, protocol=2),
        "as an argument of what is allowed": pickle.dumps(
            OrderedDict(a=Calls(OrderedDict, [("a", Calls(os.system, command))])), protocol=2
        ),
        "inside a storage's reference": b"\x80\x02" + f"cos\nsystem\n(V{command}\ntRQ.".encode(),
        "as state": f"{ordered})R(cos\nsystem\n(V{command}\ntRdb.".encode(),
        "instance opcode": f"(V{command}\nios\nsystem\n.".encode(),
        "object opcode": f"(cos\nsystem\nV{command}\no.".encode(),
        "new opcode": f"cos\nsystem\n(V{command}\nt".encode() + b"\x81.",
        "stack global": pickle.dumps({"a": Calls(os.system, command)}, protocol=4),
        "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__init__.x\x93.",
        "dotted module": b"\x80\x04\x8c\x05torch\x8c\x10_utils.os.system\x93.",
        "after a value that is thrown away": f"I1\n0cos\nsystem\n(V{command}\ntR.".encode(),
    }


@pytest.mark.parametrize("attack", attacks(Path("flag")))
@LAYOUTS
def test_nothing_in_a_pickle_is_run(write, attack, tmp_path, monkeypatch):
    def called(*_, **__):
        raise AssertionError("the pickle was run")

    flag = tmp_path / "flag"
    raw = attacks(flag)[attack]
    write(tmp_path / "x.pth", {}, raw=raw)
    monkeypatch.setattr(os, "system", called)
    monkeypatch.setattr(builtins, "eval", called)
    monkeypatch.setattr(builtins, "exec", called)
    message = refusal(tmp_path / "x.pth")
    monkeypatch.undo()
    assert not flag.exists()
    assert any(
        part in message
        for part in ("which no weights need", "calls on posix.system", "calls on builtins.")
    ), message


def test_the_attacks_are_attacks(tmp_path):
    """With the plain unpickler they do run: what is tested above is not harmless by accident."""
    flag = tmp_path / "flag"
    ran = []
    for name, raw in attacks(flag).items():
        loader = pickle.Unpickler(io.BytesIO(raw))  # noqa: S301 - of the bytes above
        loader.persistent_load = lambda pid: pid
        with contextlib.suppress(Exception):
            loader.load()
        if flag.exists():
            ran.append(name)
            flag.unlink()
    assert len(ran) >= 8, ran


def test_what_is_named_is_refused_by_name(tmp_path):
    class Stranger:
        def __reduce__(self):
            return shutil.rmtree, ("/nowhere",)

    write_zip(tmp_path / "x.pth", {}, raw=pickle.dumps({"a": Stranger()}, protocol=2))
    assert "it calls on shutil.rmtree, which no weights need: nothing was run" in refusal(
        tmp_path / "x.pth"
    )


def test_the_legacy_header_is_read_as_carefully(tmp_path):
    path = tmp_path / "x.pth"
    flag = tmp_path / "flag"
    attack = attacks(flag)["os.system"]
    good = [pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, {"little_endian": True})]
    for place in range(3):
        path.write_bytes(b"".join([*good[:place], attack, *good[place + 1 :]]))
        assert "posix.system" in refusal(path)
    assert not flag.exists()


def test_allowed_classes_cannot_be_changed(tmp_path):
    """BUILD sets attributes: of a state dict at most, never of what reads the next file."""
    for target in ("torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage"):
        raw = f"c{target}\n(N(S'__call__'\nNdtb.".encode()
        write_zip(tmp_path / "x.pth", {}, raw=raw)
        refusal(tmp_path / "x.pth")
        write_zip(tmp_path / "y.pth", {"a": ARRAY})
        np.testing.assert_array_equal(read_torch_checkpoint(tmp_path / "y.pth")["a"], ARRAY)


BLOCK = storage(ARRAY.ravel(), "0")


@pytest.mark.parametrize(
    "view",
    [
        Tensor(BLOCK, 0, (13,), (1,)),
        Tensor(BLOCK, 1, (3, 4), (4, 1)),
        Tensor(BLOCK, 0, (3, 4), (5, 1)),
        Tensor(BLOCK, 12, (), ()),
        Tensor(BLOCK, -1, (3,), (1,)),
        Tensor(BLOCK, 11, (3,), (-1,)),
        Tensor(BLOCK, 0, (-3,), (1,)),
        Tensor(BLOCK, 0, (3, 4), (4,)),
        Tensor(BLOCK, 0, (2**40, 2**40), (0, 0)),
        Tensor(BLOCK, 0, (100,), (0,)),
        Tensor(BLOCK, 2**62, (1,), (1,)),
        Tensor(BLOCK, 0.0, (3,), (1,)),
        Tensor(BLOCK, 0, (3.0,), (1,)),
        Tensor(BLOCK, 0, "3", "1"),
        Tensor(BLOCK, True, (3,), (1,)),
        Tensor(None, 0, (3,), (1,)),
        Tensor(BLOCK, 0, (1,) * 17, (1,) * 17),
    ],
)
@LAYOUTS
def test_views_out_of_bounds(write, view, tmp_path):
    write(tmp_path / "x.pth", OrderedDict(good=tensor(ARRAY, "1"), bad=view))
    assert "no usable PyTorch checkpoint: a tensor " in refusal(tmp_path / "x.pth")


@LAYOUTS
def test_storages_that_are_not_what_they_say(write, tmp_path):
    for count in (11, 13, 10**9):
        block = replace(BLOCK, count=count)
        write(tmp_path / "x.pth", OrderedDict(a=Tensor(block, 0, (2,), (1,))))
        assert "storage '0'" in refusal(tmp_path / "x.pth")
    for other in (replace(BLOCK, kind="IntStorage"), replace(BLOCK, count=3)):
        views = OrderedDict(a=Tensor(BLOCK, 0, (2,), (1,)), b=Tensor(other, 0, (2,), (1,)))
        write(tmp_path / "x.pth", views)
        assert "comes with two types or sizes" in refusal(tmp_path / "x.pth")
    write(
        tmp_path / "x.pth", OrderedDict(a=Tensor(Storage("0", b"", "FloatStorage", -1), 0, (), ()))
    )
    assert "without type, key or size" in refusal(tmp_path / "x.pth")


def test_a_storage_that_is_missing(tmp_path):
    text, _ = pickled(state({"a": ARRAY}))
    write_zip(tmp_path / "x.pth", {}, raw=text)
    assert "storage '0' is missing" in refusal(tmp_path / "x.pth")
    text, _ = pickled(state({"a": ARRAY}), legacy=True)
    write_legacy(tmp_path / "x.pth", {}, raw=text)
    assert "list of storages does not fit" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_files_cut_short(file, tmp_path):
    whole = (REFERENCE / file).read_bytes()
    path = tmp_path / "cut.pth"
    for share in np.linspace(0, 1, 60, endpoint=False):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "PyTorch checkpoint" in refusal(path)
    path.write_bytes(whole[:-1])
    refusal(path)


@pytest.mark.parametrize("file", ["torch_zip.pth", "torch_legacy.pth"])
def test_flipped_bytes_are_refused_or_change_numbers_only(file, tmp_path):
    whole = (REFERENCE / file).read_bytes()
    path = tmp_path / "flipped.pth"
    random = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"PK\x03\x04", b"not a checkpoint" * 9, pickle.dumps({"a": 1}), b"\x89HDF\r\n"],
)
def test_foreign_files(content, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    assert "PyTorch checkpoint" in refusal(path)


def test_other_zip_files(tmp_path):
    path = tmp_path / "x.pth"
    np.savez(path.with_suffix(".npz"), a=ARRAY)
    assert "without a data.pkl" in refusal(path.with_suffix(".npz"))
    write_zip(path, {"a": np.zeros(1 << 20, "f4")}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)


def test_no_file_and_a_folder(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing.pth")
    assert "cannot be read" in refusal(tmp_path)


@LAYOUTS
def test_what_is_no_state_dict(write, tmp_path):
    path = tmp_path / "x.pth"
    for value, said in (
        ([1, 2], "a list"),
        (OrderedDict(epoch=3), "'epoch' is a int"),
        (OrderedDict(a=state({"b": ARRAY})), "'a' is a OrderedDict"),
        (OrderedDict([(3, tensor(ARRAY, "0"))]), "entry 3"),
    ):
        write(path, OrderedDict(), raw=pickled(value, legacy=write is write_legacy)[0])
        if write is write_zip or not pickled(value)[1]:
            assert said in refusal(path)


def test_sizes_are_limited(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    write_zip(path, {"a": ARRAY})
    monkeypatch.setattr(torch_checkpoint, "MAX_BYTES", 100)
    assert "bytes, more than 100" in refusal(path)
    monkeypatch.undo()
    monkeypatch.setattr(torch_checkpoint, "MAX_PICKLE", 20)
    assert "a pickle of more than 20 bytes" in refusal(path)
    write_legacy(path, {f"long name of a weight {n}": ARRAY for n in range(20)})
    assert "a pickle of more than 20 bytes" in refusal(path)


def test_many_views_of_one_storage_are_counted(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    block = storage(np.zeros(1000, "f4"), "0")
    write_zip(path, OrderedDict((str(n), Tensor(block, 0, (1000,), (1,))) for n in range(20)))
    assert len(read_torch_checkpoint(path)) == 20
    monkeypatch.setattr(torch_checkpoint, "MAX_BYTES", 50_000)
    assert "its tensors take 80000 bytes" in refusal(path)


def test_a_pickle_that_asks_for_memory(tmp_path):
    """LONG_BINPUT with a huge number makes Python's unpickler reserve gigabytes."""
    raw = b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."
    write_zip(tmp_path / "x.pth", {}, raw=raw)
    assert "numbers values that it does not have" in refusal(tmp_path / "x.pth")


def test_big_endian_files(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state({"a": ARRAY}))[0])
        archive.writestr("archive/byteorder", "big")
    assert "big-endian" in refusal(path)
    parts = (MAGIC, 1001, {"little_endian": False})
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    assert "big-endian" in refusal(path)

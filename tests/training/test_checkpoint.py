"""Checkpoints are whole or refused."""

import os
import weakref
from collections.abc import Mapping

import numpy as np
import pytest

from trainer.config import UserError
from trainer.training import checkpoint
from trainer.training.checkpoint import CheckpointFolder

ARRAYS = {
    "model/a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "steps": np.array(2**40 + 1, np.int64),
    "optimizer/0/00001/v": np.array([1e-30, -0.0], np.float32),
}


def test_what_is_saved_is_what_is_loaded_bit_for_bit(tmp_path):
    path = str(tmp_path / "a.npz")
    checkpoint.save(path, ARRAYS, {"step": 7, "best_score": None})
    arrays, meta = checkpoint.load(path)
    assert meta == {"step": 7, "best_score": None}
    assert set(arrays) == set(ARRAYS)
    for key, value in ARRAYS.items():
        assert arrays[key].dtype == value.dtype
        assert arrays[key].tobytes() == value.tobytes()


class Made(Mapping):
    """Arrays that are made when they are asked for, one of which at a time is there."""

    def __init__(self):
        self.last = lambda: None

    def __getitem__(self, key):
        assert self.last() is None, "the array before is still held"
        made = np.full(1000, ord(key), np.float32)
        self.last = weakref.ref(made)
        return made

    def __iter__(self):
        return iter("abc")

    def __len__(self):
        return 3


def test_arrays_are_written_one_after_the_other(tmp_path):
    path = str(tmp_path / "a.npz")
    checkpoint.save(path, Made(), {"step": 1})
    arrays, _ = checkpoint.load(path)
    assert {key: float(value.mean()) for key, value in arrays.items()} == {
        "a": 97.0,
        "b": 98.0,
        "c": 99.0,
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, share):
    path = tmp_path / "a.npz"
    checkpoint.save(str(path), ARRAYS, {"step": 1})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"a\.npz") as error:
        checkpoint.load(str(path))
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a.npz"
    checkpoint.save(str(path), {"w": np.ones(1000, np.float32)}, {"step": 1})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated, or not a checkpoint"):
        checkpoint.load(str(path))


def test_foreign_files_are_refused(tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    other = tmp_path / "other.npz"
    np.savez(other, weights=np.ones(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, meta=np.array([{"step": 1}], object))
    for path in (text, other, pickled, tmp_path / "missing.npz"):
        with pytest.raises(UserError, match=path.name):
            checkpoint.load(str(path))


def test_values_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(FloatingPointError, match="bad"):
        checkpoint.save(str(tmp_path / "a.npz"), {"bad": np.array([1.0, np.nan])}, {"step": 1})
    assert os.listdir(tmp_path) == []


def test_the_newest_few_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "checkpoints"), keep=2)
    assert folder.newest() is None
    for step in (1, 2, 3, 10):
        folder.save(ARRAYS, {"step": step}, best=step == 2)
    assert folder.steps() == [3, 10]
    assert folder.newest()[1]["step"] == 10
    assert checkpoint.load(folder.best)[1]["step"] == 2


def test_a_damaged_newest_checkpoint_names_the_way_on(tmp_path):
    folder = CheckpointFolder(str(tmp_path), keep=3)
    for step in (1, 2):
        folder.save(ARRAYS, {"step": step})
    damaged = tmp_path / "step-000000002.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(UserError, match="remove it to go on from step 1"):
        folder.newest()
    assert damaged.exists()


def test_leftovers_of_a_killed_writer_are_swept_and_nothing_else(tmp_path):
    folder = CheckpointFolder(str(tmp_path))
    folder.save(ARRAYS, {"step": 5}, best=True)
    (tmp_path / ".step-000000006.npz.x1y2").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    folder.sweep()
    assert sorted(os.listdir(tmp_path)) == ["best.npz", "notes.txt", "step-000000005.npz"]


def test_a_full_disk_ends_in_one_line_and_loses_nothing(tmp_path, monkeypatch):
    folder = CheckpointFolder(str(tmp_path))
    folder.save(ARRAYS, {"step": 1})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left on device"):
        folder.save(ARRAYS, {"step": 2})
    assert os.listdir(tmp_path) == ["step-000000001.npz"]
    assert folder.newest()[1]["step"] == 1

"""A whole job with a memory of batches, and with the copy of the model that fills it."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.launch import job

from .conftest import small_config

STEPS, SAVED, SIZE = 6, 3, 50


def config(pictures, *overrides):
    return small_config(
        pictures,
        "loss.margin=",
        "loss=contrastive_similarity",
        "memory=xbm",
        f"memory.size={SIZE}",
        "memory.momentum=0.9",
        "batch_size=16",
        "val_share=0.2",
        f"steps={STEPS}",
        "train.validate_every=3",
        "train.checkpoint_every=3",
        "train.log_every=1",
        *overrides,
    )


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    return train(pictures, tmp_path_factory.mktemp("whole"))


def train(pictures, run_dir):
    return Path(job.run(config(pictures), run_dir=str(run_dir), training_only=True).run_dir)


def arrays(run_dir, step):
    with np.load(run_dir / "checkpoints" / f"step-{step:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_the_memory_fills_and_is_kept(whole, pictures):
    found, rows = arrays(whole, STEPS), config(pictures).batch_size
    assert found["loss/00002/filled"] == min(SIZE, rows * STEPS)
    assert found["loss/00003/batches"] == STEPS
    # The model's embeddings are of unit length, and the last of them stand at the end.
    lengths = np.linalg.norm(found["loss/00000/embeddings"][-rows:], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-4)
    weight = next(name for name in found if name.startswith("model/") and "kernel" in name)
    copy = next(n for n in found if n.startswith("momentum/") and n.endswith(weight[6:]))
    assert not np.array_equal(found[weight], found[copy])


def test_validation_measures_batches_without_the_memory(whole):
    rows = {int(row["step"]): row for row in csv.DictReader((whole / "training.csv").open())}
    assert len(rows) == STEPS
    # To an untrained net all pictures are alike: a negative costs about 1, and many are remembered.
    assert float(rows[STEPS]["val_loss"]) < float(rows[STEPS]["loss"])


def test_a_job_that_went_on_ends_the_same(whole, pictures, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    for name in (f"step-{STEPS:09d}.npz", "best.npz"):
        (copy / "checkpoints" / name).unlink(missing_ok=True)
    train(pictures, copy)
    expected, found = arrays(whole, STEPS), arrays(copy, STEPS)
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name


def test_the_variables_are_listed(whole):
    rows = {row["variable"]: row for row in csv.DictReader((whole / "variables.csv").open())}
    memory = rows["loss/CrossBatchMemory/embeddings"]
    assert (memory["shape"], memory["trained"]) == (f"{SIZE} x 32", "no")

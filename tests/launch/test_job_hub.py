"""A whole job on a SavedModel: gone on with exactly, and used without the folder it came from."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.models.saved_models import make_v1
from trainer.launch import job
from trainer.launch.evaluating import load_model
from trainer.launch.run_folder import RunFolder
from trainer.models import saved_model
from trainer.serving.embedder import Embedder

from .conftest import small_config

STEPS = 2


@pytest.fixture(scope="module")
def config(pictures, tmp_path_factory):
    folder = make_v1(tmp_path_factory.mktemp("hub") / "module")
    changes = {"model_id": "hub_embedding", "model.hub_handle": str(folder), "steps": STEPS}
    every = {"train.validate_every": STEPS, "train.checkpoint_every": 1, "train.log_every": 1}
    return small_config(pictures, "model.trunk=", **changes, **every)


def arrays(run_dir, step):
    with np.load(Path(run_dir) / "checkpoints" / f"step-{step:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_it_is_gone_on_with_exactly_and_does_without_the_folder(config, tmp_path, monkeypatch):
    whole = job.run(config, run_dir=str(tmp_path / "whole")).run_dir
    first, last = arrays(whole, 1), arrays(whole, STEPS)
    for name in ("model/hub/conv/kernel", "model/hub/norm/moving_mean"):
        assert (first[name] != last[name]).any(), name

    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    for name in (f"step-{STEPS:09d}.npz", "best.npz"):  # as a crash after a step leaves it
        (copy / "checkpoints" / name).unlink(missing_ok=True)
    job.run(config, run_dir=str(copy))
    again = arrays(copy, STEPS)
    assert set(again) == set(last)
    for name, value in last.items():
        assert value.tobytes() == again[name].tobytes(), name

    shutil.rmtree(config.parameters["model"]["hub_handle"])
    monkeypatch.setattr(saved_model, "_SEEN", {})
    model = load_model(RunFolder(whole))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    found = Embedder(f"{whole}/model").embed_images(images)
    np.testing.assert_allclose(model(images), found, atol=1e-5)

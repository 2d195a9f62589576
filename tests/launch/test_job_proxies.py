"""A whole job with a loss that has weights of its own."""

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.config import UserError
from trainer.launch import job

from .conftest import small_config

STEPS = 6
PROXIES = "loss/00000/proxies"


def config(pictures, *overrides):
    return small_config(
        pictures,
        "loss.margin=",
        "loss=proxy_anchor",
        f"steps={STEPS}",
        "train.loss_lr_scale=100",
        "train.validate_every=3",
        "train.checkpoint_every=3",
        "train.log_every=1",
        *overrides,
    )


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    return Path(job.run(config(pictures), run_dir=str(tmp_path_factory.mktemp("whole"))).run_dir)


def arrays(run_dir, step):
    with np.load(run_dir / "checkpoints" / f"step-{step:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_the_proxies_of_the_classes_trained_on_are_trained(whole):
    facts = json.loads((whole / "environment.json").read_text())["data"]
    middle, last = arrays(whole, 3)[PROXIES], arrays(whole, STEPS)[PROXIES]
    assert middle.shape == (facts["train"]["classes"], 32)
    # Adam moves each number by up to the learning rate a step, here 100 times 0.003.
    assert 0.1 < np.abs(last - middle).max() < 3 * 0.3 * 1.5
    rows = list(csv.DictReader((whole / "training.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    # Recall decides: validation is of other classes, of which there are no proxies.
    assert float(rows[2]["recall_at_1"]) > 0
    assert not rows[2]["val_loss"]


def test_a_job_that_went_on_ends_with_the_same_proxies(whole, pictures, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    # As a crash after the third step would have left it.
    for name in (f"step-{STEPS:09d}.npz", "best.npz"):
        (copy / "checkpoints" / name).unlink()
    with caplog.at_level(logging.INFO):
        job.run(config(pictures), run_dir=str(copy))
    assert "going on from step 3" in caplog.text
    assert "proxy_anchor has proxies of the classes trained on alone" in caplog.text
    expected, found = arrays(whole, STEPS), arrays(copy, STEPS)
    assert PROXIES in expected
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name


def test_a_loss_of_classes_never_seen_cannot_decide(pictures, tmp_path):
    with pytest.raises(UserError, match=r"train\.monitor=val_loss can't be measured.*recall_at_1"):
        job.run(config(pictures, "train.monitor=val_loss"), run_dir=str(tmp_path / "run"))

"""Whole trainings with the softmax losses over classes, over all of them or over some."""

import json

import numpy as np
import pytest

from trainer.config import UserError
from trainer.launch import job

from .conftest import small_config


def config(pictures, loss, *overrides):
    return small_config(
        pictures,
        "loss.margin=",
        f"loss={loss}",
        "batch_size=8",
        "steps=2",
        "optimizer=adamw",
        "train.loss_lr_scale=10",
        "train.validate_every=2",
        "train.checkpoint_every=1",
        *overrides,
    )


@pytest.mark.parametrize(
    ("loss", "overrides"),
    [
        ("arcface", ["loss.margin=none"]),
        ("subcenter_arcface", ["loss.sampled_classes=16", "train.accumulate=2"]),
        ("cosface", ["loss.sampled_classes=8", "train.precision=mixed_bfloat16"]),
        ("normalized_softmax", []),
    ],
)
def test_a_job_of_two_steps(pictures, tmp_path, loss, overrides):
    result = job.run(
        config(pictures, loss, *overrides), run_dir=str(tmp_path / "run"), training_only=True
    )
    assert result.steps == 2
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())["data"]["train"]
    each = 3 if loss == "subcenter_arcface" else 1
    shape = (each * facts["classes"], 32)
    saved = []
    for step in (1, 2):
        with np.load(tmp_path / "run" / "checkpoints" / f"step-{step:09d}.npz") as archive:
            saved.append({key: archive[key] for key in archive.files})
    moved = np.abs(saved[1]["loss/00000/proxies"] - saved[0]["loss/00000/proxies"]).max(axis=1) > 0
    slots = [key for key, value in saved[1].items() if "rows/" in key and value.shape == shape]
    sampled = sum(int(text.partition("=")[2]) for text in overrides if "sampled" in text)
    assert len(slots) == (2 if sampled else 0)
    assert moved.sum() == (each * sampled or len(moved))
    table = (tmp_path / "run" / "variables.csv").read_text().splitlines()
    (row,) = [line for line in table if "proxies" in line]
    assert f"{shape[0]} x 32,{shape[0] * 32},yes,yes" in row


def test_fewer_sampled_classes_than_images_of_a_step_end_a_job_at_once(pictures, tmp_path):
    few = config(pictures, "cosface", "loss.sampled_classes=12", "train.accumulate=2")
    with pytest.raises(UserError, match=r"loss.sampled_classes=12 is below the 16 images"):
        job.run(few, run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

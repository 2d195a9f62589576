"""A training process that is killed at any moment, started again, ends with the same weights."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from .conftest import small_config

ROOT = Path(__file__).parents[2]
STEPS = 40


def start(config_file, run_dir):
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.task", str(config_file), "--job-dir", str(run_dir)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]


def last_step(run_dir):
    try:
        lines = (run_dir / "training.csv").read_text().splitlines()
        return int(lines[-1].split(",")[0])
    except (OSError, ValueError, IndexError):
        return 0


def kill_after(process, run_dir, step, delay, number):
    """Send a signal `delay` seconds after the log has reached `step`."""
    give_up = time.monotonic() + 300
    while last_step(run_dir) < step and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    process.communicate(timeout=300)
    return process.returncode


def final_arrays(run_dir):
    with np.load(run_dir / "checkpoints" / f"step-{STEPS:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def job_file(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    config = small_config(
        pictures,
        f"steps={STEPS}",
        "model.hidden=16",
        "model.dropout=0.3",
        "augment=mildnet",
        "loss=triplet_margin",
        "loss.margin=0.2",
        "miner=distance_weighted",
        "miner.positives=2",
        "sampler.category_share=0.5",
        # Two products a batch: of one category there are four at most.
        "batch_size=8",
        "train.checkpoint_every=5",
        "train.log_every=1",
        "train.ema=0.9",
        "schedule=cosine",
    )
    path = folder / "kill.cnf"
    path.write_text(config.to_cnf())
    return path


@pytest.fixture(scope="module")
def undisturbed(job_file, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(job_file, run_dir))
    return run_dir


def test_sigkill_at_random_points_changes_nothing(job_file, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    rng = random.Random(20241)
    for step in sorted(rng.sample(range(1, STEPS - 5), 3)):
        code = kill_after(
            start(job_file, run_dir), run_dir, step, rng.random() * 0.1, signal.SIGKILL
        )
        assert code == -signal.SIGKILL
        assert last_step(run_dir) < STEPS
    finish(start(job_file, run_dir))
    expected, found = final_arrays(undisturbed), final_arrays(run_dir)
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name
    for name in ("neighbours.json", "training.csv"):
        texts = [(folder / name).read_text() for folder in (undisturbed, run_dir)]
        if name == "training.csv":
            # All but the speed, the sixth column, is the same to the letter.
            texts = [
                [line.split(",")[:5] + line.split(",")[6:] for line in text.splitlines()]
                for text in texts
            ]
        assert texts[0] == texts[1]


def test_another_seed_gives_other_weights(job_file, undisturbed, tmp_path):
    """The check that the comparison above can fail."""
    text = job_file.read_text().replace("seed=0", "seed=1")
    assert text != job_file.read_text()
    other = tmp_path / "seed.cnf"
    other.write_text(text)
    finish(start(other, tmp_path / "run"))
    one, two = final_arrays(undisturbed), final_arrays(tmp_path / "run")
    assert any(not np.array_equal(one[name], two[name]) for name in one if "kernel" in name)


def test_sigterm_saves_the_step_it_came_at(job_file, tmp_path):
    run_dir = tmp_path / "run"
    code = kill_after(start(job_file, run_dir), run_dir, 7, 0, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    saved = max(int(path.stem[5:]) for path in (run_dir / "checkpoints").glob("step-*.npz"))
    assert saved == last_step(run_dir) < STEPS

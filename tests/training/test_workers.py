"""Two worker processes on this machine give the losses of one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.training.loop import fit

from . import tasks
from .worker import Losses

ROOT = Path(__file__).parents[2]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_two_workers_train_as_one_device_does(tmp_path):
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    workers = []
    for number in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": number}}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.worker", str(tmp_path / "workers")],
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output[-3000:]
    # Only the chief, the first worker, reports and writes.
    line = next(line for line in outputs[0].splitlines() if line.startswith("LOSSES "))
    found = json.loads(line.removeprefix("LOSSES "))
    assert "LOSSES []" in outputs[1]

    losses = Losses()
    strategy, task = tasks.make_task(
        tmp_path / "one", steps=6, trackers=[losses], log_every=1, model={"norm": False}
    )
    with strategy.scope():
        fit(task)
    assert len(found) == 6
    assert len(set(found)) == 6
    assert found == pytest.approx(losses.values, abs=1e-5)
    assert (tmp_path / "workers" / "checkpoints" / "step-000000006.npz").exists()

"""A whole job on two machines, as Vertex AI starts it: one run, written by the chief alone."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.training.test_workers import ROOT, free_ports

from .conftest import small_config

#: Permissions of what a machine writes tell which one it was.
MASKS = {"workerpool0": 0o022, "workerpool1": 0o077}


def start(machine: str, ports: list[int], arguments: list[str]) -> subprocess.Popen:
    pools = {pool: [f"localhost:{port}"] for pool, port in zip(MASKS, ports, strict=True)}
    told = {"cluster": pools, "task": {"type": machine, "index": 0}, "environment": "cloud"}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.task", *arguments],
        cwd=ROOT,
        env={**os.environ, "CLUSTER_SPEC": json.dumps(told), "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=MASKS[machine],
    )


def test_a_whole_job_on_two_machines_is_one_run_that_the_chief_writes(pictures, tmp_path):
    changes = {"steps": 4, "train.validate_every": 2, "train.checkpoint_every": 2}
    config = small_config(pictures, **changes, **{"train.strategy": "multiworker"})
    (tmp_path / "job.cnf").write_text(config.to_cnf())
    run = tmp_path / "run"
    arguments = [str(tmp_path / "job.cnf"), "--job-dir", str(run)]
    ports = free_ports(2)
    machines = [start(machine, ports, arguments) for machine in MASKS]
    outputs = [machine.communicate(timeout=400)[0] for machine in machines]
    for machine, output in zip(machines, outputs, strict=True):
        assert machine.returncode == 0, output[-3000:]

    for name in ("evaluation.json", "model/saved_model.pb", "index/meta.json", "report.html"):
        assert (run / name).is_file(), name
    written = [path for path in run.rglob("*") if path.is_file()]
    others = [path for path in written if not path.stat().st_mode & stat.S_IROTH]
    assert not others, others
    steps = [line.split(",")[0] for line in Path(run / "training.csv").read_text().splitlines()]
    assert steps == ["step", "2", "4"]

"""Small searches, and jobs that are done in no time: what the tests of tuning share.

As a program it works at a study as one of several processes, or as one that is killed:
`python -m tests.launch.tuning.searches FOLDER TRIALS SECONDS`, where FOLDER holds `job.cnf` and
`space.yaml`. Each step of its jobs takes SECONDS and is written to `steps.log` in the trial's run
folder, which serves as its checkpoint.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trainer.launch.tuning.space import Space
from trainer.launch.tuning.study import Study, StudyOptions
from trainer.launch.tuning.trial import Search

JOB = """
model_id="mildnet"
model.trunk="convnet_small(widths=(8, 16))"
dataset="synthetic"
loss="triplet_semihard"
loss.margin=0.2
optimizer="adam"
"""
SPACE = """
lr: {low: 1e-4, high: 1, log: true}
batch_size: {choices: [16, 32]}
"""
VALIDATIONS = 4


@dataclass(frozen=True)
class Made:
    """What a job says of itself, as `JobResult` does."""

    best_score: float | None
    best_step: int
    steps: int
    stopped_early: bool = False


def write_files(folder: Path, space: str = SPACE, job: str = JOB) -> tuple[Path, Path]:
    """Write the space and the job of a search, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(space)
    (folder / "job.cnf").write_text(job)
    return folder / "space.yaml", folder / "job.cnf"


def make_search(folder: Path, space: str = SPACE, job: str = JOB, **changes) -> Search:
    """Return a search in `folder/tune`."""
    return Search.of(Space(*write_files(folder, space, job)), str(folder / "tune"), **changes)


def quality(config) -> float:
    """The score that a job comes to: the nearer its rate to 0.01, the better."""
    return 0.9 - 0.2 * abs(math.log10(config.lr) + 2)


def quick_job(config, run_dir, *, training_only, stop_early):
    """Validate four times, each time closer to the score that the job comes to."""
    for number in range(1, VALIDATIONS + 1):
        score = quality(config) * number / VALIDATIONS
        if stop_early(10 * number, {"loss": 1.0, "recall_at_1": score}):
            return Made(score, 10 * number, 10 * number, stopped_early=True)
    return Made(score, 10 * VALIDATIONS, 10 * VALIDATIONS)


def slow_job(config, run_dir, *, training_only, stop_early, seconds):
    """As `quick_job`, but it takes its time, and goes on where it was killed."""
    log = Path(run_dir, "steps.log")
    done = len(log.read_text().splitlines()) if log.exists() else 0
    for number in range(done + 1, VALIDATIONS + 1):
        time.sleep(seconds)
        score = quality(config) * number / VALIDATIONS
        stop_early(10 * number, {"recall_at_1": score})
        with log.open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
    return Made(quality(config), 10 * VALIDATIONS, 10 * VALIDATIONS)


def main() -> None:
    folder, trials, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    search = Search.of(Space(folder / "space.yaml", folder / "job.cnf"), str(folder / "tune"))

    def job(config, run_dir, **words):
        return slow_job(config, run_dir, **words, seconds=seconds)

    Study(search, StudyOptions("random", trials, pruner="none")).run(job=job)


if __name__ == "__main__":
    main()

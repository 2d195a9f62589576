"""A grid without a study: one job for each combination, chosen by its number."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from trainer.config import UserError
from trainer.launch.run_folder import RunFolder
from trainer.launch.tuning.space import Value, suffix
from trainer.launch.tuning.study import DATABASE, folder_name
from trainer.launch.tuning.trial import (
    RECORD,
    Search,
    Trial,
    check_identity,
    read_trial,
    run_trial,
)

#: Variables in which schedulers tell a job of an array its number.
VARIABLES = (
    "SLURM_ARRAY_TASK_ID",
    "AWS_BATCH_JOB_ARRAY_INDEX",
    "BATCH_TASK_INDEX",
    "CLOUD_RUN_TASK_INDEX",
    "JOB_COMPLETION_INDEX",
    "PBS_ARRAY_INDEX",
    "PBS_ARRAYID",
    "SGE_TASK_ID",
    "LSB_JOBINDEX",
    "CLOUD_ML_TRIAL_ID",
)
#: Stands for the one of `VARIABLES` that is set.
AUTO = "auto"
#: What the folder says of the search that it belongs to.
ABOUT = "tune.json"


def index_from(variable: str, environment: Mapping[str, str] | None = None) -> int:
    """Return the number that a scheduler gave this job.

    Args:
        variable: its name, or `auto` for the one of `VARIABLES` that is set.
        environment: default `os.environ`.

    Raises:
        UserError: it is not set, or holds no whole number; or `auto` finds several that differ.
    """
    environment = os.environ if environment is None else environment
    if variable == AUTO:
        # Grid Engine sets "undefined" in jobs that are not of an array.
        found = {name: environment[name] for name in VARIABLES if _is_whole(environment.get(name))}
        if len({int(text) for text in found.values()}) > 1:
            words = ", ".join(f"{name}={text}" for name, text in found.items())
            raise UserError(f"--index-from-env {AUTO}: several are set ({words}); name one of them")
        if not found:
            raise UserError(
                f"--index-from-env {AUTO}: none of these is set: {', '.join(VARIABLES)}; name "
                "another, or give --index"
            )
        return int(next(iter(found.values())))
    text = environment.get(variable)
    if text is None:
        raise UserError(f"--index-from-env {variable}: it is not set; is this a job of an array?")
    if not _is_whole(text):
        raise UserError(f"--index-from-env {variable}: {text!r} is not a whole number")
    return int(text)


def run_combination(search: Search, index: int, *, job: Callable[..., Any] | None = None) -> Trial:
    """Run one combination of the grid in a run folder of its own, or go on with it.

    Args:
        search: what is searched.
        index: of the combination, from 0.
        job: what trains; see :func:`run_trial`.

    Returns:
        The trial, complete. One that was so before is not run again.

    Raises:
        UserError: there is no such combination, the folder belongs to another search, or the
            trial failed.
        Stopped: a signal came; the job saved its state.
    """
    combinations = search.space.combinations()
    if not 0 <= index < len(combinations):
        raise UserError(
            f"there is no combination {index}: the grid has {len(combinations)}, from 0 to "
            f"{len(combinations) - 1} (see --list, and --index-base where counting begins at 1)"
        )
    folder = RunFolder(search.folder)
    if folder.exists(DATABASE):
        raise UserError(f"{search.folder}: holds a study ({DATABASE}); choose another folder")
    _claim(folder, search)
    name = name_of(index, combinations[index])
    own = RunFolder(folder.file(name))
    if own.exists(RECORD):
        before = read_trial(own)
        if before.state == "complete":
            return before
    trial = run_trial(search, index, combinations[index], name, job=job)
    if trial.state == "failed":
        raise UserError(f"combination {index}: {trial.error}")
    return trial


def gather(search: Search) -> list[Trial]:
    """Return the trials of all combinations that have begun.

    Raises:
        UserError: the folder belongs to another search, or to none.
    """
    folder = RunFolder(search.folder)
    if not folder.exists(ABOUT):
        raise UserError(f"{search.folder}: holds no search; nothing has begun there")
    _claim(folder, search)
    runs = [
        RunFolder(folder.file(name_of(index, params)))
        for index, params in enumerate(search.space.combinations())
    ]
    return [read_trial(run) for run in runs if run.exists(RECORD)]


def name_of(index: int, params: Mapping[str, Value]) -> str:
    """Return the name of a combination's run folder."""
    return f"{folder_name(index)}_{suffix(params)}"


def _claim(folder: RunFolder, search: Search) -> None:
    identity = search.identity()
    if folder.exists(ABOUT):
        check_identity(folder.read_json(ABOUT), identity, search.folder)
    else:
        folder.write_json(ABOUT, identity)


def _is_whole(text: str | None) -> bool:
    return text is not None and text.strip().isdecimal()

"""Deleting a run for `--fresh`: only what a job made, and only after somebody agreed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.files import absolute, gfile, is_remote
from trainer.launch.run_folder import RunFolder, remote_reasons

#: Everything that jobs and commands write into a run folder, below it; `*` stands for `/` too.
MADE = (
    "config.cnf",
    "config.json",
    "restored.json",
    "environment.json",
    "evaluation.json",
    "evaluation.html",
    "evaluation_retrieved.json",
    "variables.csv",
    "training.csv",
    "bad_images.log",
    "neighbours*.json",
    "neighbours*.png",
    "hardest_triplets*.png",
    "report.html",
    "model.keras",
    ".lock",
    "code/*.py",
    "checkpoints/step-*.npz*",
    "checkpoints/best.npz*",
    "checkpoints/.step-*",
    "checkpoints/.best.npz.*",
    "logs/*events.out.tfevents.*",
    "logs/*projector_config.pbtxt",
    "model/saved_model.pb",
    "model/fingerprint.pb",
    "model/variables/variables.*",
    "model/assets/*",
    "model/assets.extra/*",
    "index/meta.json",
    "index/ids.*",
    "index/index.*",
    "index/removed.npy",
    "index/items.csv",
    "wandb/*",
)

#: Keys that every config.json of a job has.
_OURS = {"model_id", "loss", "optimizer", "job_dir", "train.strategy"}


@dataclass(frozen=True)
class OldRun:
    """A run that may be deleted, as it was found.

    Attributes:
        folder: where it is.
        files: paths below the folder, links among them.
        folders: the same of folders, inner ones first.
        size: of all files, bytes.
    """

    folder: RunFolder
    files: tuple[str, ...]
    folders: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        steps = [
            int(found[1])
            for name in self.files
            if (found := re.fullmatch(r"checkpoints/step-(\d+)\.npz", name))
        ]
        count = len(steps) + ("checkpoints/best.npz" in self.files)
        plural = "" if count == 1 else "s"
        words = [f"{count or 'no'} checkpoint{plural}", decimal(self.size)]
        if steps:
            words.append(f"trained to step {max(steps)}")
        return f"{self.folder.path} ({', '.join(words)})"


def find_old_run(config: JobConfig, path: str) -> OldRun | None:
    """Return the run in the way of a job that begins anew, None where there is nothing.

    Args:
        config: of the job; nothing that it reads may lie in the run folder.
        path: run folder of the job.

    Raises:
        UserError: the folder is not one that may be deleted: no run of this library, a link, it
            holds files that no job makes, a job is working in it, or the config needs it.
    """
    folder = RunFolder(path)
    if not [name for name in folder.names() if name != ".lock"]:
        return None
    if os.path.islink(folder.path):
        raise UserError(f"{folder.path}: is a link; --fresh deletes no run by way of a link")
    if not folder.exists("config.json") or not folder.read_json("config.json").keys() >= _OURS:
        raise UserError(
            f"{folder.path}: not a run folder of mildnet (no config.json of a job), so --fresh "
            "does not delete it; choose another run folder"
        )
    for key, value in config.to_dict().items():
        for text in value if isinstance(value, list) else [value]:
            if key != "job_dir" and isinstance(text, str) and _inside(text, folder.path):
                raise UserError(f"{key}={text} lies in {folder.path}, which --fresh would delete")
    with folder.locked():
        return _scan(folder)


def delete(old: OldRun) -> None:
    """Delete a run, leaving its folder empty.

    Raises:
        UserError: it has changed since it was looked at, so that it holds something else by now,
            or a job is working in it.
    """
    folder = old.folder
    with folder.locked():
        now = _scan(folder)
        # Last, so that what is left of a run is known for one if this is cut short.
        for name in sorted(now.files, key=lambda name: name == "config.json"):
            if name != ".lock":
                _remove(folder, name)
        for name in now.folders:
            _remove_folder(folder, name)


def agreed(old: OldRun, console: Console, *, yes: bool) -> bool:
    """Return whether a run is to be deleted; asks, if `yes` does not already say so.

    Raises:
        UserError: there is no terminal to ask on.
    """
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(
            f"--fresh deletes {old}, and there is no terminal to ask on; add --yes if that is meant"
        )
    try:
        answer = console.input(Text(f"delete {old}? [y/N] "))
    except EOFError:
        console.print()
        return False
    return answer.strip().lower() in ("y", "yes")


def is_first_worker() -> bool:
    """Whether this process, by TF_CONFIG, is the one of all workers that looks after the run."""
    try:
        told = json.loads(os.environ.get("TF_CONFIG") or "{}")
        task, cluster = told.get("task", {}), told.get("cluster", {})
        name, number = task.get("type", "chief"), task.get("index", 0)
    except (ValueError, AttributeError):
        return True
    return bool(name == "chief" or (name == "worker" and not number and "chief" not in cluster))


def _scan(folder: RunFolder) -> OldRun:
    """Look at every file and folder of a run.

    Raises:
        UserError: there are some that no job makes.
    """
    made = [*MADE, *_trackers(folder)]
    tops = {pattern.partition("/")[0] for pattern in made}
    # What a process leaves that is killed while it writes has the name in its own.
    made += [f".{top}.*" for top in tops]
    tops |= {f".{top}.*" for top in tops}
    files, folders, foreign, size = [], [], [], 0
    for place, inner, names in _walk(folder.path):
        below = [name.rstrip("/") for name in inner]
        links = [name for name in below if os.path.islink(f"{place}/{name}")]
        relative = place[len(folder.path) :].strip("/")
        if relative:
            folders.append(relative)
            if not inner and not names and not _matches(relative.partition("/")[0], tops):
                foreign.append(relative)
        for name in [*names, *links]:
            path = f"{relative}/{name}".strip("/")
            files.append(path)
            full = folder.file(path)
            link = os.path.islink(full)
            # Weights & Biases makes links of its own, to its newest files.
            if not _matches(path, made) or (link and not path.startswith("wandb/")):
                foreign.append(path)
            if not link:
                size += gfile().stat(full).length if is_remote(full) else os.path.getsize(full)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            f"{folder.path}: --fresh does not delete it, as it holds what no job makes: "
            f"{', '.join(sorted(foreign)[:3])}{more}; move that away, or choose another run folder"
        )
    return OldRun(folder, tuple(files), tuple(reversed(folders)), size)


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _walk(path: str) -> Iterable[tuple[str, list[str], list[str]]]:
    if is_remote(path):
        with remote_reasons(path):
            return list(gfile().walk(path))

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}")

    return os.walk(path, onerror=refuse)


def _trackers(folder: RunFolder) -> list[str]:
    """Return where the run's config has its trackers write, if not to the usual places."""
    values = folder.read_json("config.json")
    places = {"tracker.csv.name": "", "tracker.tensorboard.folder": "/*events.out.tfevents.*"}
    return [escape(str(values[key])) + rest for key, rest in places.items() if values.get(key)]


def _remove(folder: RunFolder, name: str) -> None:
    path = folder.file(name)
    with _reasons(folder, path):
        (gfile().remove if is_remote(path) else os.unlink)(path)


def _remove_folder(folder: RunFolder, name: str) -> None:
    path = folder.file(name)
    with _reasons(folder, path):
        if not is_remote(path):
            os.rmdir(path)
        # A bucket knows no folders: this one may have gone with its last file.
        elif gfile().isdir(path) and not gfile().listdir(path):
            gfile().rmtree(path)


@contextlib.contextmanager
def _reasons(folder: RunFolder, path: str) -> Iterator[None]:
    """Tell in one line why something cannot be deleted."""
    if is_remote(path):
        with remote_reasons(folder.path):
            yield
        return
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't be deleted ({error.strerror})") from None


def _inside(text: str, folder: str) -> bool:
    """Whether `text` is the path of something that is there, in the folder or the folder itself."""
    if is_remote(folder):
        return is_remote(text) and f"{absolute(text)}/".startswith(f"{folder}/")
    if is_remote(text) or "\0" in text or not text or not os.path.lexists(absolute(text)):
        return False
    real = os.path.realpath(absolute(text))
    return f"{real}/".startswith(f"{os.path.realpath(absolute(folder))}/")

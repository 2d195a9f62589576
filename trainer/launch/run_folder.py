"""The folder that holds everything a job makes."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config import UserError
from trainer.config.job import JobConfig
from trainer.data.files import (
    gfile,
    is_leftover,
    is_remote,
    locked,
    read_text,
    reason,
    remote_errors,
    require_folder,
    walk,
    write_bytes,
)


class RunFolder:
    """A run's folder, local or remote, with its files by name.

    `config.cnf config.json environment.json training.csv logs/ checkpoints/ model/ model.keras
    evaluation.json index/ neighbours.png report.html`

    Args:
        path: the folder; see :meth:`claim` for making one and :meth:`open` for reading one.
        read: returns the text of a file by its path.
    """

    def __init__(self, path: str, read: Callable[[str], str] = read_text) -> None:
        self.path = path.rstrip("/") if is_remote(path) else str(Path(path))
        self._read = read

    @classmethod
    def open(cls, path: str) -> RunFolder:
        """Return the run at `path`.

        Raises:
            UserError: there is no run.
        """
        folder = cls(path)
        if not folder.exists("config.json"):
            raise UserError(f"{path}: not a run folder (no config.json); train one first")
        return folder

    @classmethod
    def claim(cls, path: str, config: JobConfig) -> RunFolder:
        """Make the folder for `config`, or take up the run that is there.

        Args:
            path: where the run is or will be.
            config: must define the same training as the run that is there.

        Raises:
            UserError: the folder holds a run of another config or files that are not a run's, or
                can't be written.
        """
        folder = cls(path)
        folder.check(config)
        # First what makes it a run: a process that is killed in between can be started again.
        folder.write_json("config.json", config.to_dict())
        folder.write_text("config.cnf", config.to_cnf())
        return folder

    def check(self, config: JobConfig, *, anew: str = "--fresh") -> None:
        """Check that the folder is free for `config`, or holds a run of it.

        Args:
            config: of the job.
            anew: option of the command that begins the run anew, for the message.

        Raises:
            UserError: it holds a run of another config, or files that are not a run's.
        """
        # One look at all names: another machine of the job may be claiming the folder just now.
        names = self.names()
        if "config.json" not in names:
            # A process may have been killed before it has written the config.
            others = [
                name for name in names if name != ".lock" and not is_leftover(name, "config.json")
            ]
            if others:
                raise UserError(
                    f"{self.path}: holds files that are not a run's ({others[0]}, ...); "
                    "choose another run folder"
                )
            return
        self.check_same(config, f"choose another run folder, or start again with {anew}")

    def check_same(self, config: JobConfig, instead: str) -> None:
        """Check that the run in the folder, which is there, is one of `config`.

        Args:
            config: of the job.
            instead: what to do otherwise, for the message.

        Raises:
            UserError: it is a run of another config, or its config can't be read.
        """
        before = self.config()
        if before.fingerprint() == config.fingerprint():
            return
        differences = config.differences(before)
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise UserError(
            f"{self.path}: holds a run of another config ({differences[0]}{more}); {instead}"
        )

    def config(self) -> JobConfig:
        """Return the effective config that the run was made with."""
        values = self.read_json("config.json")
        # Not as a name that is given: runs of before may have one that is refused now.
        name = str(values.pop("name", "") or self.path.rpartition("/")[2])
        return JobConfig.from_mapping(values, source=self.file("config.json"), name=name)

    def file(self, name: str) -> str:
        """Return the path of a file of the run."""
        return f"{self.path}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether the run has the file or folder."""
        if is_remote(self.path):
            with remote_reasons(self.path):
                return bool(gfile().exists(self.file(name)))
        return os.path.exists(self.file(name))

    def names(self) -> list[str]:
        """Return the names in the folder, none if there is no folder."""
        if is_remote(self.path):
            with remote_reasons(self.path):
                if not gfile().isdir(self.path):
                    return []
                return sorted(name.rstrip("/") for name in gfile().listdir(self.path))
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file.

        Raises:
            UserError: it is missing or not JSON.
        """
        try:
            return dict(json.loads(self._read(self.file(name))))
        except (ValueError, TypeError):
            raise UserError(f"{self.file(name)}: damaged, or not written by mildnet") from None

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(values, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all.

        Raises:
            UserError: the folder can't be written.
        """
        self._make(self.file(name).rpartition("/")[0])
        write_bytes(self.file(name), text.encode())

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            UserError: it can't be made.
        """
        self._make(self.path)

    def _make(self, place: str) -> None:
        if is_remote(self.path):
            with remote_reasons(self.path):
                gfile().makedirs(place)
            return
        try:
            os.makedirs(place, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: can't be made ({error.strerror})") from None

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[str]:
        """Give a local path to write the file or folder `name` to; a remote run gets a copy."""
        if not is_remote(self.path):
            yield self.file(name)
            return
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, name)
            yield path
            with remote_reasons(self.path):
                _upload(path, self.file(name))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes on this machine from training in the folder.

        Raises:
            UserError: another process does.
        """
        if is_remote(self.path):
            yield
            return
        os.makedirs(self.path, exist_ok=True)
        with locked(self.file(".lock"), f"{self.path}: another process is working in it"):
            yield


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Give a local folder with the files of one that may be remote, a copy for the time.

    Raises:
        UserError: a remote folder is not there, or cannot be read.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        with remote_reasons(path):
            for place, names in walk(require_folder(path)):
                os.makedirs(os.path.join(scratch, place), exist_ok=True)
                for name in names:
                    inside = os.path.join(place, name)
                    gfile().copy(f"{path}/{inside}", os.path.join(scratch, inside))
        yield Path(scratch)


@contextlib.contextmanager
def remote_reasons(path: str) -> Iterator[None]:
    """Tell in one line what a remote file system refuses."""
    try:
        with remote_errors():
            yield
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from None


def _upload(source: str, target: str) -> None:
    if os.path.isfile(source):
        gfile().copy(source, target, overwrite=True)
        return
    for folder, _, files in os.walk(source):
        relative = os.path.relpath(folder, source)
        there = target if relative == "." else f"{target}/{relative}"
        gfile().makedirs(there)
        for name in files:
            gfile().copy(os.path.join(folder, name), f"{there}/{name}", overwrite=True)

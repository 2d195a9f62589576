"""`settings.cfg`: paths and keys that belong to a place rather than to an experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config import cnf
from trainer.config.errors import UserError
from trainer.config.registry import PACKAGE, nearest

#: What may stand in the file, or in the environment under the same name.
KEYS: dict[str, str] = {
    "MILDNET_JOB_DIR": "folder or gs:// path where run folders are made; runs if not set",
    "MILDNET_DATA_PATH": "folder or gs:// path of the data set",
    "MILDNET_PROJECT": "Google Cloud project of remote jobs",
    "MILDNET_REGION": "Google Cloud region of remote jobs",
    "MILDNET_BUCKET": "gs://bucket/folder of remote jobs: their packages and run folders",
    "MILDNET_SERVICE_ACCOUNT": "account that remote jobs run as; Vertex AI's own if not set",
    "MILDNET_LABELS": "labels of remote jobs: key=value, key=value",
    "MILDNET_SPOT": "yes: remote jobs run on spot machines, which cost less and may be taken away",
    "MILDNET_TIMEOUT": "longest time a remote job may run, such as 2h30m; a week if not set",
    "MILDNET_TENSORBOARD": "Vertex AI TensorBoard that remote jobs write to: its name or number",
    "MILDNET_IMAGE": "container image with mildnet in it, that remote jobs run in",
    "MILDNET_BASE_IMAGE": "container image that the package is installed in, instead of an image "
    "with mildnet in it",
    "MILDNET_EXTRAS": "extras that the package is installed with; chosen by shape and config if "
    "not set",
    "MILDNET_ENV": "names of environment variables that are passed on to remote jobs",
    "HYPERDASH_KEY": "API key of the Hyperdash tracker",
}


def beside(name: str) -> Path:
    """Return a file or folder of the working folder, else that beside the `trainer` package."""
    here = Path(name)
    return here if here.exists() else PACKAGE.parent / name


@dataclass(frozen=True)
class Settings:
    """The settings in force, each with the place it comes from."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    origins: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls, path: str | Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Settings:
        """Read the settings file, then let environment variables win over it.

        Args:
            path: the file; default `settings.cfg` in the working folder, else the one beside the
                `trainer` package, else none.
            environment: default `os.environ`. An empty variable counts as not set.

        Raises:
            UserError: the file cannot be read, or holds an unknown key.
        """
        if path is None:
            found = beside("settings.cfg")
            path = found if found.is_file() else None
        values: dict[str, str] = {}
        origins: dict[str, str] = {}
        for key, given in (cnf.read(path) if path is not None else {}).items():
            if key not in KEYS:
                raise UserError(f"{given.origin}: unknown setting {key!r}{nearest(key, KEYS)}")
            if given.value:
                values[key], origins[key] = given.value, given.origin
        environment = os.environ if environment is None else environment
        for key in KEYS:
            if environment.get(key):
                values[key], origins[key] = environment[key], f"environment variable {key}"
        return cls(values, origins)

    def get(self, key: str, default: str = "") -> str:
        """Return a setting, or `default` where it is not set."""
        if key not in KEYS:
            raise KeyError(key)
        return self.values.get(key, default)

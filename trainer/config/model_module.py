"""A module of the user's own that brings the config, the data and the model of an experiment."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trainer.config.errors import UserError
from trainer.config.user_code import user_module

#: Key of a config that names the module.
KEY = "model_module"

_FORM = "a model module defines config, datasets() and build(image_size), and loss() if it wants"


@dataclass(frozen=True)
class ModelModule:
    """A model module, imported and found to define what is needed. Make one with :meth:`load`."""

    name: str
    module: ModuleType

    @classmethod
    def load(cls, name: str) -> ModelModule:
        """Import the module by its dotted name.

        Raises:
            UserError: there is no such module, or what it defines is not what is needed.
        """
        module = user_module(name, KEY)
        missing = [part for part in ("config", "datasets", "build") if not hasattr(module, part)]
        if missing:
            raise UserError(f"{KEY}={name} does not define {' and '.join(missing)}; {_FORM}")
        if not isinstance(module.config, Mapping):
            kind = type(module.config).__name__
            raise UserError(
                f"{KEY}={name}: config is of type {kind}, not a dictionary of keys as in a .cnf"
            )
        for part in ("datasets", "build", "loss"):
            if not callable(getattr(module, part, print)):
                kind = type(getattr(module, part)).__name__
                raise UserError(f"{KEY}={name}: {part} is of type {kind}, not a function; {_FORM}")
        return cls(name, module)

    def values(self) -> dict[str, Any]:
        """Return `config`, ready for :meth:`trainer.config.job.JobConfig.from_mapping`.

        A function stands for its dotted name, so that it can be saved and found again.

        Raises:
            UserError: a key is not text, or a function has no name by which it is found.
        """
        found = {KEY: self.name}
        for key, value in self.module.config.items():
            if not isinstance(key, str):
                raise UserError(f"{KEY}={self.name}: config has the key {key!r}; keys are text")
            if key == KEY and value != self.name:
                raise UserError(f"{KEY}={self.name}: config names another module, {value!r}")
            found[key] = self._dotted(key, value) if inspect.isroutine(value) else value
        return found

    def _dotted(self, key: str, function: Any) -> str:
        module, name = function.__module__, function.__qualname__
        if getattr(sys.modules.get(module), name, None) is not function:
            raise UserError(
                f"{KEY}={self.name}: {key} is a function that can't be found again by its name "
                f"({module}.{name}); define it with `def` at the top of a module"
            )
        return f"{module}.{name}"

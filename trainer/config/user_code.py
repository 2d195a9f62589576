"""Modules and functions of the user's own that a config names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trainer.config.errors import UserError


def user_module(name: str, key: str) -> ModuleType:
    """Import a module by its dotted name, from the working folder too, as `python -m` does.

    Args:
        name: such as `my_package.my_loop`.
        key: of the config, for errors.

    Raises:
        UserError: there is no such module. An error inside of it is not caught.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    # Python remembers folders as they were; the module may have been written since.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that it imports and does not find is another mistake, told as Python does.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise UserError(
            f"{key}={name}: no module {error.name!r}; it is looked for in {here} and where Python "
            "finds installed packages"
        ) from None
    except (ValueError, TypeError):
        raise UserError(f"{key}={name!r} is no name of a module, such as package.module") from None


def user_function(name: str, key: str) -> Callable[..., Any]:
    """Return a function by its dotted name, `package.module.function`.

    Args:
        name: module and function.
        key: of the config, for errors.

    Raises:
        UserError: there is no such module, or nothing in it by that name that can be called.
    """
    place, _, last = name.rpartition(".")
    if not place:
        raise UserError(f"{key}={name!r} is no name of a function, such as package.module.function")
    module = user_module(place, key)
    found = getattr(module, last, None)
    if not callable(found):
        raise UserError(f"{key}={name}: module {place} has no function {last!r}")
    return found

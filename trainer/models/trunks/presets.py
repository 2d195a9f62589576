"""What the trunks from KerasCV and KerasHub have in common: nets by the name of a preset."""

from __future__ import annotations

import difflib
import importlib
import os
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from trainer.config import UserError
from trainer.data.files import absolute, is_remote
from trainer.models.names import restart_numbers

T = TypeVar("T")


def library(module: str, trunk: str) -> Any:
    """Import a package that has an extra of its name, such as `keras_hub`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = module.replace("_", "")
        raise UserError(
            f'trunk {trunk} needs {error.name or module}: pip install "mildnet[{extra}]"'
        ) from None


def local_preset(preset: str) -> str | None:
    """Return the folder that a preset is, if it is one."""
    folder = absolute(preset)
    return folder if not is_remote(preset) and os.path.isdir(folder) else None


def check_preset(preset: str, trunk: str, known: Iterable[str]) -> None:
    """Check that a preset is a folder, an address or a known name.

    Raises:
        UserError: it is none of them; with the nearest name.
    """
    if local_preset(preset) or is_remote(preset) or preset in (known := list(known)):
        return
    if os.sep in preset:
        raise UserError(f"trunk {trunk}: there is no folder {preset}")
    # There are hundreds; all of them would be no help.
    close = difflib.get_close_matches(preset, known, n=3, cutoff=0.3)
    near = f"; nearest are {', '.join(close)}" if close else ""
    raise UserError(f"trunk {trunk}: no preset {preset!r}{near}, or give the folder of one")


def read_preset(preset: str, trunk: str, read: Callable[[], T]) -> T:
    """Return what `read` reads from a preset.

    Raises:
        UserError: it cannot be read, or not be downloaded.
    """
    restart_numbers()  # these packages leave layers without a name
    try:
        return read()
    except UserError:
        raise
    except Exception as error:  # files, configs, and three libraries that download
        reason = first_line(error)
        if local_preset(preset):
            raise UserError(f"trunk {trunk} cannot be made of its preset: {reason}") from error
        raise UserError(
            f"trunk {trunk} cannot be downloaded ({reason}): run once with network (it is kept),"
            f" or give the folder of a preset: {trunk.split(':')[0]}:FOLDER"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error, of which a screen takes no more than this."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[0], 200, placeholder=" ...") if lines else type(error).__name__

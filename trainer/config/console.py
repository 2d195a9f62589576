"""How a command ends: an error in one line, and the exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from trainer.config.errors import Stopped, UserError

#: Exit code of a mistake that the user can mend, the one typer gives for a wrong option too.
USER_ERROR = 2

#: Exit code of a command that Ctrl-C stopped: 128 + SIGINT, as shells count.
INTERRUPTED = 130

#: Troubles of a disk, not of this library: told in one line wherever they come up.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

#: The option of every command that is decorated with :func:`one_line_errors`.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

#: The option of `train`, where it does more.
DebugSession = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Open IPython before the first step; and show the traceback of an error.",
    ),
]

#: Options of the commands that train.
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Begin anew: delete the run in the run folder, after asking."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete for --fresh without asking.")]

ModelModule = Annotated[
    str | None,
    typer.Option(
        metavar="PACKAGE.MODULE",
        help="A module with config, datasets() and build(), instead of CONFIG.",
    ),
]

#: The option of the commands that train; see :func:`from_run`.
From = Annotated[
    str | None,
    typer.Option("--from", metavar="RUN", help="Begin with the weights of a finished run."),
]

Command = TypeVar("Command", bound=Callable[..., Any])


def plain() -> Console:
    """Return a console on standard output that colours no numbers.

    In a notebook it writes lines of text: rich would make each line a block of its own, and a
    kernel passes for a terminal, though it can't move back to draw a bar again.
    """
    if "ipykernel" in sys.modules:
        return _WholeLines(highlight=False, force_jupyter=False, force_terminal=False)
    return _WholeLines(highlight=False)


class _WholeLines(Console):
    """Breaks lines of text for terminals only: what a pipe reads may be a long path."""

    def print(self, *objects: Any, **how: Any) -> None:
        if not self.is_terminal and all(isinstance(each, str) for each in objects):
            how.setdefault("soft_wrap", True)
        super().print(*objects, **how)


def from_run(run: str | None) -> list[str]:
    """Return what `--from RUN` stands for, as `key=value` texts."""
    # Shells add a slash to folders; the run is the same with or without.
    return [] if run is None else [f"init_from={run.rstrip('/')}"]


def one_line_errors(command: Command) -> Command:
    """Decorate a typer command so that its errors end as :func:`errors_to_exit` says.

    A parameter `debug: Debug = False` of the command turns tracebacks on.
    """

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with errors_to_exit(debug=bool(kwargs.get("debug", False))):
            return command(*args, **kwargs)

    return guarded  # type: ignore[return-value]


@contextlib.contextmanager
def errors_to_exit(*, debug: bool = False) -> Iterator[None]:
    """Turn errors that are not defects of this library into one line on stderr and an exit code.

    A :class:`UserError`, a full disk and a folder that cannot be written give `error: ...` and
    exit code 2; a :class:`Stopped` gives its own message and code, Ctrl-C `interrupted` and 130;
    a reader that went away (`| head`) ends the command quietly. Everything else keeps its
    traceback.

    Args:
        debug: let errors through with their traceback.
    """
    try:
        yield
        # What is still buffered goes out here, where a reader that went away is expected.
        sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        _fail(str(error), USER_ERROR, error)
    except Stopped as error:
        if debug:
            raise
        _say("", str(error))
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        if debug:
            raise
        _say("interrupted")
        raise SystemExit(INTERRUPTED) from error
    except BrokenPipeError as error:
        # Python flushes stdout once more on its way out, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from error
    except OSError as error:
        if debug or error.errno not in _DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}", USER_ERROR, error)


def _fail(message: str, code: int, error: BaseException) -> None:
    _say("[bold red]error:[/] ", " ".join(message.split()))
    raise SystemExit(code) from error


def _say(markup: str, text: str = "") -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(markup, end="")
    console.print(text, markup=False)

"""The command as a person gives it."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from trainer.cli import app


def command(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def done(*words: object) -> str:
    """Return what a command says that ends well."""
    result = command(*words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object) -> str:
    """Return the one line of a command that is refused."""
    result = command(*words)
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    return line.removeprefix("error: ")

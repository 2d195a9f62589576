"""Errors of a command become one line on stderr and an exit code, and nothing else does."""

import errno
import inspect
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from trainer.config import Stopped, UserError
from trainer.config.console import Debug, errors_to_exit, one_line_errors


def ends(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught, errors_to_exit():
        raise error
    out, err = capsys.readouterr()
    assert out == ""
    return caught.value.code, err


def test_user_error(capsys: pytest.CaptureFixture[str]):
    code, err = ends(UserError("x.cnf:3: bad [bold]value[/] of /a/b"), capsys)
    assert (code, err) == (2, "error: x.cnf:3: bad [bold]value[/] of /a/b\n")


def test_one_line_however_long(capsys: pytest.CaptureFixture[str]):
    code, err = ends(UserError("word " * 100 + "\nand more"), capsys)
    assert (code, err) == (2, "error: " + "word " * 100 + "and more\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_troubles_of_a_disk(number: int, capsys: pytest.CaptureFixture[str]):
    code, err = ends(OSError(number, "Some trouble", "/runs/a"), capsys)
    assert (code, err) == (2, "error: /runs/a: Some trouble\n")


def test_interruption(capsys: pytest.CaptureFixture[str]):
    assert ends(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def test_work_that_was_asked_to_stop(capsys: pytest.CaptureFixture[str]):
    code, err = ends(Stopped("stopped at [step] 3", 128 + 15), capsys)
    assert (code, err) == (143, "stopped at [step] 3\n")


@pytest.mark.parametrize(
    "error", [UserError("x"), Stopped("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "x")]
)
def test_debug_lets_errors_through(error: BaseException):
    with pytest.raises(type(error)), errors_to_exit(debug=True):
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "x"), AssertionError()])
def test_defects_keep_their_traceback(error: BaseException):
    with pytest.raises(type(error)), errors_to_exit():
        raise error


def test_no_error():
    with errors_to_exit():
        pass
    with pytest.raises(SystemExit) as caught, errors_to_exit():
        raise SystemExit(7)
    assert caught.value.code == 7


def make_app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @one_line_errors
    def command(word: str, debug: Debug = False) -> None:
        """Say what is wrong."""
        raise KeyboardInterrupt if word == "stop" else UserError(word)

    return app


def test_decorated_command():
    app = make_app()
    result = CliRunner().invoke(app, ["oh no"])
    assert (result.exit_code, result.stderr) == (2, "error: oh no\n")
    assert CliRunner().invoke(app, ["stop"]).exit_code == 130
    assert isinstance(CliRunner().invoke(app, ["oh no", "--debug"]).exception, UserError)
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert "--debug" in help_text
    assert "Say what is wrong." in help_text


def test_decoration_keeps_the_signature():
    @one_line_errors
    def command(word: str, debug: Debug = False) -> str:
        """Doc."""
        return word

    assert list(inspect.signature(command).parameters) == ["word", "debug"]
    assert command("a") == "a"
    assert command.__doc__ == "Doc."


@pytest.mark.parametrize("lines", ["iter(int, 1)", "range(2000)", "[1]"])
def test_a_reader_that_went_away(lines: str):
    code = (
        "import sys\n"
        "from trainer.config.console import errors_to_exit\n"
        "with errors_to_exit():\n"
        "    sys.stdin.read()\n"
        f"    for _ in {lines}: print('a line of it')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate("", timeout=60)
    assert (process.returncode, err) == (1, "")

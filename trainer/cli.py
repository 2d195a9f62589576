"""The command `mildnet`: what its commands are."""

from __future__ import annotations

from typing import Annotated

import typer

import trainer
from trainer.config.console import Debug, one_line_errors, plain
from trainer.launch.commands import jobs, making, measuring, searching, training

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Visual product search: train, evaluate, export, index, search.",
)


def main() -> None:
    """Entry point of the console script."""
    app()


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Visual product search: train, evaluate, export, index, search."""
    if version:
        plain().print(f"mildnet {trainer.__version__}")
        raise typer.Exit


@app.command()
@one_line_errors
def describe(
    kind: Annotated[str | None, typer.Argument(help="A kind of component, or a page.")] = None,
    name: Annotated[str | None, typer.Argument(help="A component, or a key.")] = None,
    debug: Debug = False,
) -> None:
    """What exists: components, their parameters and defaults, the keys of a config."""
    from trainer.config.describe import describe as page

    plain().print(page(kind, name))


for group in (training, measuring, searching, making):
    app.add_typer(group.app)
app.add_typer(jobs.app, name="jobs")


if __name__ == "__main__":
    main()

"""What commands share: their options, and a command with others below it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from trainer.config import UserError

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder of a finished job.")]

RunIfNoFile = Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder.")]

EmbeddingsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz|DIR",
        help="Arrays embeddings, labels, optional is_query; or what embed wrote.",
    ),
]

Split = Annotated[
    str | None, typer.Option(help="Comma list of splits; default: the test split of the run.")
]

Items = Annotated[
    str, typer.Option(metavar="ITEMS.csv|DIR", help="Catalogue: an items.csv, or its folder.")
]

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Win over the config; repeatable."),
]

Precision = Annotated[
    Literal["float32", "float16", "bfloat16"],
    typer.Option(help="Type that weights are stored and layers computed in."),
]

ImageSize = Annotated[
    int | None, typer.Option(help="Side of the model's input, pixels; default: as trained.", min=1)
]

Views = Annotated[
    str,
    typer.Option(
        "--tta", metavar="VIEWS", help="Views added to each picture: flip, 0.8, flip+0.9+0.8."
    ),
]

Post = Annotated[
    str, typer.Option(metavar="NAME", help="Post-processing: none, challenge, k_reciprocal, ...")
]

PostOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Of post-processing: expand=10, k1=30, ..."),
]

Model = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Export of the run's model to embed with; default: its own."),
]

BadShare = Annotated[
    float | None,
    typer.Option(help="Share of a catalogue that may be bad, 0 to 1; default: the run's."),
]

NewRun = Annotated[Path, typer.Option(metavar="DIR", help="Run folder to make.")]

IntoRun = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Into the run's config; repeatable."),
]


class WithDefault(TyperGroup):
    """A command with others below it: words that begin with no name of theirs are its own.

    The command is the first of the group.
    """

    def named(self, words: list[str]) -> list[str]:
        """Return the words with the name of the command that they are for in front."""
        if words and words[0] in self.commands:
            return words
        return [next(iter(self.commands)), *words]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if (words := self.named(args)) != args and not set(args).isdisjoint(ctx.help_option_names):
            words = ["--help"]
        return super().parse_args(ctx, words)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown, default = copy.copy(self), next(iter(self.commands.values()))
        shown.help, shown.params = default.help, default.params
        TyperGroup.format_help(shown, ctx, formatter)


def one_of_two(run: str | None, embeddings: Path | None) -> None:
    """Check that a run or a file of embeddings is given, not both."""
    if (run is None) == (embeddings is None):
        raise UserError("give a run folder or --embeddings FILE.npz, one of the two")


def write_json(path: Path | None, values: Any) -> None:
    """Write what a command found to a file, where one is given."""
    if path is not None:
        from trainer.data.files import write_json

        write_json(str(path), values)

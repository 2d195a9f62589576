"""Picking a job config: from numbered groups in the terminal, or by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.config import JobConfig, UserError, cnf, nearest
from trainer.config.settings import beside

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """A config file that can be picked."""

    group: str  #: folder below the configs' folder, "" for the folder itself
    name: str  #: file name without `.cnf`
    path: Path
    about: tuple[str, str]  #: model and loss, or ("", what is wrong with the file)

    @property
    def full_name(self) -> str:
        """`group/name`, which no other config has."""
        return f"{self.group}/{self.name}" if self.group else self.name


@dataclass(frozen=True)
class Picked:
    """What the questions, or the options in their place, came to."""

    config: JobConfig
    path: Path
    shape: str = ""  #: machines of a remote job; "" to run here


def find_configs(folder: Path | None = None) -> list[Choice]:
    """Return the configs below a folder: its own first, then folder by folder, by name.

    Args:
        folder: default: `job_configs` of the working folder, else that beside `trainer`.

    Raises:
        UserError: there is no such folder, or no config in it.
    """
    folder = folder or beside("job_configs")
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of job configs")
    found = []
    for path in folder.rglob("*.cnf"):
        parent = path.parent.relative_to(folder).as_posix()
        found.append(Choice("" if parent == "." else parent, path.stem, path, _about(path)))
    if not found:
        raise UserError(f"{folder}: no .cnf file in it")
    return sorted(found, key=lambda choice: (choice.group, choice.name))


def find(name: str, choices: Iterable[Choice]) -> Path:
    """Return the file that a name stands for.

    Args:
        name: the path of a file, or the name of one of `choices`, as `name` or `folder/name`,
            with or without `.cnf`.
        choices: the known configs.

    Raises:
        UserError: nothing or more than one thing has that name.
    """
    if name.endswith(".cnf") and Path(name).is_file():
        return Path(name)
    choices = list(choices)
    plain = name.removesuffix(".cnf").removeprefix("job_configs/")
    exact = [choice for choice in choices if choice.full_name == plain]
    matches = exact or [choice for choice in choices if choice.name == plain]
    if len(matches) > 1:
        names = ", ".join(choice.full_name for choice in matches)
        raise UserError(f"{name!r} may be any of {names}; give it with its folder")
    if matches:
        return matches[0].path
    if Path(name).exists():
        return Path(name)
    known = {c.name: c.full_name for c in choices} | {c.full_name: c.full_name for c in choices}
    raise UserError(f"no config {name!r}{nearest(plain, known, 'there are')}")


def show_choices(choices: Sequence[Choice], console: Console) -> None:
    """Print the configs in numbered groups, one group a folder."""
    names = max(len(choice.name) for choice in choices)
    models = max(len(choice.about[0]) for choice in choices)
    digits = len(str(len(choices)))
    group = None
    for number, choice in enumerate(choices, start=1):
        if choice.group != group:
            group = choice.group
            console.print()
            console.print(Text(group or "job_configs", "bold"))
        model, rest = choice.about
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"  {number:>{digits}}", "cyan")
        line.append(f"  {choice.name:<{names}}")
        if model:
            line.append(f"  {model:<{models}}  {rest}", "dim")
        else:
            line.append(f"  {rest}", "red")
        # A pipe gets whole lines, a terminal lines that fit.
        console.print(line, soft_wrap=not console.is_terminal)


def show_config(config: JobConfig, path: Path, console: Console) -> None:
    """Print what a config sets, each key with the place it comes from."""
    values = config.to_dict()
    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    for key, value in values.items():
        origin = config.origin(key)
        if origin == "default" and key not in _ALWAYS:
            continue
        # The file is named above the table: its lines do.
        note = f"line {origin.rsplit(':', 1)[-1]}" if origin.startswith(f"{path}:") else origin
        table.add_row(Text(key, "cyan"), Text(cnf.plain_text(value)), Text(note, "dim"))
    console.print()
    console.print(Text(str(path), "bold"))
    console.print(table)
    rest = len(values) - table.row_count
    console.print(Text(f"  and {rest} keys at their defaults (--dry-run shows them all)", "dim"))


def show_plan(config: JobConfig, run_dir: str, console: Console) -> None:
    """Print the whole effective config, and as a comment what running it would do."""
    epochs = config.train_epochs
    length = f"{config.steps} steps" if epochs is None else f"{epochs:g} epochs"
    data = f"{config.dataset}, data path {config.data_path}" if config.data_path else config.dataset
    console.print(
        f"{config.to_cnf(origins=True)}"
        f"# would train {config.model_id} with {config.loss} for {length} on {data}, and write "
        f"to {run_dir}; nothing was run",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def pick(
    console: Console,
    *,
    name: str | None = None,
    local: bool = False,
    remote: bool = False,
    shape: str = "",
    overrides: Sequence[str] = (),
    sure: bool = False,
    folder: Path | None = None,
    ask: Callable[[str], str] | None = None,
) -> Picked | None:
    """Ask what to run, leaving out the questions that are already answered.

    Args:
        console: where questions and lists are printed.
        name: the config, instead of asking for it.
        local: run here, instead of asking where.
        remote: run on Vertex AI, instead of asking where.
        shape: the machines of a remote job, instead of asking for them.
        overrides: `key=value` texts that win over the config.
        sure: do not ask whether to run it, nor where.
        folder: the folder of configs; default that of :func:`find_configs`.
        ask: prints a prompt and returns the answer; default: the terminal.

    Returns:
        The checked config, or None if the answer was to leave it.

    Raises:
        UserError: a question is open and there is no terminal to ask on; remote was chosen and
            its settings are wrong; or the config that `name` stands for is.
    """
    if ask is None:
        _need_terminal(name, sure)
        ask = _terminal(console)
    try:
        if not local and not remote and not sure:
            remote = _ask_where(ask, console)
        if remote:
            _check_remote()
        if name is None:
            choices = find_configs(folder)
            show_choices(choices, console)
            console.print()
            picked = _ask_which(choices, overrides, ask, console)
        else:
            path = Path(name)
            if path.suffix != ".cnf" or not path.is_file():
                path = find(name, find_configs(folder))
            picked = Picked(JobConfig.load(path, overrides), path)
        if remote:
            picked = _with_shape(picked, shape, None if sure else ask, console)
        if not sure:
            show_config(picked.config, picked.path, console)
            console.print()
            _ask_sure(ask, console, "Submit it" if remote else "Run it")
    except _Leave:
        return None
    return picked


class _Leave(Exception):
    """The answer was to leave."""


def _need_terminal(name: str | None, sure: bool) -> None:
    if sys.stdin is not None and sys.stdin.isatty():
        return
    if name is None:
        raise UserError(
            "no config is named and there is no terminal to ask on; give --config NAME "
            "(--list shows the names)"
        )
    if not sure:
        raise UserError("there is no terminal to ask on; add --yes to run without being asked")


def _terminal(console: Console) -> Callable[[str], str]:
    def ask(prompt: str) -> str:
        try:
            return console.input(prompt)
        except EOFError:
            console.print()
            raise _Leave from None
        except KeyboardInterrupt:
            console.print()
            raise

    return ask


def _answer(ask: Callable[[str], str], prompt: str) -> str:
    answer = ask(prompt).strip()
    if answer.lower() in ("q", "quit", "exit"):
        raise _Leave
    return answer


def _ask_where(ask: Callable[[str], str], console: Console) -> bool:
    """Return whether the answer was to run it remotely."""
    while True:
        answer = _answer(ask, "Run it [b]l[/b]ocally or [b]r[/b]emotely? \\[l] ").lower()
        if answer in ("", "l", "local", "locally"):
            return False
        if answer in ("r", "remote", "remotely"):
            return True
        console.print("Answer l (local) or r (remote), or q to quit.", style="yellow")


def _ask_which(
    choices: Sequence[Choice],
    overrides: Sequence[str],
    ask: Callable[[str], str],
    console: Console,
) -> Picked:
    return _ask_one(
        f"Which config? 1-{len(choices)} or a name, q to quit: ",
        [choice.path for choice in choices],
        lambda name: find(name, choices),
        lambda path: Picked(JobConfig.load(path, overrides), path),
        ask,
        console,
    )


def _ask_one(
    prompt: str,
    files: Sequence[Path],
    named: Callable[[str], Path],
    use: Callable[[Path], T],
    ask: Callable[[str], str],
    console: Console,
    default: str = "",
) -> T:
    """Ask for a number, of `files`, or a name until it is one of a file that can be used."""
    while True:
        answer = _answer(ask, prompt) or default
        if not answer:
            continue
        try:
            if not answer.isdecimal():
                return use(named(answer))
            if not 1 <= int(answer) <= len(files):
                raise UserError(f"there is no number {answer}; 1 to {len(files)} are there")
            return use(files[int(answer) - 1])
        except UserError as error:
            console.print(Text(str(error), "yellow"), soft_wrap=True)


def _check_remote() -> None:
    """Tell at once, and not after all questions, that settings of remote jobs are missing."""
    from trainer.launch.vertex.settings import VertexSettings  # not needed to run here

    VertexSettings.load()


def _with_shape(
    picked: Picked, shape: str, ask: Callable[[str], str] | None, console: Console
) -> Picked:
    """Return what was picked with its machines: as given, as answered, or as the config says."""
    from trainer.launch.vertex import shapes
    from trainer.launch.vertex.submitting import shape_name

    if not shape and ask is not None:
        shape = _ask_shape(ask, picked.config.config, console)
    machines = shapes.Shape.load(shape_name(picked.config, shape))
    return Picked(machines.fit(picked.config), picked.path, machines.path)


def _ask_shape(ask: Callable[[str], str], default: str, console: Console) -> str:
    from trainer.launch.vertex import shapes

    names = shapes.names()
    digits = len(str(len(names)))
    console.print()
    for number, name in enumerate(names, start=1):
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"  {number:>{digits}}", "cyan")
        line.append(f"  {name:<{max(map(len, names))}}")
        line.append(f"  {shapes.Shape.load(name)}", "dim")
        console.print(line, soft_wrap=not console.is_terminal)
    console.print()
    plain = Path(default).stem if default else ""
    offered = f" \\[{plain}]" if plain else ""
    prompt = f"Which machines? 1-{len(names)} or a name{offered} "
    files = [shapes.find(name) for name in names]
    return _ask_one(prompt, files, shapes.find, str, ask, console, default)


def _ask_sure(ask: Callable[[str], str], console: Console, question: str = "Run it") -> None:
    while True:
        answer = _answer(ask, f"{question}? \\[Y/n] ").lower()
        if answer in ("", "y", "yes"):
            return
        if answer in ("n", "no"):
            raise _Leave
        console.print("Answer y or n.", style="yellow")


#: Shown with a chosen config even at their defaults: what the job is made of.
_ALWAYS = ("optimizer", "dataset", "data_path", "sampler", "augment", "schedule", "index")


def _about(path: Path) -> tuple[str, str]:
    try:
        given = cnf.read(path)
    except UserError as error:
        return "", str(error).removeprefix(f"{path}:").strip()
    model, loss = (str(given[key].value) if key in given else "-" for key in ("model_id", "loss"))
    return model, loss

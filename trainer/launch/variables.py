"""The table of variables that a job prints when it is set up, and keeps as `variables.csv`."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.launch.run_folder import RunFolder

#: Rows that the printed table has at most; what is more is put together by names.
MOST_ROWS = 40

COLUMNS = ("variable", "shape", "parameters", "trained", "decays", "device")


@dataclass(frozen=True)
class Variable:
    """A weight of the model or of the loss, and what training does with it.

    Attributes:
        path: its name, such as `block1_conv1/kernel`; `loss/...` for one of the loss.
        shape: its shape.
        trained: whether an optimizer moves it.
        decays: whether weight decay shrinks it.
        device: where it lives, such as `GPU:0`; several where replicas have a copy each.
    """

    path: str
    shape: tuple[int, ...]
    trained: bool
    decays: bool
    device: str

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def list_variables(
    model: Any,
    loss: Any,
    groups: Sequence[tuple[Any, Sequence[Any]]],
    *,
    l2_penalty: float = 0.0,
) -> list[Variable]:
    """Return the weights of a model and its loss, in their order.

    Args:
        model: a Keras model.
        loss: any loss; one with weights of its own has them in `variables`.
        groups: optimizers with the weights that each of them moves.
        l2_penalty: above 0, the weights decay by way of the gradient, whatever the optimizer.
    """
    from trainer.training.groups import decays

    owner = {id(weight): optimizer for optimizer, weights in groups for weight in weights}

    def look(prefix: str, weight: Any) -> Variable:
        optimizer = owner.get(id(weight))
        shrunk = optimizer is not None and bool(optimizer.weight_decay or l2_penalty)
        return Variable(
            path=prefix + weight.path,
            shape=tuple(weight.shape),
            trained=optimizer is not None,
            decays=shrunk and decays(optimizer, weight),
            device=_device(weight),
        )

    found = [look("", weight) for weight in model.weights]
    return found + [look("loss/", weight) for weight in getattr(loss, "variables", [])]


def show_variables(variables: Sequence[Variable], console: Console) -> None:
    """Print a table of variables, with totals; long ones with a row for several of like names."""
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(
            name,
            justify="right" if name == "parameters" else "left",
            no_wrap=name != "variable",
            overflow="fold",
        )
    groups = list(_grouped(variables))
    for name, members in groups:
        table.add_row(
            Text(name),
            _shape(members[0]) if len(members) == 1 else f"{len(members)} variables",
            _numbers(members),
            _share([member.trained for member in members]),
            _share([member.decays for member in members]),
            ", ".join(dict.fromkeys(member.device for member in members)),
        )
    # A log gets whole lines, a terminal lines that fit.
    width = None if console.is_terminal else console.measure(table).maximum
    console.print(table, width=width, soft_wrap=not console.is_terminal)
    parts = {
        "trained": [v for v in variables if v.trained],
        "that decay": [v for v in variables if v.decays],
        "not trained": [v for v in variables if not v.trained],
    }
    told = ", ".join(f"{_numbers(part)} {words} (in {len(part)})" for words, part in parts.items())
    console.print(
        f"{_numbers(variables)} parameters in {len(variables)} variables: {told}", soft_wrap=True
    )
    if len(groups) < len(variables):
        console.print("each variable has its row in variables.csv of the run folder")


def write_variables(variables: Sequence[Variable], folder: RunFolder) -> None:
    """Write a row for each variable to `variables.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for variable in variables:
        yes_no = (_share([variable.trained]), _share([variable.decays]))
        writer.writerow(
            (variable.path, _shape(variable), variable.parameters, *yes_no, variable.device)
        )
    folder.write_text("variables.csv", text.getvalue())


def _grouped(variables: Sequence[Variable]) -> Iterator[tuple[str, list[Variable]]]:
    """Yield a name and its variables: one each if there are few, else neighbours whose paths begin
    alike, as much alike as keeps it short."""
    if len(variables) <= MOST_ROWS:
        yield from ((variable.path, [variable]) for variable in variables)
        return
    words = {variable.path: re.findall(r"[^/_]+[/_]*", variable.path) for variable in variables}
    parts: list[list[Variable]] = []
    for depth in range(max(map(len, words.values())), 0, -1):
        starts = [words[variable.path][:depth] for variable in variables]
        begun = itertools.groupby(zip(starts, variables, strict=True), lambda pair: pair[0])
        parts = [[variable for _, variable in members] for _, members in begun]
        if len(parts) <= MOST_ROWS:
            break
    for members in parts:
        first, *others = (words[member.path] for member in members)
        same = first
        for other in others:
            both = itertools.takewhile(lambda p: p[0] == p[1], zip(same, other, strict=False))
            same = [word for word, _ in both]
        yield "".join(same) + ("..." if others else ""), members


def _device(weight: Any) -> str:
    """Return the devices of a Keras variable, such as `CPU:0`."""
    value = weight.value
    copies = getattr(value, "values", None) or (value,)
    names = [str(copy.device).rpartition("device:")[2] or "?" for copy in copies]
    return " ".join(dict.fromkeys(names))


def _shape(variable: Variable) -> str:
    return " x ".join(map(str, variable.shape)) or "()"


def _share(answers: Sequence[bool]) -> str:
    if all(answers):
        return "yes"
    return f"{sum(answers)} of {len(answers)}" if any(answers) else "no"


def _numbers(variables: Sequence[Variable]) -> str:
    return f"{sum(variable.parameters for variable in variables):,}"

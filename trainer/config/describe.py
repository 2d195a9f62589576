"""What exists: the kinds of components, their names and parameters, and the keys of a config."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainer.config import cnf, options
from trainer.config.errors import UserError
from trainer.config.job import ALIASES, COMPONENT_KEYS, JobConfig
from trainer.config.registry import (
    FIDELITY,
    ROOMS,
    Component,
    Parameter,
    components,
    get,
    nearest,
)
from trainer.config.settings import KEYS as SETTINGS
from trainer.config.train_options import TrainOptions

#: Pages that list keys rather than components.
PAGES: dict[str, str] = {
    "config": "the plain keys of a job config",
    "train": "the training options, train.KEY",
    "settings": "the keys of settings.cfg",
}

_KINDS: dict[str, str] = {
    "dataset": "readers of data sets",
    "sampler": "what makes up a batch",
    "augment": "random changes of training images",
    "trunk": "convnets that models are built on",
    "model": "embedding models",
    "loss": "losses",
    "miner": "choices of triplets in a labelled batch, for losses over triplets",
    "memory": "earlier batches that a loss holds each batch against as well",
    "index": "search indexes",
    "optimizer": "optimizers",
    "schedule": "courses of the learning rate",
    "tracker": "where progress is written",
}


#: The section on the arguments, in a docstring without common indentation.
_ARGS = re.compile(r"^Args:\n(?:(?: .*)?\n)+", re.MULTILINE)


def describe(kind: str | None = None, name: str | None = None) -> RenderableType:
    """Return what `mildnet describe [KIND [NAME]]` prints.

    Args:
        kind: a kind of component, or a page: `config`, `train`, `settings`. None lists them.
        name: a component of the kind, or one key of the page. None lists all.

    Raises:
        UserError: there is no such kind or name; the message has the nearest one.
    """
    if kind is None:
        return _kinds()
    if kind not in ROOMS and kind not in PAGES:
        raise UserError(f"nothing is called {kind!r}{nearest(kind, [*ROOMS, *PAGES])}")
    if kind in PAGES:
        return _page(kind, name)
    if name is None:
        return _names(kind)
    return _component(get(kind, name))


def parameter_help(doc: str) -> dict[str, str]:
    """Return the description of each entry in the `Args:` section of a docstring."""
    found: dict[str, str] = {}
    section = _ARGS.search(doc.strip() + "\n")
    name = ""
    for line in section.group().split("\n")[1:] if section else ():
        entry = re.match(r" {4}\*{0,2}(\w+)(?: \([^)]*\))?: *(.*)", line)
        if entry:
            name, found[entry.group(1)] = entry.group(1), entry.group(2)
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def component_help(component: Component) -> dict[str, str]:
    """Return the description of each parameter of a component."""
    texts = parameter_help(component.doc)
    if component.released is not None:
        values = [f"{key}={cnf.plain_text(v)}" for key, v in component.released.items()]
        texts[FIDELITY] = "released: as its authors' code computes it, not as published; here " + (
            ", ".join(values) if values else "the two agree"
        )
    return texts


def _kinds() -> RenderableType:
    table = _table("kind", "key", "what", "names")
    for kind in ROOMS:
        key = {"tracker": "trackers", "trunk": ""}.get(kind) or COMPONENT_KEYS.get(kind, "")
        table.add_row(Text(kind, "bold cyan"), key, _KINDS[kind], ", ".join(components(kind)))
    for page, what in PAGES.items():
        table.add_row(Text(page, "bold cyan"), "", what, "")
    return Group(
        table,
        Text("\nMore: mildnet describe KIND, or mildnet describe KIND NAME", "dim"),
    )


def _names(kind: str) -> RenderableType:
    table = _table(kind, "what")
    for name, component in components(kind).items():
        table.add_row(Text(name, "bold cyan"), Text(component.summary))
    return table


def _component(component: Component) -> RenderableType:
    head = Text.assemble((component.name, "bold cyan"), (f"  {component.kind}", "dim"))
    for tag, value in component.tags.items():
        head.append(f", {tag} {value}", "dim")
    # The parameters follow with their types and defaults, so the section on them is left out.
    doc = _ARGS.sub("", component.doc.strip() + "\n").strip()
    parts: list[RenderableType] = [head, Text(), Text(doc), Text()]
    key = COMPONENT_KEYS.get(component.kind)
    if key:
        parts.append(Text(f"In a config: {key}={cnf.format_value(component.name)}\n", "dim"))
    prefix = {"tracker": f"tracker.{component.name}", "trunk": ""}.get(
        component.kind, component.kind
    )
    parts += _parameters(component.parameters, component_help(component), prefix)
    return Group(*parts)


def _page(page: str, name: str | None) -> RenderableType:
    if page == "settings":
        _check_name(page, name, SETTINGS)
        table = _table("key", "what")
        for key, what in SETTINGS.items():
            if name in (None, key):
                table.add_row(Text(key, "bold cyan"), what)
        return table
    owner, prefix = (JobConfig, "") if page == "config" else (TrainOptions, "train")
    parameters = options.parameters_of(owner)
    _check_name(page, name, parameters)
    if name is not None:
        parameters = {name: parameters[name]}
    texts = {key: options.help_of(owner, key) for key in parameters}
    parts = _parameters(parameters, texts, prefix)
    if page == "config" and name is None:
        notes = [f"{old} is another spelling of {new}." for old, new in ALIASES.items()]
        notes.append("Components take their own keys, such as loss.margin: mildnet describe loss")
        parts.append(Text("\n" + "\n".join(notes), "dim"))
    return Group(*parts)


def _check_name(page: str, name: str | None, known: Mapping[str, object]) -> None:
    if name is not None and name not in known:
        raise UserError(f"{page} has no key {name!r}{nearest(name, known)}")


def _parameters(
    parameters: Mapping[str, Parameter], help_texts: Mapping[str, str], prefix: str
) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for name, parameter in parameters.items():
        line = Text(f"{prefix}.{name}" if prefix else name, "bold cyan")
        line.append("  " + parameter.type_name.replace("|", " | "), "green")
        if parameter.required:
            line.append("  needed", "yellow")
        else:
            text = cnf.plain_text(parameter.default)
            line.append(f"  = {text}" if text else "  = (empty)", "default")
        lines.append(line)
        if help_texts.get(name):
            lines.append(Padding(Text(help_texts[name]), (0, 0, 0, 4), expand=False))
    return lines or [Text("No parameters.")]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

"""Components by name: what exists, which parameters it takes, and where it lives.

A component is a plain function or class marked with :func:`register`. The registry finds the marks
by reading source files, not by importing them, so that configs are checked and listings printed
without waiting for TensorFlow; the module itself is imported when the component is first built.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainer.config.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]

#: Kind of component -> the room whose files are searched for it.
ROOMS: dict[str, str] = {
    "dataset": "data",
    "sampler": "data",
    "augment": "data",
    "trunk": "models",
    "model": "models",
    "loss": "losses",
    "miner": "losses",
    "memory": "losses",
    "index": "retrieval",
    "optimizer": "training",
    "schedule": "training",
    "tracker": "training",
}

#: Parameter of a component whose authors' code differs from their paper.
FIDELITY = "fidelity"

T = TypeVar("T", bound=Callable[..., Any])


def register(
    kind: str,
    name: str,
    defaults: Mapping[str, Any] | None = None,
    released: Mapping[str, Any] | None = None,
    like: str | None = None,
    **tags: str,
) -> Callable[[T], T]:
    """Mark a function or class as the component `name` of `kind`.

    All arguments must be literals: they are read from the source text. Keyword-only parameters of
    the component are what a config may set; positional ones are supplied by the library. Several
    marks may be stacked to offer one component under several names.

    Args:
        kind: one of the keys of :data:`ROOMS`.
        name: the name used in configs.
        defaults: values that replace the defaults of the signature under this name.
        released: gives this name a further parameter `fidelity`, `corrected` or `released`. With
            `released`, these values replace the defaults, so that the component is what its
            authors' code made of it; what a config sets still wins. The component itself is not
            told of `fidelity`. May be empty, where code and paper agree.
        like: another name of the same component, marked above; its `defaults`, `released` and
            tags hold here too, as far as this mark does not replace them.
        **tags: facts that other parts of a config are checked against, such as
            `takes="triplets"` for a loss over explicit triplets, or `address="uri"` and
            `environment="TOKEN"` for a parameter that may hold no password, and where that goes.
    """
    if kind not in ROOMS:
        raise ValueError(f"unknown kind of component {kind!r}; kinds: {', '.join(ROOMS)}")
    return lambda component: component


@dataclass(frozen=True)
class Parameter:
    """One keyword parameter: its type as a Python annotation, and its default if it has one."""

    name: str
    annotation: Any
    default: Any = None
    required: bool = False

    def parse(self, value: Any) -> Any:
        """Return `value` as the declared type.

        Strings are read as a config would write them (`true`, `0.3`, `1, 2, 3`, `none`); other
        values must already have the type (an int serves as a float, a list as a tuple).

        Raises:
            ValueError: it does not fit; the message says what is allowed.
        """
        return _convert(value, self.annotation)

    @property
    def type_name(self) -> str:
        """The type as a reader of a config would say it, e.g. `float` or `cosine|step`."""
        return _type_name(self.annotation)


@dataclass(frozen=True)
class Component:
    """A registered component, known from its source text."""

    kind: str
    name: str
    module: str
    qualname: str
    doc: str
    parameters: dict[str, Parameter]
    tags: dict[str, str] = field(default_factory=dict)
    #: What `fidelity=released` makes the defaults; None: the name does not take `fidelity`.
    released: dict[str, Any] | None = None

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().split("\n", 1)[0]

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function or class."""
        return getattr(importlib.import_module(self.module), self.qualname)

    def check(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return `parameters` converted to their declared types, completed with the defaults.

        Raises:
            UserError: an unknown name (with the nearest known one), a value that does not fit,
                or a required parameter that is missing.
        """
        given = {}
        for key, value in parameters.items():
            if key not in self.parameters:
                raise UserError(
                    f"{self.kind} {self.name!r} has no parameter {key!r}"
                    + nearest(key, self.parameters, "it takes")
                )
            try:
                given[key] = self.parameters[key].parse(value)
            except ValueError as error:
                raise UserError(f"{self.kind}.{key}: {error}") from None
        complete = {**self.defaults(given), **given}
        missing = [p.name for p in self.parameters.values() if p.name not in complete]
        if missing:
            raise UserError(f"{self.kind} {self.name!r} needs {', '.join(missing)}")
        return complete

    def defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of all parameters that have one, where `given` is set."""
        found = {p.name: p.default for p in self.parameters.values() if not p.required}
        if self.released and given.get(FIDELITY) == "released":
            found.update(self.released)
        return found

    def build(self, *supplied: Any, **parameters: Any) -> Any:
        """Check `parameters` and call the component with them after the `supplied` arguments."""
        return self.call(*supplied, **self.check(parameters))

    def call(self, *supplied: Any, **parameters: Any) -> Any:
        """Call the component with parameters that are checked and complete."""
        if self.released is not None:
            del parameters[FIDELITY]
        return self.load()(*supplied, **parameters)


def nearest(word: str, known: typing.Iterable[str], lead: str = "known are") -> str:
    """Return `'; did you mean X?'`, or the list of what is known where nothing is near."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; {lead}: {', '.join(known) or 'none'}"


def get(kind: str, name: str) -> Component:
    """Return the component `name` of `kind`.

    Raises:
        UserError: there is none; the message names the nearest one.
    """
    known = components(kind)
    if name not in known:
        raise UserError(f"unknown {kind} {name!r}{nearest(name, known)}")
    return known[name]


@functools.cache
def components(kind: str) -> dict[str, Component]:
    """Return all components of `kind` by name, in alphabetical order.

    Raises:
        UserError: `kind` is not one of :data:`ROOMS`.
        RuntimeError: two components of the kind share a name.
    """
    if kind not in ROOMS:
        raise UserError(f"unknown kind of component {kind!r}{nearest(kind, ROOMS)}")
    found: dict[str, Component] = {}
    for path in sorted((PACKAGE / ROOMS[kind]).rglob("*.py")):
        for component in _scan(path):
            if component.kind != kind:
                continue
            if component.name in found:
                raise RuntimeError(f"{kind} {component.name!r} is registered twice")
            found[component.name] = component
    return dict(sorted(found.items()))


@functools.cache
def _scan(path: Path) -> tuple[Component, ...]:
    text = path.read_text(encoding="utf-8")
    if "@register(" not in text:
        return ()
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    found = []
    body = ast.parse(text).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        signature = node if isinstance(node, ast.FunctionDef) else _constructor(node, classes)
        marks: dict[str, _Mark] = {}
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                mark = _read_mark(f"{module}.{node.name}", call, marks)
                marks[mark.name] = mark
                found.append(_component(module, node, signature, mark))
    return tuple(found)


@dataclass(frozen=True)
class _Mark:
    """The arguments of one `@register`."""

    kind: str
    name: str
    defaults: dict[str, Any]
    released: dict[str, Any] | None
    tags: dict[str, str]


def _read_mark(place: str, call: ast.Call, above: Mapping[str, _Mark]) -> _Mark:
    words: dict[str, Any] = dict(
        zip(("kind", "name", "defaults"), map(ast.literal_eval, call.args), strict=False)
    )
    words |= {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    kind, name, like = words.pop("kind"), words.pop("name"), words.pop("like", None)
    defaults, released = words.pop("defaults", None) or {}, words.pop("released", None)
    if like is None:
        return _Mark(kind, name, defaults, released, words)
    if like not in above:
        raise RuntimeError(f"{place}: {name} is like {like!r}, which is not marked above it")
    base = above[like]
    if released is None or base.released is None:
        released = base.released if released is None else released
    else:
        released = {**base.released, **released}
    return _Mark(kind, name, {**base.defaults, **defaults}, released, {**base.tags, **words})


def _constructor(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> ast.FunctionDef | None:
    """Return the `__init__` of a class, or else of the first base in its file that has one."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return member
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            inherited = _constructor(classes[base.id], classes)
            if inherited is not None:
                return inherited
    return None


def _component(
    module: str,
    node: ast.FunctionDef | ast.ClassDef,
    signature: ast.FunctionDef | None,
    mark: _Mark,
) -> Component:
    defaults, released = mark.defaults, mark.released
    parameters = {}
    if signature is not None:
        arguments = signature.args
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if argument.annotation is None:
                raise RuntimeError(f"{module}.{node.name}: {argument.arg} has no type")
            parameter = Parameter(argument.arg, _evaluate(argument.annotation), required=True)
            if argument.arg in defaults or default is not None:
                value = defaults.get(argument.arg)
                if argument.arg not in defaults and default is not None:
                    value = ast.literal_eval(default)
                try:
                    # As a config gives it back: `= 0` of a float is 0.0 here and in a saved config.
                    value = parameter.parse(value)
                except ValueError as error:
                    raise RuntimeError(f"{module}.{node.name}: {argument.arg}: {error}") from None
                parameter = replace(parameter, default=value, required=False)
            parameters[argument.arg] = parameter
    unknown = set(defaults) - set(parameters)
    if unknown:
        raise RuntimeError(f"{module}.{node.name} has no keyword parameter {sorted(unknown)}")
    if released is not None:
        released = _released(f"{module}.{node.name}", released, parameters)
        parameters[FIDELITY] = Parameter(
            FIDELITY, Literal["corrected", "released"], default="corrected"
        )
    doc = ast.get_docstring(node) or ""
    return Component(mark.kind, mark.name, module, node.name, doc, parameters, mark.tags, released)


def _released(
    place: str, released: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> dict[str, Any]:
    """Return the values of `fidelity=released`, each as its parameter's type."""
    unknown = set(released) - set(parameters)
    if unknown:
        raise RuntimeError(f"{place} has no keyword parameter {sorted(unknown)}")
    if FIDELITY in parameters:
        raise RuntimeError(f"{place} has a parameter {FIDELITY} of its own")
    try:
        return {key: parameters[key].parse(value) for key, value in released.items()}
    except ValueError as error:
        raise RuntimeError(f"{place}: released: {error}") from None


def _evaluate(annotation: ast.expr) -> Any:
    names = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple}
    return eval(  # noqa: S307 - our own source text, with nothing but types in reach
        compile(ast.Expression(annotation), "<annotation>", "eval"),
        {"__builtins__": {}, "Literal": Literal, **names},
    )


def _convert(value: Any, annotation: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType or origin is typing.Union:
        return _convert_union(value, arguments, annotation)
    if origin is Literal:
        for choice in arguments:
            if (type(value), value) == (type(choice), choice) or value == str(choice):
                return choice
        raise ValueError(f"{_shown(value)} is not one of {', '.join(map(str, arguments))}")
    if origin is tuple or annotation is tuple:
        return _convert_tuple(value, arguments or (str, ...), annotation)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and annotation is not str:
        return _from_text(value, annotation)
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise ValueError(f"{_shown(value)} is not {_words(annotation)}")
    if annotation is float and not math.isfinite(value):
        raise ValueError(f"{_shown(value)} is not a finite number")
    return value


def _convert_union(value: Any, arguments: tuple[Any, ...], annotation: Any) -> Any:
    if type(None) in arguments and (
        value is None or (isinstance(value, str) and value.lower() in ("none", ""))
    ):
        return None
    for choice in arguments:
        if choice is not type(None):
            try:
                return _convert(value, choice)
            except ValueError:
                continue
    raise ValueError(f"{_shown(value)} is not {_words(annotation)}")


def _convert_tuple(value: Any, items: tuple[Any, ...], annotation: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("()[] ").split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_shown(value)} is not {_words(annotation)}")
    if items[-1] is Ellipsis:
        items = items[:1] * len(value)
    if len(value) != len(items):
        raise ValueError(f"{len(value)} values, where {len(items)} are needed")
    return tuple(_convert(part, item) for part, item in zip(value, items, strict=True))


def _from_text(text: str, annotation: Any) -> Any:
    if annotation is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(f"{_shown(text)} is not true or false")
        return words[text.lower()]
    try:
        if annotation is int and "e" in text.lower():
            whole = float(text)
            if whole != int(whole):
                raise ValueError
            return int(whole)
        value = annotation(text)
        if annotation is float and not math.isfinite(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{_shown(text)} is not {_words(annotation)}") from None
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _words(annotation: Any) -> str:
    """Return what a value of the type is called in an error."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is types.UnionType or origin is typing.Union:
        return " or ".join(map(_words, arguments))
    if origin is tuple:
        return f"a {_type_name(annotation)}"
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "none",
    }
    return words.get(annotation) or _type_name(annotation)


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is types.UnionType or origin is typing.Union:
        return "|".join(_type_name(a) for a in arguments)
    if origin is tuple:
        if arguments[-1] is not Ellipsis:
            return f"list of {len(arguments)}: {', '.join(map(_type_name, arguments))}"
        return f"list of {_type_name(arguments[0])}"
    return str(getattr(annotation, "__name__", annotation))

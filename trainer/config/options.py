"""Options that are not components: documented, typed, range-checked fields of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from typing import Any

from trainer.config.registry import Parameter


def option(default: Any, help: str, **limits: Any) -> Any:
    """Declare a field of an options dataclass.

    Args:
        default: the value where a config says nothing.
        help: what it does, in one line, with its unit.
        **limits: any of `least`, `above`, `most`, `below` (numbers), `regex=True` (the text
            must compile as a regular expression) and `needed=True` (a config must set it). None
            always passes.
    """
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@functools.cache
def parameters_of(options: type) -> dict[str, Parameter]:
    """Return the fields of an options dataclass that were declared with :func:`option`."""
    types = typing.get_type_hints(options)
    return {
        field.name: Parameter(
            field.name, types[field.name], field.default, field.metadata.get("needed", False)
        )
        for field in dataclasses.fields(options)
        if "help" in field.metadata
    }


def help_of(options: type, name: str) -> str:
    """Return the help text of a field."""
    return str(_metadata(options)[name]["help"])


def parse(options: type, name: str, value: Any) -> Any:
    """Return `value` as the type of the field `name`, within its limits.

    Raises:
        ValueError: it does not fit; the message says what is allowed.
    """
    value = parameters_of(options)[name].parse(value)
    if value is None:
        return value
    limits = _metadata(options)[name]
    if "least" in limits and value < limits["least"]:
        raise ValueError(f"{value} is too small; it must be {limits['least']} or more")
    if "above" in limits and value <= limits["above"]:
        raise ValueError(f"{value} is too small; it must be more than {limits['above']}")
    if "most" in limits and value > limits["most"]:
        raise ValueError(f"{value} is too large; it must be {limits['most']} or less")
    if "below" in limits and value >= limits["below"]:
        raise ValueError(f"{value} is too large; it must be less than {limits['below']}")
    if limits.get("regex"):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    return value


@functools.cache
def _metadata(options: type) -> dict[str, Any]:
    return {field.name: field.metadata for field in dataclasses.fields(options)}

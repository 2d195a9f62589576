"""Parameters in parentheses, where a value of a config names a component together with them."""

from __future__ import annotations

import ast
from typing import Any


def parse_arguments(text: str) -> dict[str, Any]:
    """Read `(parameter=value, ...)`; nothing in it is executed.

    Args:
        text: with the parentheses; values are numbers, texts in quotes, True, False, None, and
            lists of these in parentheses or brackets.

    Raises:
        ValueError: it is none of this.
    """
    try:
        call = ast.parse(f"_{text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            "write a name, or NAME(parameter=value, ...) with texts in quotes and lists in "
            "parentheses"
        ) from None

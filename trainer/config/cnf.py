"""The `.cnf` format: one `key=value` a line, quotes optional, `#` comments. Read, never executed.

A quote character inside a value quoted with the same character is written twice: `"a ""b"" c"`.
In an unquoted value a comment starts at a `#` that follows white space, so `a#b` is a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.errors import UserError

#: No config that a person writes comes near this; it stops a data file given by mistake.
MAX_BYTES = 1_000_000

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*([.\-][A-Za-z0-9_]+)*")


#: Origin of a value that came with `--set`.
OVERRIDE = "--set"


@dataclass(frozen=True)
class Given:
    """A value as somebody gave it, and where: `file:line`, `--set`, `settings.cfg:3`, ..."""

    value: Any
    origin: str


def read(path: str | Path) -> dict[str, Given]:
    """Read a `.cnf` file.

    Raises:
        UserError: the file is missing, is a folder, cannot be read, is not UTF-8 text or larger
            than a megabyte; or a line is malformed, with its number.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"{path}: there is no such file")
        if not path.is_file():
            raise UserError(f"{path}: not a file; a config is a text file of key=value lines")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: too large for a config ({path.stat().st_size:,} bytes)")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if "\0" in text:
        raise UserError(f"{path}: not a text file (it has zero bytes)")
    return parse(text, str(path))


def parse(text: str, source: str) -> dict[str, Given]:
    """Read the text of a `.cnf` file; `source` names it in errors and origins.

    Raises:
        UserError: a line is malformed or a key comes twice.
    """
    found: dict[str, Given] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        origin = f"{source}:{number}"
        key, value = _split(line, origin)
        if key in found:
            first = found[key].origin.rsplit(":", 1)[-1]
            raise UserError(f"{origin}: {key!r} is set twice, first in line {first}")
        found[key] = Given(value, origin)
    return found


def parse_override(text: str) -> tuple[str, Given]:
    """Read one `key=value` from the command line. The value needs no quotes, `#` is kept.

    An empty value (`key=`) gives None: it puts the key back to its default.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not _KEY.fullmatch(key):
        raise UserError(f"--set {text!r}: write it as key=value, such as --set loss.margin=0.3")
    if value == "":
        return key, Given(None, OVERRIDE)
    if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1:
        value = _unquote(value, OVERRIDE)
    return key, Given(value, OVERRIDE)


def write(values: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """Return `values` as the text of a `.cnf` file, with `notes` as comments behind the values."""
    lines = [f"{key}={format_value(value)}" for key, value in values.items()]
    if notes:
        width = min(max(map(len, lines), default=0), 60)
        lines = [
            f"{line:<{width}}  # {notes[key]}" if key in notes else line
            for line, key in zip(lines, values, strict=True)
        ]
    return "\n".join(lines) + "\n"


def format_value(value: Any) -> str:
    """Return `value` as it stands behind the `=`; reading it gives the same value back."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + plain_text(value).replace('"', '""') + '"'


def plain_text(value: Any) -> str:
    """Return `value` as text without quotes, the form that `Parameter.parse` reads."""
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(part) for part in value)
    if value is None or isinstance(value, bool | int | float):
        return format_value(value)
    return str(value)


def _split(line: str, origin: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    key, value = key.strip(), value.strip()
    if not equals:
        raise UserError(f"{origin}: no '=' in {_shorten(line)!r}; a line is key=value or # comment")
    if not _KEY.fullmatch(key):
        raise UserError(f"{origin}: {_shorten(key)!r} is not a key")
    if value[:1] in ('"', "'"):
        return key, _unquote(value, f"{origin}: {key}")
    return key, re.split(r"(?:^|\s+)#", value, maxsplit=1)[0]


def _unquote(text: str, where: str) -> str:
    """Return the quoted string that `text` starts with; only a comment may follow it."""
    quote = text[0]
    match = re.match(f"{quote}((?:[^{quote}]|{quote}{quote})*){quote}(?!{quote})", text)
    if not match:
        raise UserError(f"{where}: the closing {quote} is missing")
    rest = text[match.end() :].strip()
    if rest and not rest.startswith("#"):
        raise UserError(f"{where}: {_shorten(rest)!r} follows the closing {quote}")
    return match.group(1).replace(quote * 2, quote)


def _shorten(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."

"""What clients send, forms and JSON: read within limits, never written to a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from trainer.serving.api.errors import Refusal

#: Bytes of a form beside its picture: names, fields, boundaries. Also those of a JSON body.
BESIDE = 16_384
#: Seconds without a further byte after which a body is given up.
STALLED = 5.0
#: Fields of a form.
MOST_FIELDS = 16
#: Bytes of a field.
FIELD = 4096

#: What the patterns of fields ask for, in words.
PATTERNS = {
    "box": "must be x,y,w,h in pixels, such as 10,20,300,200",
    "id": "must be letters, digits and _ - . in parts between slashes, none beginning with a dot",
}

Form = TypeVar("Form", bound=BaseModel)


async def read_form(request: Request, kind: type[Form], most_bytes: int) -> tuple[Form, bytes]:
    """Return the fields and the picture of a form.

    Args:
        request: whose body has not been read.
        kind: of the fields.
        most_bytes: of the picture.

    Raises:
        Refusal: 400 for a broken form, 413 for too many bytes, 415 for another kind of body, 422
            for fields that `kind` does not take or a missing picture.
    """
    parameters = _of_kind(
        request, b"multipart/form-data", "send multipart/form-data, with a file named picture"
    )
    # Some codecs raise what nobody expects of them, and browsers send nothing else.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise Refusal(415, "send the form in UTF-8")
    most, too_many = most_bytes + BESIDE, _too_many(most_bytes)
    parser = MultiPartParser(
        request.headers,
        _bounded(request, most, too_many),
        max_files=2,
        max_fields=MOST_FIELDS,
        max_part_size=FIELD,
    )
    parser.spool_max_size = most + 1  # all stays in memory
    try:
        parts = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read: {error.message}") from None
    except UnicodeError:
        raise Refusal(400, "the form cannot be read: a name is no text") from None
    fields: dict[str, Any] = {}
    for name, value in parts:
        if name in fields:
            raise Refusal(422, f"{_shown(name)}: given more than once")
        fields[name] = value
    picture = fields.pop("picture", None)
    if not isinstance(picture, UploadFile):
        raise Refusal(422, "picture: a file is needed")
    content = await picture.read()
    if len(content) > most_bytes:
        raise _too_many(most_bytes)
    for name, value in fields.items():
        if isinstance(value, UploadFile):
            raise Refusal(422, f"{_shown(name)}: must be text, not a file")
    try:
        return kind.model_validate(fields), content
    except ValidationError as error:
        raise Refusal(422, first_fault(error.errors())) from None


async def read_json(request: Request, kind: type[Form]) -> Form:
    """Return the fields of a JSON body of at most :data:`BESIDE` bytes.

    Args:
        request: whose body has not been read.
        kind: of the fields.

    Raises:
        Refusal: 413 for too many bytes, 415 for another kind of body, 422 for fields that `kind`
            does not take.
    """
    _of_kind(request, b"application/json", "send application/json")
    too_many = Refusal(413, f"the request has more than the {BESIDE:,} bytes allowed")
    content = b"".join([chunk async for chunk in _bounded(request, BESIDE, too_many)])
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise Refusal(422, first_fault(error.errors())) from None


def json_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what an operation's description says of its JSON body."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def form_schema(kind: type[BaseModel], picture: str) -> dict[str, Any]:
    """Return what an operation's description says of its form.

    Args:
        kind: of the fields.
        picture: says what the picture is.
    """
    schema = kind.model_json_schema()
    schema["properties"] = {
        "picture": {"type": "string", "format": "binary", "description": picture},
        **schema["properties"],
    }
    schema["required"] = ["picture", *schema.get("required", [])]
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def first_fault(errors: Any) -> str:
    """Return the first of pydantic's errors in one line."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    message = str(first["msg"])
    if first["type"] == "string_pattern_mismatch":
        message = PATTERNS.get(place[-1], "must be one line of text, and not blank")
    return f"{_shown('.'.join(place)) or 'the request'}: {message[:1].lower()}{message[1:]}"


def _of_kind(request: Request, kind: bytes, words: str) -> dict[bytes, bytes]:
    """Return the parameters of the type of a body that has to be of a kind."""
    given, parameters = parse_options_header(request.headers.get("Content-Type", ""))
    if given.strip().lower() != kind:
        raise Refusal(415, words)
    return parameters


async def _bounded(request: Request, most: int, too_many: Refusal) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_many
    read, stream = 0, request.stream()
    while True:
        async with asyncio.timeout(STALLED):
            chunk = await anext(stream, None)
        if chunk is None:
            return
        read += len(chunk)
        if read > most:
            raise too_many
        yield chunk


def _too_many(most_bytes: int) -> Refusal:
    return Refusal(413, f"the picture has more than the {most_bytes:,} bytes allowed")


def _shown(name: str) -> str:
    """Return a name that a client chose, fit for a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:40])

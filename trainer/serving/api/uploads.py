"""Forms with a picture: read within limits, never written to a disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from trainer.serving.api.errors import Refusal

#: Bytes of a form beside its picture: names, fields, boundaries.
BESIDE = 16_384
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
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != (
        "multipart/form-data"
    ):
        raise Refusal(415, "send multipart/form-data, with a file named picture")
    most = most_bytes + BESIDE
    announced = request.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_many(most_bytes)

    class InMemory(MultiPartParser):
        spool_max_size = most + 1

    parser = InMemory(
        request.headers,
        _bounded(request, most, most_bytes),
        max_files=2,
        max_fields=MOST_FIELDS,
        max_part_size=FIELD,
    )
    try:
        parts = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read: {error.message}") from None
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


async def _bounded(request: Request, most: int, most_bytes: int) -> AsyncGenerator[bytes, None]:
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > most:
            raise _too_many(most_bytes)
        yield chunk


def _too_many(most_bytes: int) -> Refusal:
    return Refusal(413, f"the picture has more than the {most_bytes:,} bytes allowed")


def _shown(name: str) -> str:
    """Return a name that a client chose, fit for a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:40])

"""Why a request is not done, in one line, and how the API's description tells of it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

#: Seconds after which a client that was turned away may come again.
RETRY_AFTER = 1

#: What a status means, for the description.
MEANINGS = {
    400: "The body cannot be read: not a form as its header says, or broken off.",
    401: "No API key, or a wrong one: send it as `X-API-Key` or `Authorization: Bearer`.",
    403: "This service does not allow it, or not with this key.",
    404: "There is no product with this id, or none can have it.",
    408: "The body did not come in time.",
    409: "There is a product with this id already.",
    413: "More bytes than this service takes.",
    415: "The body or the picture is not of a kind that this service takes.",
    422: "A value is missing or out of its range, or a picture is damaged or too large.",
    429: "Too many requests from this client: `Retry-After` says when to come again.",
    500: "A defect of the service, which its log tells of.",
    503: "Busy, stopping, or without its catalogue: `Retry-After` says when to come again.",
}


class Problem(BaseModel):
    """Why there is no other answer."""

    detail: str = Field(description="One line for people.")


class Refusal(Exception):
    """Ends a request with a status of :data:`MEANINGS`.

    Args:
        status: of the answer.
        detail: one line for people.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.headers = status, " ".join(detail.split()), headers


def busy(detail: str, seconds: int = RETRY_AFTER) -> Refusal:
    """Return the refusal of a service that may take the request a little later."""
    return Refusal(503, detail, {"Retry-After": str(seconds)})


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route's description says of the refusals that it knows."""
    said: dict[int | str, dict[str, Any]] = {}
    for status in sorted(statuses):
        said[status] = {"model": Problem, "description": MEANINGS[status]}
        if status in (429, 503):
            said[status]["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
            }
    return said

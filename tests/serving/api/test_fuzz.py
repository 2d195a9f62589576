"""What no client should be able to do: requests made up from the description, and broken pictures.

Whatever comes, the answer is one that the description has, never 500.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.serving.api.catalogue import COLOURS, embed, filled, picture
from tests.serving.page.shop import Shop
from trainer.serving.api import ServiceOptions, create_app

#: Drawn requests of an operation, the same in every run.
FUZZ = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
KEY = "a-key-for-reading-and-writing"


OPEN: dict[str, Any] = {}
CLOSED: dict[str, Any] = {"writable": True, "keys": (KEY,), "url_hosts": ("shop.example",)}


def drawn(options: dict[str, Any]) -> list[Any]:
    """Return the operations of a service with such options, from its own description, each with
    the way that requests are drawn: as described, and wrong where anything can be wrong."""
    with filled() as catalogue:
        description = create_app(catalogue, embed, ServiceOptions(**options)).openapi()
    cases = []
    for found in schemathesis.openapi.from_dict(description).get_all_operations():
        operation = found.ok()
        modes = list(GenerationMode)
        if not operation.body and not list(operation.iter_parameters()):
            modes = [GenerationMode.POSITIVE]
        cases += [
            pytest.param(operation, mode, id=f"{operation.label} {mode.value}") for mode in modes
        ]
    return cases


def check(address: str, operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    """Send drawn requests, and hold the answers against the description in every way there is."""
    # A description cannot say what bytes are a picture, and every value is a text in such a form.
    form = any(body.media_type == "multipart/form-data" for body in operation.body)
    blind = [positive_data_acceptance, negative_data_rejection] if form else []

    @FUZZ
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=address, headers=headers, excluded_checks=blind)

    run()


@pytest.fixture(scope="module")
def open_service() -> Iterator[str]:
    with serving(OPEN) as address:
        yield address


@pytest.fixture(scope="module")
def closed_service() -> Iterator[str]:
    with serving(CLOSED) as address:
        yield address


@contextmanager
def serving(options: dict[str, Any]) -> Iterator[str]:
    with filled() as catalogue:
        shop = Shop(catalogue, **options)
        try:
            yield shop.url.rstrip("/")
        finally:
            shop.stop()


@pytest.mark.parametrize(("operation", "mode"), drawn(OPEN))
def test_requests_made_up_get_an_answer_of_the_description(
    open_service: str, operation: Any, mode: GenerationMode
) -> None:
    check(open_service, operation, mode, {})


@pytest.mark.parametrize(("operation", "mode"), drawn(CLOSED))
def test_so_do_requests_with_a_key_to_a_service_that_can_be_changed(
    closed_service: str, operation: Any, mode: GenerationMode
) -> None:
    check(closed_service, operation, mode, {"X-API-Key": KEY})


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with ExitStack() as stack:
        catalogue = stack.enter_context(filled())
        app = create_app(catalogue, embed, ServiceOptions(rate=None, most_pixels=100_000))
        yield stack.enter_context(TestClient(app, raise_server_exceptions=False))


PICTURES = [picture(COLOURS["red"], kind=kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """Return a picture cut short, with bytes changed, or with others put in."""
    content = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(0, 8))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(content)))
        content[place:place] = draw(st.binary(max_size=64))
    return bytes(content[: draw(st.integers(0, len(content)))])


@settings(max_examples=250, deadline=None, derandomize=True)
@given(content=broken())
def test_a_broken_picture_is_searched_with_or_refused(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/search", files={"picture": content})
    assert answer.status_code in (200, 413, 415, 422), answer.text
    if answer.status_code != 200:
        detail = answer.json()["detail"]
        assert detail
        assert "\n" not in detail


def bomb() -> bytes:
    """Return a small file of a picture that is large once it is decoded."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 415),
        (b"\x00" * 1000, 415),
        (b"GIF89a", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", 415),
        (b"%PDF-1.7\n", 415),
        (b"cos\nsystem\n(S'true'\ntR.", 415),  # a pickle
        (bomb(), 422),
    ],
    ids=["empty", "zeros", "header", "svg", "pdf", "pickle", "bomb"],
)
def test_what_is_no_picture_is_refused(client: TestClient, content: bytes, status: int) -> None:
    answer = client.post("/v1/search", files={"picture": content})
    assert (answer.status_code, answer.json()["detail"].count("\n")) == (status, 0)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "file:///etc/passwd", "a\0b"],
)
@pytest.mark.parametrize("route", ["products", "pictures", "neighbours"])
def test_no_path_leads_out_of_the_catalogue(client: TestClient, route: str, name: str) -> None:
    quoted = name.replace("\0", "%00")
    answer = client.get(f"/v1/{route}/{quoted}")
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text

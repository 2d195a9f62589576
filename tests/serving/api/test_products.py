"""Products that are shown, added and removed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.serving.api.catalogue import COLOURS, picture
from tests.serving.live_catalogues import made
from trainer.config import UserError
from trainer.serving.api import thumbnails
from trainer.serving.changes import ChangesFault
from trainer.serving.live import LiveCatalogue

Serve = Callable[..., TestClient]
ORANGE = picture((240, 140, 20))


def put(client: TestClient, name: str, content: bytes = ORANGE, **fields: str) -> tuple[int, dict]:
    fields = {"label": "orange"} | fields
    answer = client.put(f"/v1/products/{name}", files={"picture": content}, data=fields)
    return answer.status_code, answer.json()


def nearest(client: TestClient, content: bytes) -> str:
    answer = client.post("/v1/search", files={"picture": content}, data={"k": 1})
    return answer.json()["neighbours"][0]["id"]


def test_an_added_product_is_found_until_it_is_removed(serve: Serve) -> None:
    client = serve(writable=True)
    status, shown = put(client, "new/hat", category="hats", domain="shop", box="0,0,40,99")
    assert status == 201
    assert shown == {
        "id": "new/hat",
        "label": "orange",
        "category": "hats",
        "domain": "shop",
        "box": [0, 0, 40, 30],
        "picture": "/v1/pictures/new/hat",
    }
    assert nearest(client, ORANGE) == "new/hat"
    assert client.get("/v1/products/new/hat").json() == shown
    assert client.get("/v1/catalogue").json()["categories"] == ["hats", "shirts", "shoes"]
    assert put(client, "new/hat", label="other")[0] == 200
    assert client.get("/v1/products/new/hat").json()["label"] == "other"
    removed = client.delete("/v1/products/new/hat")
    assert (removed.status_code, removed.content) == (204, b"")
    assert nearest(client, ORANGE) != "new/hat"
    for path in ("products", "pictures", "neighbours"):
        assert client.get(f"/v1/{path}/new/hat").status_code == 404
    assert client.delete("/v1/products/new/hat").status_code == 404


def test_a_product_that_is_there_is_kept_if_asked(serve: Serve) -> None:
    client = serve(writable=True)
    answer = client.put(
        "/v1/products/shirts/red.png?replace=false",
        files={"picture": ORANGE},
        data={"label": "orange"},
    )
    assert answer.status_code == 409
    assert client.get("/v1/products/shirts/red.png").json()["label"] == "red"


@pytest.mark.parametrize(
    "name", ["a%20b", "a//b", "a/", ".hidden", "a/%2e%2e/b", "x" * 201, "a%0ab", "%00", "%C3%BC"]
)
def test_ids_that_make_trouble_are_refused(serve: Serve, name: str) -> None:
    client = serve(writable=True)
    assert put(client, name)[0] in (404, 422)
    assert client.get("/v1/catalogue").json()["count"] == 6


def test_a_product_needs_a_picture_and_a_label(serve: Serve) -> None:
    client = serve(writable=True)
    assert put(client, "new", b"no picture")[0] == 415
    status, answer = put(client, "new", label=" ")
    assert (status, answer["detail"]) == (422, "label: must be one line of text, and not blank")
    assert put(client, "new", ORANGE[:400])[0] == 422
    assert client.get("/v1/catalogue").json()["count"] == 6


def test_a_full_disk_is_told_without_its_path(
    serve: Serve, catalogue: LiveCatalogue, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise ChangesFault("cannot write /srv/shop/index.changes.sqlite: no space left on device")

    catalogue.add = catalogue.remove = full  # type: ignore[method-assign]
    client = serve(writable=True)
    for answer in (
        client.put("/v1/products/n", files={"picture": ORANGE}, data={"label": "x"}),
        client.delete("/v1/products/shirts/red.png"),
    ):
        assert answer.status_code == 503
        assert "/srv" not in answer.text
    assert "no space left" in caplog.text


def test_products_are_listed_in_pages(client: TestClient) -> None:
    first = client.get("/v1/products", params={"limit": 4}).json()
    assert (len(first["products"]), first["more"]) == (4, True)
    last = client.get("/v1/products", params={"offset": 4, "limit": 4}).json()
    assert (len(last["products"]), last["more"], last["offset"]) == (2, False, 4)
    names = {product["id"] for product in first["products"] + last["products"]}
    assert len(names) == 6
    shoes = client.get("/v1/products", params={"category": "shoes", "limit": 3}).json()
    assert [product["label"] for product in shoes["products"]] == list(COLOURS)
    assert shoes["more"] is False


def test_pictures_of_products_are_small_jpeg_files(client: TestClient) -> None:
    answer = client.get("/v1/pictures/shirts/red.png", params={"size": 20})
    assert answer.headers["Content-Type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "JPEG"
        assert image.size == (20, 15)
    again = {"If-None-Match": answer.headers["ETag"]}
    unchanged = client.get("/v1/pictures/shirts/red.png", params={"size": 20}, headers=again)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get("/v1/pictures/shirts/red.png", params={"size": 99999}).status_code == 422
    assert client.get("/v1/pictures/shirts/red.png", params={"size": 1}).status_code == 422


def test_a_picture_that_changed_is_not_the_one_before(serve: Serve) -> None:
    client = serve(writable=True)
    before = client.get("/v1/pictures/shirts/red.png").content
    put(client, "shirts/red.png")
    assert client.get("/v1/pictures/shirts/red.png").content != before


def test_pictures_are_kept_through_other_changes_but_not_too_many(
    serve: Serve, catalogue: LiveCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    picture = catalogue.picture
    monkeypatch.setattr(catalogue, "picture", lambda name: (drawn.append(name), picture(name))[1])
    client = serve(writable=True)
    content = client.get("/v1/pictures/shirts/red.png").content
    put(client, "another")
    assert client.get("/v1/pictures/shirts/red.png").content == content
    assert drawn == ["shirts/red.png"]
    monkeypatch.setattr(thumbnails, "KEPT", len(content))
    client.get("/v1/pictures/shirts/blue.png")
    client.get("/v1/pictures/shirts/red.png")
    assert drawn == ["shirts/red.png", "shirts/blue.png", "shirts/red.png"]


def test_a_mark_is_of_one_picture(tmp_path: Path) -> None:
    names = list(made(tmp_path / "index", count=3))
    with contextlib.closing(LiveCatalogue(tmp_path / "index")) as live:
        item = live.get(names[0])
        marks = [live.picture_mark(name) for name in names[:2]]
        for _ in range(2):  # The same texts each time.
            vector = live.vector(names[1])
            live.add(item.id, b"x", vector, label=item.label, replace=True)
            marks.append(live.picture_mark(item.id))
        live.add("other", b"x", vector, label="o")
        live.remove("other")
        assert live.picture_mark(item.id) is marks[-1]
        assert live.picture_mark(names[1]) is marks[1]
        assert len({id(mark) for mark in marks}) == 4


def test_what_the_catalogue_does_not_take_is_no_defect_of_the_disk(
    serve: Serve, catalogue: LiveCatalogue
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise UserError("item n: no label")

    catalogue.add = refuse  # type: ignore[method-assign]
    status, answer = put(serve(writable=True), "n")
    assert (status, answer) == (422, {"detail": "item n: no label"})


def test_a_file_of_changes_that_cannot_be_read_is_told(
    client: TestClient, catalogue: LiveCatalogue
) -> None:
    def broken(name: str) -> None:
        raise ChangesFault("cannot read /srv/shop/index.changes.sqlite: disk I/O error")

    catalogue.picture = broken  # type: ignore[method-assign,assignment]
    answer = client.get("/v1/pictures/shirts/red.png")
    assert answer.status_code == 503
    assert "/srv" not in answer.text


def test_a_picture_that_has_gone_is_told(client: TestClient, catalogue: LiveCatalogue) -> None:
    catalogue.picture = lambda name: ("/srv/shop/gone.jpg", None)  # type: ignore[method-assign]
    answer = client.get("/v1/pictures/shirts/red.png")
    assert answer.status_code == 404
    assert "/srv" not in answer.text

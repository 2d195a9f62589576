"""Searches by picture and by product."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.api.catalogue import COLOURS, picture
from trainer.config import UserError
from trainer.serving.api.errors import Refusal
from trainer.serving.api.service import while_connected
from trainer.serving.live import LiveCatalogue


def search(client: TestClient, content: bytes, **fields: object) -> dict:
    answer = client.post("/v1/search", files={"picture": content}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_of_any_kind_finds_products_like_it(client: TestClient, kind: str) -> None:
    found = search(client, picture(COLOURS["green"], kind=kind), k=3)
    assert [hit["rank"] for hit in found["neighbours"]] == [1, 2, 3]
    assert [hit["label"] for hit in found["neighbours"][:2]] == ["green", "green"]
    scores = [hit["score"] for hit in found["neighbours"]]
    assert scores == sorted(scores, reverse=True)
    assert found["query"] == {"width": 40, "height": 30, "box": None}
    assert found["seconds"] > 0


def test_a_filter_leaves_only_its_products(client: TestClient) -> None:
    content = picture(COLOURS["red"])
    found = search(client, content, category="shoes")["neighbours"]
    assert [hit["category"] for hit in found] == ["shoes"] * 3
    found = search(client, content, label="blue")["neighbours"]
    assert [hit["label"] for hit in found] == ["blue"] * 2
    assert search(client, content, category="hats")["neighbours"] == []


def test_a_product_finds_others_like_it(client: TestClient) -> None:
    answer = client.get("/v1/neighbours/shirts/red.png", params={"k": 2})
    assert answer.status_code == 200
    first, second = answer.json()["neighbours"]
    assert first["id"] == "shoes/red.png"
    assert first["score"] == pytest.approx(1)
    assert second["label"] != "red"
    assert client.get("/v1/neighbours/shirts/none").status_code == 404


def test_an_index_that_does_not_answer_is_no_defect(
    client: TestClient, catalogue: LiveCatalogue, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(*arguments: object, **options: object) -> Any:
        raise UserError("Milvus at http://10.0.0.7:19530 does not answer within 30 seconds")

    catalogue.search = catalogue.vector = silent  # type: ignore[method-assign]
    for answer in (
        client.post("/v1/search", files={"picture": picture(COLOURS["red"])}),
        client.get("/v1/neighbours/shirts/red.png"),
    ):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert "10.0.0.7" not in answer.text
    assert "POST /v1/search: Milvus at http://10.0.0.7:19530 does not answer" in caplog.text


def test_nothing_is_kept_of_a_refused_picture() -> None:
    class Picture:
        pass

    class Connected:
        async def receive(self) -> Any:
            await asyncio.sleep(60)

    async def refuse(content: Picture) -> None:
        raise Refusal(415, "no picture")

    async def scenario() -> weakref.ref[Picture]:
        content = Picture()
        seen = weakref.ref(content)
        try:
            await while_connected(Connected(), refuse(content))  # type: ignore[arg-type]
        except Refusal:
            del content
        return seen

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(scenario())() is None
    finally:
        gc.enable()

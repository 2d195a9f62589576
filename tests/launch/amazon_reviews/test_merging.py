"""Tables of all categories."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from trainer.launch.amazon_reviews.merging import TrainingRows, WriteSortedParts, put_together
from trainer.launch.beam.running import run


def product(asin: str, shop: list[str], users: dict[str, float]) -> dict[str, Any]:
    return {
        "asin": asin,
        "product_urls": shop,
        "user_urls": list(users),
        "similarities": list(users.values()),
    }


def downloaded(url: str, content: str = "") -> dict[str, Any]:
    return {"url": url, "path": f"images/{url}.jpg", "sha256": content or url}


PRODUCTS = [
    product("B1", ["p1", "p2"], {"u1": 0.55, "u2": 0.65, "u3": 0.3}),
    # Not downloaded but for one picture; all below; a file that is the same as of B1.
    product("B2", ["p3"], {"gone": 0.9}),
    product("B3", ["p4"], {"u4": 0.5}),
    product("B4", ["p1", "p5"], {"u5": 0.8, "copy of u2": 0.7}),
]
PICTURES = [
    *(downloaded(url) for url in ("p1", "p2", "p3", "p4", "p5", "u1", "u2", "u3", "u4", "u5")),
    downloaded("copy of u2", "u2"),
    # Of two categories: the same address was downloaded twice.
    downloaded("p5"),
]


def rows(threshold: float, least: int, expected: dict[str, list[str]]) -> dict[str, int]:
    def build(pipeline: beam.Pipeline) -> None:
        read = {
            "products": pipeline | "products" >> beam.Create(PRODUCTS),
            "pictures": pipeline | "pictures" >> beam.Create(PICTURES),
        }
        cells = [(asin, f"images/{url}.jpg") for asin, urls in expected.items() for url in urls]
        assert_that(read | TrainingRows(threshold, least), equal_to(cells))

    return run([], build)


def test_files_come_once_and_products_with_too_few_are_left_out() -> None:
    counts = rows(0.5, 2, {"B1": ["p1", "p2", "u1", "u2"], "B4": ["p5", "u5"]})
    assert counts == {
        "kept_0.5": 4 + 2 + 4,
        "kept_user_0.5": 2 + 1 + 2,
        "products_written_0.5": 2,
        "written_0.5": 6,
    }


def test_a_higher_threshold_keeps_less() -> None:
    rows(0.6, 3, {"B1": ["p1", "p2", "u2"]})
    rows(0.6, 1, {"B1": ["p1", "p2", "u2"], "B2": ["p3"], "B4": ["p5", "u5"]})


def test_parts_are_sorted_and_put_together_in_one_order_whoever_writes_them(tmp_path: Path) -> None:
    cells = [(f"B{n % 7}", f"images/{n:02d}, {n}.jpg") for n in range(40)]
    texts = []
    for number, given in enumerate((cells, cells[::-1] + cells[:3])):
        folder = str(tmp_path / f"parts-{number}")
        run(
            [],
            lambda p, given=given, folder=folder: (
                p | beam.Create(given) | WriteSortedParts(folder, columns=(1, 0))
            ),
        )
        put_together([folder, f"{tmp_path}/none"], ("image_path", "label"), f"{tmp_path}/t.csv")
        texts.append((tmp_path / "t.csv").read_text())
    assert texts[0] == texts[1]
    head, *lines = texts[0].splitlines()
    assert head == "image_path,label"
    assert sorted(lines) == sorted(f'"{path}",{asin}' for asin, path in cells)
    labels = [line.rpartition(",")[2] for line in lines]
    assert len([a for a, b in itertools.pairwise(labels) if a != b]) == 6

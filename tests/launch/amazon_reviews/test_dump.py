"""Files of the dump."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from trainer.config import UserError
from trainer.launch.amazon_reviews.dump import MALFORMED, ReadRecords, categories
from trainer.launch.beam.running import run


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_text("{}")
    return [str(folder / name) for name in names]


def test_files_are_paired_by_category(tmp_path: Path) -> None:
    names = ("All_Beauty_5.json.gz", "Home_5.json", "meta_All_Beauty.json.gz", "meta_Home.json")
    beauty, home, about_beauty, about_home = touch(tmp_path, *names)
    pairs = {"All_Beauty": (beauty, about_beauty), "Home": (home, about_home)}
    assert categories([home, beauty], [about_beauty, about_home]) == pairs
    assert categories([f"{tmp_path}/*_5.json*"], [f"{tmp_path}/meta_*"]) == pairs


def test_one_pair_needs_no_names(tmp_path: Path) -> None:
    one, other = touch(tmp_path, "sample.json", "about.json")
    assert categories([one], [other]) == {"sample": (one, other)}


@pytest.mark.parametrize(
    ("reviews", "metadata", "words"),
    [
        (["A_5.json", "B_5.json"], ["meta_A.json", "meta_C.json"], r"B_5.json has no file of meta"),
        (["A_5.json", "B_5.json"], ["meta_A.json"], r"B_5.json has no file of metadata"),
        (["A_5.json"], ["meta_A.json", "meta_C.json"], r"meta_C.json has no file of reviews"),
        (["A_5.json", "A.json"], ["meta_A.json"], r"both of the category A"),
    ],
)
def test_files_that_are_no_pairs_are_named(
    reviews: list[str], metadata: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        categories(touch(tmp_path, *reviews), touch(tmp_path, *metadata))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (about,) = touch(tmp_path, "meta_A.json")
    with pytest.raises(UserError, match=r"there is no file .*/A_5\.json\.gz"):
        categories([str(tmp_path / "A_5.json.gz")], [about])


def read(path: Path, records: list[object], faults: list[str]) -> dict[str, int]:
    def build(pipeline: beam.Pipeline) -> None:
        found = (
            pipeline
            | beam.Create([str(path)])
            | beam.ParDo(ReadRecords("reviews")).with_outputs(MALFORMED, main="records")
        )
        assert_that(found["records"], equal_to(records), label="records")
        assert_that(found[MALFORMED], equal_to(faults), label="faults")

    return run([], build)


LINES = [
    b'{"asin": "B1", "image": ["x"]}',
    b"",
    b'{"asin": "B2", "title": "\xe2\x98\x83", "reviewText": "not read"}',
    b"{'asin': 'B3'}",
    b'["B4"]',
    b'{"asin": 5}',
    b'{"asin": "B6"',
    b'{"asin": " "}',
    b'{"asin": "\xff"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("packed", [True, False])
def test_lines_become_records_and_what_is_malformed_is_counted(
    packed: bool, tmp_path: Path
) -> None:
    # The name says nothing: what begins as gzip is gzip.
    path = tmp_path / "A.json.gz"
    content = b"\n".join(LINES)
    path.write_bytes(gzip.compress(content) if packed else content)
    reasons = ["not JSON", "not a record", "no asin", "not JSON", "no asin", "not JSON", "not JSON"]
    counts = read(
        path,
        [{"asin": "B1", "image": ["x"]}, {"asin": "B2", "title": "\N{SNOWMAN}"}],
        [f"{path}:{line}: {reason}" for line, reason in enumerate(reasons, start=4)],
    )
    assert counts == {"reviews_lines": 9, "reviews_malformed": 7}


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (rb'{"asin": "B1", "reviewText": "half \ud83d"}', {"asin": "B1"}),
        (rb'{"asin": "B1", "title": "\udc00 half"}', {"asin": "B1", "title": "? half"}),
        (b'{"asin": "B1", "title": "\xed\xa0\xbd"}', {"asin": "B1", "title": "?"}),
        (rb'{"asin": "B\ud83d", "image": ["\ud83d"]}', {"asin": "B?", "image": ["?"]}),
        (rb'{"asin": "B1", "category": [{"\ud83d": 1}]}', {"asin": "B1", "category": [{"?": 1}]}),
        (rb'{"asin": "B1", "title": "\ud83d\ude00"}', {"asin": "B1", "title": "\U0001f600"}),
    ],
)
def test_halves_of_characters_are_handed_on_as_something_else(
    line: bytes, record: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "A.json"
    path.write_bytes(line)
    assert read(path, [record], []) == {"reviews_lines": 1}


def test_a_file_that_ends_in_the_middle_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "A.json.gz"
    content = gzip.compress(b"".join(json.dumps({"asin": f"B{n}"}).encode() for n in range(10)))
    path.write_bytes(content[:-9])
    counts = read(
        path, [], [f"{path}:1: Compressed file ended before the end-of-stream marker was reached"]
    )
    assert counts["reviews_cut_short"] == 1

"""Every row belongs to one shard, whatever their number."""

from __future__ import annotations

import dataclasses

import pytest

from trainer.config import UserError
from trainer.launch.embedding.plan import Plan, gaps, parse_shard, pieces


def plan(rows: int, shards: int, batch: int = 8) -> Plan:
    return Plan("model", "catalogue", "/shop/", rows, 16, batch, shards)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 40, 100, 1000])
@pytest.mark.parametrize("shards", [*range(1, 8), 200])
def test_shards_hold_each_row_once_in_order(rows: int, shards: int) -> None:
    parts = [plan(rows, shards).rows_of(shard) for shard in range(1, shards + 1)]
    assert [row for begin, end in parts for row in range(begin, end)] == list(range(rows))
    assert all(begin % 8 == 0 for begin, end in parts if begin < end)
    # As many whole batches in one as in another, but for one.
    sizes = [-(-(end - begin) // 8) for begin, end in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/b", "-1/4", "1/4/2", "1.0/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--shard "):
        parse_shard(text)


def test_shards_count_from_one() -> None:
    assert (parse_shard("1/1"), parse_shard(" 4/4 ")) == ((1, 1), (4, 4))


def test_what_is_left_is_cut_to_pieces() -> None:
    done = [(0, 8), (16, 24), (24, 32)]
    assert list(gaps(done, 0, 50)) == [(8, 16), (32, 50)]
    assert list(gaps([], 8, 8)) == []
    assert list(gaps([(0, 50)], 0, 50)) == []
    assert list(pieces([(8, 16), (32, 50)], 8)) == [(8, 16), (32, 40), (40, 48), (48, 50)]


def test_another_plan_is_named() -> None:
    one = plan(100, 4)
    one.refuse_others(dataclasses.asdict(one) | {"more": 1}, "DIR")
    for changes, words in (
        ({"model": "x", "dim": 3}, "another model:"),
        ({"catalogue": "x", "rows": 3}, "another catalogue:"),
        ({"shards": 3, "model": "x"}, "another model and number of shards:"),
    ):
        with pytest.raises(UserError, match=f"^DIR holds embeddings of {words} choose"):
            one.refuse_others(dataclasses.asdict(one) | changes, "DIR")

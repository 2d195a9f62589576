"""What is done of a catalogue, in files that need not know of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.config import UserError
from trainer.launch.embedding.blocks import Block, Blocks


def block(begin: int, end: int, faults: dict[int, str] | None = None) -> Block:
    rows = np.array([row for row in range(begin, end) if row not in (faults or {})], np.int64)
    vectors = np.repeat(rows[:, None], 4, axis=1).astype(np.float32)
    keys = np.repeat(rows[:, None], 32, axis=1).astype(np.uint8)
    states = np.arange(2 * begin, 2 * end).reshape(-1, 2)
    return Block(begin, end, rows, vectors, keys, states, faults or {})


def test_blocks_come_back_in_order_with_what_is_wrong(tmp_path: Path) -> None:
    blocks = Blocks(str(tmp_path / "blocks"))
    assert blocks.places() == []
    for one in (block(8, 16, {9: "the file is empty", 12: "größer"}), block(0, 8)):
        blocks.write(one)
    assert [(p.begin, p.end, p.good, p.bad) for p in blocks.places()] == [
        (0, 8, 8, 0),
        (8, 16, 6, 2),
    ]
    first, second = blocks.read()
    assert second.faults == {9: "the file is empty", 12: "größer"}
    whole = Block.joined([first, second])
    assert (whole.begin, whole.end, whole.faults) == (0, 16, second.faults)
    assert whole.states.ravel().tolist() == list(range(32))
    wanted = [*range(8), 8, 10, 11, 13, 14, 15]
    for array in (whole.rows, whole.embeddings[:, 3], whole.keys[:, 31]):
        assert array.tolist() == wanted


def test_of_rows_that_were_done_twice_one_is_taken(tmp_path: Path) -> None:
    blocks = Blocks(str(tmp_path))
    for one in (block(0, 8, {3: "timeout"}), block(0, 8), block(4, 12), block(8, 16)):
        blocks.write(one)
    assert [(p.begin, p.end, p.bad) for p in blocks.places()] == [(0, 8, 0), (8, 16, 0)]


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    blocks = Blocks(str(tmp_path))
    blocks.write(block(0, 8))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=rf"{path.name} is damaged: delete it"):
        list(blocks.read())


def test_blocks_are_dropped_and_cleared(tmp_path: Path) -> None:
    blocks = Blocks(str(tmp_path / "blocks"))
    blocks.clear()
    for begin in (0, 8):
        blocks.write(block(begin, begin + 8))
    blocks.drop(blocks.places()[:1])
    assert [place.begin for place in blocks.places()] == [8]
    # An earlier attempt does not come back in place of one that is dropped.
    for faults in ({9: "timeout", 10: "timeout"}, {9: "timeout"}):
        blocks.write(block(8, 16, faults))
    blocks.drop(blocks.places())
    assert blocks.places() == []
    (tmp_path / "blocks" / "plan.json").write_text("{}")
    (tmp_path / "blocks" / "scratch").mkdir()
    (tmp_path / "blocks" / "scratch" / "embeddings.npy").write_text("")
    blocks.clear()
    assert list(tmp_path.iterdir()) == []

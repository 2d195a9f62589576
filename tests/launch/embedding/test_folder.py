"""What may be in a folder that embeddings are to be written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.embedding.conftest import contents
from trainer.config import UserError
from trainer.launch.embedding.folder import ShardFolder
from trainer.launch.embedding.plan import Plan


def begin(folder: Path, shards: int = 1) -> None:
    ShardFolder(str(folder), Plan("model", "catalogue", "/shop/", 20, 16, 8, shards), 1).begin()


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ["blocks/red.jpg", "blocks/a/red.jpg", "blocks", "red.jpg"])
def test_files_of_ones_own_are_left_alone(tmp_path: Path, name: str, shards: int) -> None:
    path = tmp_path / ("shard-1-of-2" if shards == 2 else "") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"^{tmp_path}.*(holds something else|Not a directory)"):
        begin(tmp_path, shards)
    assert list(contents(tmp_path).values()) == [b"mine"]


def test_what_a_process_leaves_that_is_killed_before_the_plan_is_written(tmp_path: Path) -> None:
    """On a disk and in a bucket."""
    (tmp_path / "blocks").mkdir()
    for name in (".lock", "blocks/.plan.json.x1", "blocks/plan.json.0123456789ab.part"):
        (tmp_path / name).touch()
    begin(tmp_path)
    assert json.loads((tmp_path / "blocks" / "plan.json").read_text())["rows"] == 20

"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.launch.beam import places


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "folder" / "a.csv")
    with places.whole(path) as stream:
        stream.write(b"one")
    with pytest.raises(TypeError), places.whole(path) as stream:
        stream.writelines([b"two", "not bytes"])
    assert [p.read_bytes() for p in (tmp_path / "folder").iterdir()] == [b"one"]
    with places.whole(path) as stream:
        assert Path(path).read_bytes() == b"one"
        stream.write(b"three")
    assert places.find(f"{tmp_path}/folder/*") == [path]
    assert Path(path).read_bytes() == b"three"
    assert places.read_json(f"{tmp_path}/none.json") is None

"""Stages that are done once."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import UserError
from trainer.launch.amazon_reviews.options import table_name
from trainer.launch.amazon_reviews.stages import Stage


def stage(folder: Path, **settings: object) -> Stage:
    return Stage(str(folder / "some"), settings, "what it does")


def test_a_stage_is_finished_by_equal_settings_until_something_is_due(tmp_path: Path) -> None:
    one = stage(tmp_path, size=3, names=["a"])
    assert one.state() is None
    assert one.finished() is None
    one.begin(clear=False)
    assert one.finished() is None
    one.finish({"seen": 7}, due=1000)
    assert stage(tmp_path, size=3, names=["a"]).finished(now=999) == {"seen": 7}
    assert one.finished(now=1000) is None
    assert stage(tmp_path, size=4, names=["a"]).finished(now=999) is None
    with pytest.raises(UserError, match=r"^data holds work with other size \(what it does\)"):
        stage(tmp_path, size=4, names=["a"]).refuse_others("data")
    one.refuse_others("data")


def test_a_stage_begins_with_what_is_there_or_without(tmp_path: Path) -> None:
    one = stage(tmp_path)
    left = tmp_path / "some" / "deep" / ".left"
    left.parent.mkdir(parents=True)
    left.write_text("")
    one.begin(clear=False)
    assert left.exists()
    one.begin(clear=True)
    assert not left.exists()
    Path(one.note).write_text("{")
    with pytest.raises(UserError, match=r"stage\.json is damaged: delete"):
        one.state()


def test_names_of_files_stand_for_their_content(tmp_path: Path) -> None:
    one = stage(tmp_path, size=3)
    one.begin(clear=True)
    before = one.content("part-*")
    assert before == one.content("part-*") != stage(tmp_path, size=4).content("part-*")
    (tmp_path / "some" / "part-1").write_text("")
    assert one.content("part-*") != before


@pytest.mark.parametrize(
    ("threshold", "digits"), [(0.5, "05"), (0.6, "06"), (0.55, "055"), (0, "0"), (-0.25, "-025")]
)
def test_tables_are_named_as_the_published_ones(threshold: float, digits: str) -> None:
    assert table_name(threshold) == f"amazon_review_mean_{digits}_full_images.csv"

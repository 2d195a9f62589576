"""Stages that are done once, and files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest

from trainer.config import UserError
from trainer.launch.amazon_reviews import places
from trainer.launch.amazon_reviews.options import table_name
from trainer.launch.amazon_reviews.stages import Stage, check_options, run


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


class Ends(beam.DoFn):
    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def process(self, item: object) -> None:
        raise self._error("no more")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, UserError])
def test_errors_of_transforms_are_themselves(error: type[BaseException]) -> None:
    with pytest.raises(error):
        run([], lambda pipeline: pipeline | beam.Create([1]) | beam.ParDo(Ends(error)))


def test_options_of_servers_and_beams_own_pass() -> None:
    check_options(["--direct_running_mode", "multi_processing", "--direct_num_workers=2"])
    check_options(["--runner", "FlinkRunner", "--flink_master", "a:1", "--parallelism", "16"])


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


@pytest.mark.parametrize(
    ("threshold", "digits"), [(0.5, "05"), (0.6, "06"), (0.55, "055"), (0, "0"), (-0.25, "-025")]
)
def test_tables_are_named_as_the_published_ones(threshold: float, digits: str) -> None:
    assert table_name(threshold) == f"amazon_review_mean_{digits}_full_images.csv"

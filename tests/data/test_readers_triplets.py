import os
import zipfile
from pathlib import Path

import pytest

from trainer.config import UserError
from trainer.data.readers.triplets import triplets


@pytest.fixture
def shop(tmp_path):
    """Eight pictures in data/images, and lists of triplets for both splits."""
    (tmp_path / "images").mkdir()
    for name in "abcdefgh":
        (tmp_path / f"images/{name}.jpg").write_bytes(name.encode())
    (tmp_path / "train.csv").write_text(
        "c.jpg,a.jpg,d.jpg\nb.jpg,a.jpg,e.jpg\nd.jpg,e.jpg,a.jpg\nf.jpg,f.jpg,a.jpg\n"
    )
    (tmp_path / "val.csv").write_text("\ufeffa.jpg,g.jpg,h.jpg\r\n")
    return tmp_path


def named(table):
    """Triplets and groups through the names of the files."""
    names = [os.path.basename(path)[0] for path in table.path]
    rows = ["".join(names[row] for row in triplet) for triplet in table.triplets]
    groups: dict[int, str] = {}
    for name, code in zip(names, table.label, strict=True):
        groups[code] = groups.get(code, "") + name
    return rows, {"".join(sorted(group)) for group in groups.values()}


def test_rows_in_file_order_over_unique_pictures(shop):
    table = triplets(str(shop), train_csv="train.csv", images="images")
    rows, groups = named(table)
    assert rows == ["cad", "bae", "dea", "ffa"]
    # Anchor-positive chains: c-a-b and d-e; f only goes with itself.
    assert groups == {"abc", "de", "f"}
    assert [os.path.basename(path) for path in table.path] == [f"{x}.jpg" for x in "cadbef"]
    assert set(table.split) == {"train"}
    assert set(table.label_names) == {"train:c.jpg", "train:d.jpg", "train:f.jpg"}
    assert table.problems == ()


def test_anchors_are_one_domain_and_what_is_offered_the_other(shop):
    options = {"train_csv": "train.csv", "val_csv": "val.csv", "images": "images"}
    table = triplets(str(shop), **options, domains=("street", "shop"))
    names = [os.path.basename(path)[0] for path in table.path]
    found = {
        split: "".join(sorted(n for n, s, d in zip(names, table.split, table.domain, strict=True)
                              if (s, d) == (split, "street")))
        for split in ("train", "val")
    }  # fmt: skip
    # d and f are anchors, and offered in other rows; a is so in training, but not in validation.
    assert found == {"train": "bc", "val": "a"}
    assert set(table.domain) == {"street", "shop"}
    assert set(triplets(str(shop), **options).domain) == {""}
    for wrong in (("street",), ("shop", "shop"), ("a", "b", "c"), ("", "shop")):
        with pytest.raises(ValueError, match="two names"):
            triplets(str(shop), **options, domains=wrong)


def test_splits_have_rows_and_groups_of_their_own(shop):
    table = triplets(str(shop), train_csv="train.csv", val_csv="val.csv", images="images")
    val = table.in_split("val")
    assert named(val) == (["agh"], {"ag", "h"})
    assert named(table.in_split("train"))[1] == {"abc", "de", "f"}
    assert len(table) == 6 + 3
    assert not set(val.classes) & set(table.in_split("train").classes)


def test_long_chains_join(tmp_path):
    lines = [f"{i}.jpg,{i + 1}.jpg,x.jpg" for i in range(3000)]
    (tmp_path / "t.csv").write_text("\n".join(lines[::2] + lines[1::2]))
    for name in [*range(3001), "x"]:
        (tmp_path / f"{name}.jpg").touch()
    table = triplets(str(tmp_path), train_csv="t.csv")
    assert len(table.classes) == 2


def test_pictures_in_a_zip_with_or_without_a_folder_inside(shop):
    for inner in ("", "tops/"):
        place = shop / f"with{bool(inner)}"
        place.mkdir()
        (place / "train.csv").write_bytes((shop / "train.csv").read_bytes())
        with zipfile.ZipFile(place / "tops.zip", "w") as archive:
            for name in "abcdef":
                archive.writestr(f"{inner}{name}.jpg", name)
        table = triplets(str(place), train_csv="train.csv")
        assert named(table)[0] == ["cad", "bae", "dea", "ffa"]
        assert all(Path(path).read_text() == Path(path).name[0] for path in table.path)
        assert table.path[0] == str(place / "tops" / f"{inner}c.jpg")
        again = triplets(str(place), train_csv="train.csv", images="tops.zip")
        assert again.fingerprint() == table.fingerprint()


def test_pictures_in_the_data_path_or_a_folder_called_like_the_zip(shop):
    (shop / "images").rename(shop / "tops")
    by_default = triplets(str(shop), train_csv="train.csv")
    assert by_default.path[0] == str(shop / "tops/c.jpg")
    assert (
        triplets(str(shop), train_csv="train.csv", images="tops.zip").path[0] == by_default.path[0]
    )
    (shop / "train.csv").write_text("tops/c.jpg,tops/a.jpg,tops/b.jpg\n")
    (shop / "tops").rename(shop / "other")
    (shop / "train.csv").write_text("other/c.jpg,other/a.jpg,other/b.jpg\n")
    assert triplets(str(shop), train_csv="train.csv").path[0] == str(shop / "other/c.jpg")


def test_rows_that_cannot_be_used_are_named(shop):
    (shop / "train.csv").write_text(
        "anchor,positive,negative\na.jpg,b.jpg,c.jpg\na.jpg,b.jpg\na.jpg,,c.jpg\n"
        'a.jpg,zz.jpg,c.jpg\na.jpg,b.jpg,a.jpg\n"a.jpg"x,b.jpg,c.jpg\n'
    )
    table = triplets(str(shop), train_csv="train.csv", images="images")
    assert named(table)[0] == ["abc"]
    source = shop / "train.csv"
    assert [problem.split(": ", 1)[0] for problem in table.problems] == [
        f"{source}:{line}" for line in (1, 3, 4, 5, 6, 7)
    ]
    assert "there is no picture anchor" in table.problems[0]
    assert "2 fields" in table.problems[1]
    assert f"there is no picture zz.jpg in {shop}/images" in table.problems[3]
    assert "the negative is also" in table.problems[4]


def test_what_is_missing_is_named(shop):
    with pytest.raises(UserError, match=r"there is no .*nope.csv: train_csv names"):
        triplets(str(shop), train_csv="nope.csv")
    with pytest.raises(UserError, match="val_csv names"):
        triplets(str(shop), train_csv="train.csv", val_csv="nope.csv")
    with pytest.raises(UserError, match=r"there is no .*nope.zip: dataset.images names"):
        triplets(str(shop), train_csv="train.csv", images="nope.zip")
    with pytest.raises(UserError, match=r"no triplet that can be used; the first: .*train.csv:1"):
        triplets(str(shop), train_csv="train.csv")
    (shop / "empty.csv").touch()
    with pytest.raises(UserError, match=r"no triplet that can be used$"):
        triplets(str(shop), train_csv="empty.csv", images="images")

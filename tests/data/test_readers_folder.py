import os

import pytest

from trainer.config import UserError
from trainer.data.readers.folder import folder


def lay(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def rows(table, root):
    return [
        (os.path.relpath(path, root), table.label_names[code], split)
        for path, code, split in zip(table.path, table.label, table.split, strict=True)
    ]


def test_a_folder_per_label_in_alphabetical_order(tmp_path):
    lay(tmp_path, "shoe/b.JPG", "shoe/a.png", "bag/deep/er/c.webp", "bag/4f1c")
    assert rows(folder(str(tmp_path)), tmp_path) == [
        ("bag/4f1c", "bag", ""),
        ("bag/deep/er/c.webp", "bag", ""),
        ("shoe/a.png", "shoe", ""),
        ("shoe/b.JPG", "shoe", ""),
    ]


def test_top_folders_of_splits(tmp_path):
    lay(tmp_path, "train/shoe/a.jpg", "train/bag/b.jpg", "test/shoe/c.jpg", "val/hat/d.jpg")
    table = folder(str(tmp_path))
    assert table.label_names == ("bag", "hat", "shoe")
    assert sorted(rows(table, tmp_path)) == [
        ("test/shoe/c.jpg", "shoe", "test"),
        ("train/bag/b.jpg", "bag", "train"),
        ("train/shoe/a.jpg", "shoe", "train"),
        ("val/hat/d.jpg", "hat", "val"),
    ]
    assert set(folder(str(tmp_path), splits="no").split) == {""}
    assert folder(str(tmp_path), splits="no").label_names == ("test", "train", "val")


def test_a_label_may_be_called_like_a_split(tmp_path):
    lay(tmp_path, "train/a.jpg", "plane/b.jpg")
    assert folder(str(tmp_path)).label_names == ("plane", "train")


def test_what_could_be_either_must_be_said(tmp_path):
    lay(tmp_path, "train/shoe/a.jpg", "test/shoe/b.jpg", "other/c.jpg")
    with pytest.raises(UserError, match=r"set dataset.splits=yes if"):
        folder(str(tmp_path))
    assert len(folder(str(tmp_path), splits="yes")) == 2
    assert folder(str(tmp_path), splits="no").label_names == ("other", "test", "train")


def test_files_that_are_no_pictures_are_ignored_or_named(tmp_path):
    lay(tmp_path, "shoe/a.jpg", "shoe/.DS_Store", ".git/b.jpg", "shoe/Thumbs.db", "shoe/notes.txt")
    lay(tmp_path, "loose.jpg")
    table = folder(str(tmp_path))
    assert len(table) == 1
    assert table.problems == (
        f"{tmp_path}/loose.jpg:0: it is not in the folder of a label",
        f"{tmp_path}/shoe/notes.txt:0: its ending is not that of a picture",
    )


def test_links_to_folders_are_followed_once(tmp_path):
    lay(tmp_path, "data/shoe/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "data/bag").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert [name for name, _, _ in rows(folder(str(tmp_path / "data")), tmp_path / "data")] == [
        "bag/b.jpg",
        "shoe/a.jpg",
    ]


def test_no_pictures(tmp_path):
    with pytest.raises(UserError, match=r"holds no pictures laid out as LABEL/picture.jpg"):
        folder(str(tmp_path))
    lay(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"train/LABEL/picture.jpg"):
        folder(str(tmp_path), splits="yes")
    with pytest.raises(UserError, match="does not exist"):
        folder(str(tmp_path / "nothing"))

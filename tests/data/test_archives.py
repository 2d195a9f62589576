import os
import stat
import struct
import zipfile

import pytest

from trainer.config import UserError
from trainer.data import archives


def make(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return str(path)


def tree(folder):
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    )


@pytest.fixture
def box(tmp_path):
    """A folder with a neighbour, to see whether anything got out."""
    (tmp_path / "box").mkdir()
    (tmp_path / "secret.txt").write_text("untouched")
    yield tmp_path / "box"
    assert (tmp_path / "secret.txt").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["box", "secret.txt"]


def test_unpacks_once_beside_the_archive(box):
    path = make(box / "tops.zip", [("tops/", ""), ("tops/a.jpg", b"A"), ("tops/b/c.jpg", b"C")])
    folder = archives.unpacked(path)
    assert folder == str(box / "tops")
    assert tree(folder) == [archives.NOTE, "tops/a.jpg", "tops/b/c.jpg"]
    before = os.stat(f"{folder}/tops/a.jpg")
    assert archives.unpacked(path) == folder
    assert os.stat(f"{folder}/tops/a.jpg") == before


def test_an_archive_that_changed_is_unpacked_again(box):
    folder = archives.unpacked(make(box / "tops.zip", [("a.jpg", b"A"), ("old.jpg", b"O")]))
    path = make(box / "tops.zip", [("a.jpg", b"new"), ("b.jpg", b"B")])
    assert archives.unpacked(path) == folder
    assert tree(folder) == [archives.NOTE, "a.jpg", "b.jpg"]
    make(box / "tops.zip", [("../a.jpg", b"worse")])
    with pytest.raises(UserError):
        archives.unpacked(path)
    assert tree(folder) == [archives.NOTE, "a.jpg", "b.jpg"]
    assert sorted(os.listdir(box)) == ["tops", "tops.zip"]


def test_a_folder_unpacked_by_hand_is_taken_as_it_is(box):
    (box / "tops").mkdir()
    (box / "tops/mine.jpg").write_bytes(b"M")
    path = make(box / "tops.zip", [("a.jpg", b"A")])
    assert tree(archives.unpacked(path)) == ["mine.jpg"]


def test_goes_to_the_cache_where_the_folder_is_read_only(box, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(box / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    path = make(box / "tops.zip", [("a.jpg", b"A")])
    folder = archives.unpacked(path)
    assert folder.startswith(str(box / "cache/tops-"))
    assert archives.unpacked(path) == folder
    assert "a.jpg" in tree(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "/secret.txt",
        "a/../../secret.txt",
        "..\\secret.txt",
        "C:\\secret.txt",
        "..",
    ],
)
def test_entries_that_climb_out_are_refused_before_anything_is_written(box, name):
    path = make(box / "tops.zip", [("good.jpg", b"A"), (name, b"evil")])
    with pytest.raises(UserError, match="leads out of the folder") as caught:
        archives.unpacked(path)
    assert repr(name) in str(caught.value)
    assert os.listdir(box) == ["tops.zip"]


@pytest.mark.parametrize(("kind", "word"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "a device")])
def test_links_and_devices_are_refused(box, kind, word):
    entry = zipfile.ZipInfo("innocent.jpg")
    entry.external_attr = (kind | 0o777) << 16
    path = make(box / "tops.zip", [(entry, "../secret.txt")])
    with pytest.raises(UserError, match=word):
        archives.unpacked(path)
    assert os.listdir(box) == ["tops.zip"]


def test_zip_bombs_are_refused(box, monkeypatch):
    monkeypatch.setattr(archives, "GROWTH_FREE", 1_000_000)
    zeros = [(f"{i}.jpg", bytes(300_000)) for i in range(4)]
    path = make(box / "tops.zip", zeros, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="refused as a zip bomb"):
        archives.unpacked(path)
    # The same size in bytes that do not shrink is a data set like any other.
    noise = [(f"{i}.jpg", os.urandom(300_000)) for i in range(4)]
    assert len(tree(archives.unpacked(make(path, noise, zipfile.ZIP_DEFLATED)))) == 5


def test_an_entry_larger_than_it_says_does_not_get_through(box):
    path = make(box / "tops.zip", [("a.jpg", bytes(100_000))], zipfile.ZIP_DEFLATED)
    data = bytearray((box / "tops.zip").read_bytes())
    for start, offset in ((data.find(b"PK\x01\x02"), 24), (0, 22)):
        data[start + offset : start + offset + 4] = struct.pack("<I", 10)
    (box / "tops.zip").write_bytes(data)
    with pytest.raises(UserError, match="copy or download it again"):
        archives.unpacked(path)
    assert os.listdir(box) == ["tops.zip"]


@pytest.mark.parametrize(
    "entries",
    [[("a.jpg", "1"), ("./a.jpg", "2")], [("a", "1"), ("a/b.jpg", "2")]],
    ids=["twice", "below a file"],
)
def test_entries_in_each_others_way_are_refused(box, entries):
    with pytest.raises(UserError, match="refused"):
        archives.unpacked(make(box / "tops.zip", entries))
    assert os.listdir(box) == ["tops.zip"]


def _cut(data):
    return data[: len(data) // 2]


def _flip(data):
    return data[:60] + bytes(b ^ 0xFF for b in data[60:80]) + data[80:]


def _encrypt(data):
    at = data.find(b"PK\x01\x02") + 8
    return data[:at] + b"\x01\x00" + data[at + 2 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "copy or download it again"),
        (_flip, "copy or download it again"),
        (_encrypt, "encrypted"),
        (lambda data: b"", "copy or download it again"),
        (lambda data: b"<html>not found</html>", "copy or download it again"),
    ],
    ids=["truncated", "damaged", "encrypted", "empty", "foreign"],
)
def test_damaged_archives_are_refused_and_leave_nothing(box, damage, message):
    path = make(box / "tops.zip", [("a.jpg", bytes(range(256)) * 8), ("b.jpg", b"B")])
    (box / "tops.zip").write_bytes(damage((box / "tops.zip").read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        archives.unpacked(path)
    assert "\n" not in str(caught.value)
    assert os.listdir(box) == ["tops.zip"]


def test_a_full_disk_is_told_before_and_while_unpacking(box, monkeypatch):
    path = make(box / "tops.zip", [("a.jpg", b"A" * 1000)])
    usage = archives.shutil.disk_usage(box)
    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(UserError, match="MiB free: make room"):
            archives.unpacked(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_copy", full)
        with pytest.raises(UserError, match=r"cannot unpack .*: no space left on device"):
            archives.unpacked(path)
    assert os.listdir(box) == ["tops.zip"]


def test_a_missing_archive(box):
    with pytest.raises(UserError, match=r"cannot read .*tops.zip: no such file"):
        archives.unpacked(str(box / "tops.zip"))

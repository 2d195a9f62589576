import gzip
import os
import struct

import numpy as np
import pytest
from PIL import Image

from trainer.config import UserError
from trainer.data.prepare import fashion_mnist
from trainer.data.prepare.fashion_mnist import LABELS, prepare
from trainer.data.readers.items import items

COUNTS = {"train": 6, "t10k": 4}  # pictures of each class


def idx(values):
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return head + values.tobytes()


def arrays(name):
    rng = np.random.default_rng(len(name))
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), COUNTS[name]))
    return rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8), labels


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in COUNTS:
        images, labels = arrays(name)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), 1))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def counts(table):
    return {
        split: {table.label_names[code]: int((rows.label == code).sum()) for code in rows.classes}
        for split in table.splits
        for rows in [table.in_split(split)]
    }


def test_open_and_closed_split_over_the_same_pictures(source, tmp_path):
    prepare(str(tmp_path / "out"), str(source), val_per_class=3)
    seen, unseen = LABELS[:5], LABELS[5:]
    open_set, closed = (items(str(tmp_path / "out" / name)) for name in ("open", "closed"))
    assert counts(open_set) == {
        "train": dict.fromkeys(sorted(seen), 6),
        "val": dict.fromkeys(sorted(seen), 3),
        "test": dict.fromkeys(sorted(unseen), 4),
    }
    assert counts(closed) == {
        "train": dict.fromkeys(sorted(LABELS), 6),
        "test": dict.fromkeys(sorted(LABELS), 4),
    }
    assert closed.category.tolist() == [closed.label_names[code] for code in closed.label]
    assert open_set.problems == closed.problems == ()
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_every_picture_has_its_pixels_and_its_label(source, tmp_path):
    prepare(str(tmp_path / "out"), str(source))
    table = items(str(tmp_path / "out/closed"))
    for name, part in (("train", "train"), ("t10k", "test")):
        images, labels = arrays(name)
        rows = table.in_split(part)
        assert [rows.label_names[code] for code in rows.label] == [LABELS[x] for x in labels]
        for path, pixels in zip(rows.path, images, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)


def test_the_folder_can_be_moved(source, tmp_path):
    prepare(str(tmp_path / "out"), str(source))
    (tmp_path / "out").rename(tmp_path / "moved")
    assert all(os.path.isfile(path) for path in items(str(tmp_path / "moved/open")).path)


def test_limit_takes_the_first_of_each_class_and_part(source, tmp_path):
    prepare(str(tmp_path / "out"), str(source), limit=2)
    table = items(str(tmp_path / "out/closed"))
    assert set(table.splits) == {"train", "test"}
    for split in ("train", "test"):
        assert set(counts(table)[split].values()) == {2}
    labels = arrays("train")[1]
    first = np.flatnonzero(labels == 3)[:2]
    rows = table.in_split("train")
    dresses = rows.select(rows.label == rows.label_names.index("dress")).path
    assert [int(os.path.basename(path)[:5]) for path in dresses] == first.tolist()


def test_what_it_made_is_kept_or_replaced(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    prepare(str(out), str(source), limit=1)
    before = os.stat(out / "open/items.csv")
    prepare(str(out), str(tmp_path / "gone"), limit=1)
    assert os.stat(out / "open/items.csv").st_ino == before.st_ino
    prepare(str(out), str(source), limit=2)
    assert len(items(str(out / "closed"))) == 40
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_what_it_did_not_make_is_left_alone(source, tmp_path):
    out = tmp_path / "out"
    prepare(str(out), str(source), limit=1)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not made by this command .*notes.txt"):
        prepare(str(out), str(source), limit=2)
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="choose another folder"):
        prepare(str(source), str(source))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="choose another folder"):
        prepare(str(tmp_path / "file"), str(source))
    assert (tmp_path / "file").read_text() == "mine"


def _rewrite(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


IMAGES, NAMES = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / IMAGES).unlink(), f"there is no {IMAGES} or train-images"),
        (_rewrite(IMAGES, lambda data: data[:-100]), "damaged or truncated"),
        (_rewrite(IMAGES, lambda data: b"not a gzip file"), "damaged or truncated"),
        (_rewrite(IMAGES, lambda data: gzip.compress(b"")), "damaged or truncated"),
        (_rewrite(NAMES, lambda data: data[:-1]), "is truncated"),
        (_rewrite(NAMES, lambda data: data + b"x"), "goes on after its end"),
        (_rewrite(NAMES, lambda data: data[:6]), "damaged or truncated"),
        (_rewrite(NAMES, lambda data: b"<html>404</html>"), "not an IDX file of bytes in 1 dim"),
        (_rewrite(NAMES, lambda data: data[:4] + b"\xff" * 4 + data[8:]), "not Fashion-MNIST"),
        (_rewrite(NAMES, lambda data: data[:-1] + b"\x0a"), "a label 10"),
        (_rewrite(NAMES, lambda data: idx(np.zeros(39, np.uint8))), "39 labels"),
        (_rewrite(IMAGES, lambda _: gzip.compress(idx(np.zeros((60, 32, 32), np.uint8)))), "32"),
    ],
)
def test_a_damaged_or_foreign_source_is_refused(source, tmp_path, damage, message):
    damage(source)
    with pytest.raises(UserError, match=message) as caught:
        prepare(str(tmp_path / "out"), str(source))
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["source"]


def test_a_full_disk_leaves_what_was_there(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(str(out), str(source), limit=1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*no space left on device"):
        prepare(str(out), str(source), limit=2)
    assert len(items(str(out / "closed"))) == 20
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_debians_folder_then_the_download(source, tmp_path, monkeypatch):
    from keras.datasets import fashion_mnist as published

    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", str(source))
    prepare(str(tmp_path / "one"), limit=1)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", str(tmp_path / "no"))
    monkeypatch.setattr(published, "load_data", lambda: (arrays("train"), arrays("t10k")))
    prepare(str(tmp_path / "two"), limit=1)
    for name in ("open", "closed"):
        one, two = (items(str(tmp_path / made / name)) for made in ("one", "two"))
        assert one.fingerprint() == two.fingerprint()

    def offline():
        raise OSError("URL fetch failure")

    monkeypatch.setattr(published, "load_data", offline)
    with pytest.raises(UserError, match=r"URL fetch failure.*go online, or get its four IDX files"):
        prepare(str(tmp_path / "three"))
    with pytest.raises(UserError, match="there is no folder"):
        prepare(str(tmp_path / "three"), str(tmp_path / "nowhere"))

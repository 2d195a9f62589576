import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import UserError, get
from trainer.data.generated import products
from trainer.data.readers import synthetic as module
from trainer.data.readers.synthetic import synthetic

drawn = products.product
SMALL = {"classes": 8, "views": 4, "size": 32, "val": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return folder, synthetic(str(folder), **SMALL)


def contents(folder):
    """Relative path -> digest, of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_every_product_has_its_views_in_both_domains_and_one_split(made):
    _, table = made
    assert len(table) == 32
    assert len(table.classes) == 8
    for code in table.classes:
        rows = table.select(table.label == code)
        assert sorted(rows.domain) == ["shop", "shop", "street", "street"]
        assert len(set(rows.split)) == 1
        assert len(set(rows.category)) == 1
    assert {name: len(table.in_split(name).classes) for name in table.splits} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    assert table.problems == ()


def test_pictures_are_jpeg_files_of_the_size_asked_for(made):
    _, table = made
    for path in table.path:
        with Image.open(path) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")


@pytest.mark.parametrize("threads", [1, 5])
def test_one_seed_gives_the_same_bytes_whoever_draws(made, tmp_path, monkeypatch, threads):
    folder, table = made
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    again = synthetic(str(tmp_path), **SMALL)
    assert contents(tmp_path) == contents(folder)
    assert again.fingerprint() == table.fingerprint()


def test_another_seed_gives_other_products_in_a_folder_of_its_own(made, tmp_path):
    folder, _ = made
    synthetic(str(tmp_path), **SMALL, seed=1)
    one, other = contents(folder), contents(tmp_path)
    assert not set(one) & set(other)
    assert not {v for k, v in one.items() if k.endswith(".jpg")} & set(other.values())


def test_another_seed_takes_other_photographs_even_of_the_same_product(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "product", lambda number, _, side: drawn(number, 0, side))
    for seed in (0, 1):
        synthetic(str(tmp_path / str(seed)), **SMALL, seed=seed)
    one, other = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert not {v for k, v in one.items() if k.endswith(".jpg")} & set(other.values())


def test_all_views_differ(made):
    folder, _ = made
    digests = [digest for name, digest in contents(folder).items() if name.endswith(".jpg")]
    assert len(set(digests)) == 32


def test_more_classes_leave_the_first_products_as_they_are(made, tmp_path):
    folder, _ = made
    synthetic(str(tmp_path), **{**SMALL, "classes": 9})
    first = next(folder.rglob("00003-002.jpg")).read_bytes()
    assert next(tmp_path.rglob("00003-002.jpg")).read_bytes() == first


def test_made_once_and_taken_up_again(made, monkeypatch):
    folder, table = made
    monkeypatch.setattr(module, "_draw", lambda *_: pytest.fail("drawn again"))
    assert synthetic(str(folder), **SMALL).fingerprint() == table.fingerprint()


def test_boxes_hold_the_product(made):
    folder, table = made
    assert np.isnan(table.box).all()
    boxes = synthetic(str(folder), **SMALL, boxes=True).box
    x, y, w, h = boxes.T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= 32).all()
    assert (y + h <= 32).all()
    # On paper, what is far from the corner's colour lies in the box: the product.
    for row in np.flatnonzero(table.domain == "shop"):
        picture = np.asarray(Image.open(table.path[row]), np.int16)
        far = np.abs(picture - picture[0, 0]).max(axis=-1) > 90
        inside = np.zeros_like(far)
        left, top, width, height = boxes[row].astype(int)
        inside[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1] = True
        assert far.any()
        assert not (far & ~inside).any()


def test_a_catalogue_that_was_cut_off_is_not_there(tmp_path, monkeypatch):
    def full(self, data):
        if self.name == "00002-001.jpg":
            raise OSError(28, "No space left on device")
        return write(self, data)

    write = Path.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"cannot write .*no space left on device"):
            synthetic(str(tmp_path), **SMALL)
    assert os.listdir(tmp_path) == []
    assert len(synthetic(str(tmp_path), **SMALL)) == 32


@pytest.mark.parametrize("data_path", ["", "gs://bucket/data"])
def test_the_cache_takes_what_has_no_folder(tmp_path, monkeypatch, data_path):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))
    table = synthetic(data_path, **SMALL)
    assert table.path[0].startswith(str(tmp_path / "cache/synthetic-"))


def test_the_cache_takes_what_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    table = synthetic(str(tmp_path / "read/only"), **SMALL)
    assert table.path[0].startswith(str(tmp_path / "cache/synthetic-"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 0}, "classes is 0, allowed is 1"),
        ({"size": 8}, "size is 8, allowed is 16 to 4096"),
        ({"street": 1.5}, "street is 1.5"),
        ({"val": 0.6, "test": 0.5}, "val \\+ test is 1.1"),
        ({"classes": 2, "val": 0.1}, "2 classes leave none for val"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_values_out_of_range(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        synthetic(str(tmp_path), **{**SMALL, **change})
    assert os.listdir(tmp_path) == []


def test_is_a_component():
    component = get("dataset", "synthetic")
    assert component.check({"classes": "200"})["classes"] == 200
    assert set(component.parameters) >= {"classes", "views", "size", "street", "seed"}


def test_colour_alone_tells_some_but_not_all_products_apart(tmp_path):
    table = synthetic(str(tmp_path), classes=40, views=6, size=64, val=0, test=1, seed=3)
    histograms = []
    for path in table.path:
        levels = np.asarray(Image.open(path)).reshape(-1, 3).astype(int) // 32
        count = np.bincount(levels @ [64, 8, 1], minlength=512)
        histograms.append(np.sqrt(count / count.sum()))
    similarity = np.array(histograms) @ np.array(histograms).T
    np.fill_diagonal(similarity, -1)
    right = table.label[similarity.argmax(axis=1)] == table.label
    assert 0.15 < right.mean() < 0.65

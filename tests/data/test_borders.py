"""White borders: found from the pixels, whatever JPEG does to them, and remembered."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from trainer.data import borders
from trainer.data.borders import inner_box, inner_boxes


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def product(size=(120, 90), box=(30, 20, 50, 40), colour=(40, 60, 200)):
    """A rectangle on white; box is x, y, w, h."""
    image = Image.new("RGB", size, "white")
    x, y, w, h = box
    image.paste(colour, (x, y, x + w, y + h))
    return image


@pytest.mark.parametrize("tolerance", [0, 10])
def test_the_box_is_what_is_inside(tolerance):
    pixels = np.asarray(product())
    assert inner_box(pixels, tolerance=tolerance) == [30, 20, 50, 40]
    # White inside the product is no border, and a border on one side is one.
    ring = np.asarray(product(box=(0, 0, 120, 70))).copy()
    ring[10:60, 10:110] = 255
    assert inner_box(ring, tolerance=tolerance) == [0, 0, 120, 70]
    # A line one pixel wide is a product.
    line = np.full((50, 50, 3), 255, np.uint8)
    line[5:40, 7] = 0
    assert inner_box(line, tolerance=tolerance) == [7, 5, 1, 35]


@pytest.mark.parametrize("tolerance", [0, 10])
def test_no_border_and_nothing_but_border(tolerance):
    for colour in ("#ffffff", "#203040"):
        pixels = np.asarray(Image.new("RGB", (30, 20), colour))
        assert inner_box(pixels, tolerance=tolerance) == []


def test_what_is_white_enough():
    pixels = np.full((40, 60, 3), 245, np.uint8)
    pixels[10:30, 20:50] = [255, 244, 255]
    assert inner_box(pixels, tolerance=10) == [20, 10, 30, 20]
    assert inner_box(pixels, tolerance=11) == []
    assert inner_box(pixels, tolerance=0) == []  # all of it is drawn
    # A single dark pixel is noise, where noise is put up with.
    speck = np.asarray(product()).copy()
    speck[2, 3] = 0
    assert inner_box(speck, tolerance=10) == [30, 20, 50, 40]
    assert inner_box(speck, tolerance=0) == [3, 2, 77, 58]


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_jpeg_noise_around_a_product_moves_the_box_by_a_block_at_most(tmp_path, quality):
    path = tmp_path / "product.jpg"
    random = np.random.default_rng(0)
    pixels = np.asarray(product((200, 160), (60, 50, 70, 60))).copy()
    pixels[50:110, 60:130] = random.integers(0, 200, (60, 70, 3))
    Image.fromarray(pixels).save(path, quality=quality, subsampling=2)
    (box,) = inner_boxes([str(path)])
    # Blocks of colours are 16 pixels wide: the frame of those that the product reaches into.
    x, y, w, h = box
    assert 48 <= x <= 60
    assert 48 <= y <= 50
    assert 130 <= x + w <= 144
    assert 110 <= y + h <= 112
    blank = tmp_path / "blank.jpg"
    Image.new("RGB", (64, 64), "white").save(blank, quality=quality)
    assert np.isnan(inner_boxes([str(blank)])).all()


def test_transparent_pictures_lie_on_white_and_bad_files_stay_whole(tmp_path):
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (10, 12, 30, 34))
    clear.save(tmp_path / "clear.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    paths = [str(tmp_path / name) for name in ("cut.jpg", "clear.png", "none.jpg")]
    found = inner_boxes(paths)
    assert found.dtype == np.float32
    assert found[1].tolist() == [10, 12, 20, 22]
    assert np.isnan(found[[0, 2]]).all()


def test_boxes_are_found_once_and_anew_for_files_that_changed(tmp_path, cache, monkeypatch):
    paths = [str(tmp_path / f"{n}.png") for n in range(3)]
    for n, path in enumerate(paths):
        product(box=(10 + n, 20, 30, 40)).save(path)
    first = inner_boxes(paths)
    assert first[:, 0].tolist() == [10, 11, 12]
    looked_at = []

    def look(paths, tolerance):
        looked_at.extend(paths)
        return found(paths, tolerance)

    found = borders._look
    monkeypatch.setattr(borders, "_look", look)
    np.testing.assert_array_equal(inner_boxes(paths), first)
    assert not looked_at
    product(box=(50, 20, 30, 40)).save(paths[1])
    os.utime(paths[1], (1, 1))
    changed = inner_boxes([*paths, paths[1]])
    assert looked_at == [paths[1]]
    assert changed[:, 0].tolist() == [10, 50, 12, 50]
    # A shorter list takes nothing from the others, and what could not be opened is looked at again.
    looked_at.clear()
    Image.new("RGB", (8, 8)).save(paths[2])
    good, bad = (tmp_path / "2.png").read_bytes(), b"cut"
    (tmp_path / "2.png").write_bytes(bad)
    os.utime(paths[2], (5, 5))
    assert np.isnan(inner_boxes(paths[2:])).all()
    inner_boxes(paths[:2])
    assert looked_at == [paths[2]]
    inner_boxes(paths[2:])
    assert looked_at == [paths[2]] * 2
    (tmp_path / "2.png").write_bytes(good)
    looked_at[:] = [paths[1]]
    # Another tolerance is another question.
    inner_boxes(paths, tolerance=0)
    assert looked_at[1:] == paths


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 3}', '{"a": ["x"]}', "\xff"])
def test_a_damaged_cache_is_as_none(tmp_path, cache, damage):
    path = str(tmp_path / "a.png")
    product().save(path)
    first = inner_boxes([path])
    (kept,) = cache.iterdir()
    assert len(json.loads(kept.read_text())) == 1
    kept.write_text(damage, encoding="latin-1")
    np.testing.assert_array_equal(inner_boxes([path]), first)
    assert len(json.loads(kept.read_text())) == 1


def test_without_a_place_for_the_cache_boxes_are_found_all_the_same(tmp_path, cache):
    cache.write_text("a file, not a folder")
    product().save(tmp_path / "a.png")
    assert inner_boxes([str(tmp_path / "a.png")]).tolist() == [[30, 20, 50, 40]]
    assert inner_boxes([]).shape == (0, 4)

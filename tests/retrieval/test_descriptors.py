"""Descriptors see what they are named after, and nothing is guessed about broken pictures."""

import sys

import numpy as np
import pytest
from PIL import Image

from trainer.config import UserError
from trainer.data.table import ItemTable
from trainer.retrieval import descriptors
from trainer.retrieval.baseline import color_histogram
from trainer.retrieval.descriptors import describe, trunk_features


def stripes(folder, name, colours, period, *, upright=True, side=96):
    band = (np.arange(side) // period % 2).astype(int)
    pixels = np.array(colours, np.uint8)[np.broadcast_to(band, (side, side))]
    path = folder / name
    Image.fromarray(pixels if upright else pixels.swapaxes(0, 1)).save(path)
    return str(path)


@pytest.fixture
def pictures(tmp_path):
    """Wide and narrow, upright and level stripes, in red and in green."""
    red, green = [(200, 30, 30), (90, 10, 10)], [(30, 200, 30), (10, 90, 10)]
    return [
        stripes(tmp_path, f"{name}-{period}-{upright}.png", colours, period, upright=upright)
        for name, colours in (("red", red), ("green", green))
        for period in (4, 24)
        for upright in (True, False)
    ]


def test_each_scorer_sees_what_it_is_named_after(pictures):
    found = describe(pictures).vectors
    red = np.arange(8) < 4
    wide = np.arange(8) // 2 % 2 == 1
    upright = np.arange(8) % 2 == 0
    alike = {name: table @ table.T for name, table in found.items()}

    def sees(name, quality):
        same = np.equal.outer(quality, quality)
        np.fill_diagonal(same, False)
        different = ~np.equal.outer(quality, quality)
        return alike[name][same].mean() - alike[name][different].mean()

    assert sees("color", red) > 0.9
    assert sees("shape", upright) > 0.3
    assert sees("texture", wide) > 0.1
    for name in ("shape", "texture"):
        assert np.diag(alike[name][:4, 4:]).min() > 0.9  # the same stripes in another colour


def test_rows_have_length_one_and_a_blank_picture_has_no_shape(pictures, tmp_path):
    Image.new("RGB", (50, 60), "#808080").save(tmp_path / "blank.png")
    found = describe([*pictures, str(tmp_path / "blank.png")])
    assert found.unreadable == {}
    assert {name: table.shape[1] for name, table in found.vectors.items()} == {
        "color": 512, "texture": 160, "shape": 324,
    }  # fmt: skip
    for name, table in found.vectors.items():
        assert table.dtype == np.float32
        lengths = np.linalg.norm(table, axis=1)
        np.testing.assert_allclose(
            lengths, [1.0] * 8 + [0.0 if name == "shape" else 1.0], rtol=1e-5
        )


def test_color_is_the_histogram_of_the_reports(pictures):
    found = describe(pictures, ["color"]).vectors["color"]
    np.testing.assert_allclose(found, color_histogram(pictures), atol=1e-6)


def test_texture_does_not_depend_on_brightness(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 100, (128, 128, 1)).repeat(3, axis=2)
    for name, more in (("dark", 0), ("light", 120)):
        Image.fromarray((pixels + more).astype(np.uint8)).save(tmp_path / f"{name}.png")
    table = describe([str(tmp_path / "dark.png"), str(tmp_path / "light.png")]).vectors["texture"]
    assert table[0] @ table[1] > 0.999


def test_threads_change_nothing(pictures):
    one, many = (describe(pictures * 9, threads=threads).vectors for threads in (1, 5))
    assert all(np.array_equal(one[name], many[name]) for name in one)


def test_only_the_box_counts(pictures, tmp_path):
    scene = Image.new("RGB", (300, 300), "#ffffff")
    scene.paste(Image.open(pictures[0]), (100, 50))
    scene.save(tmp_path / "scene.png")
    boxes = np.array([[100, 50, 96, 96], [np.nan] * 4], np.float32)
    found = describe([str(tmp_path / "scene.png"), pictures[0]], boxes=boxes).vectors
    for table in found.values():
        assert table[0] @ table[1] == pytest.approx(1, abs=1e-5)


def test_a_picture_that_cannot_be_read_is_named_and_is_zeros(pictures, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    found = describe([pictures[0], str(tmp_path / "text.jpg"), str(tmp_path / "gone.jpg")])
    assert sorted(found.unreadable) == [1, 2]
    assert "cannot identify" in found.unreadable[1]
    assert all(not table[1:].any() and table[0].any() for table in found.vectors.values())


def test_scorers_that_cannot_be_had_are_refused(pictures, monkeypatch):
    with pytest.raises(UserError, match="unknown scorer 'colour'; did you mean 'color'"):
        describe(pictures, ["colour"])
    with pytest.raises(UserError, match="'shape' is named twice"):
        describe(pictures, ["shape", "color", "shape"])
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(UserError, match=r"pip install \"mildnet\[descriptors\]\""):
        describe(pictures)
    assert list(describe(pictures, ["color"]).vectors) == ["color"]


def test_features_of_a_trunk(pictures, monkeypatch):
    import keras

    table = ItemTable.from_columns(pictures, range(8))
    keras.utils.set_random_seed(0)
    monkeypatch.setattr(descriptors, "BATCH", 3)
    found = trunk_features(table, "convnet_small(widths=(8, 16))", weights="none", image_size=32)
    assert found.shape == (8, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == 8
    with pytest.raises(UserError, match="unknown trunk 'convnet'"):
        trunk_features(table, "convnet")
    with pytest.raises(UserError, match=r"trunk convnet_small: .*ImageNet"):
        trunk_features(table, "convnet_small")

"""The opening of pictures: cut to their box, in RGB whatever the file holds."""

import numpy as np
import pytest
from PIL import Image

from trainer.data.open_image import open_image


def paint(path, size, colour, mode="RGB"):
    Image.new(mode, size, colour).save(path)
    return str(path)


def test_boxes_are_cut_out(tmp_path):
    image = Image.new("RGB", (100, 60), "#ffffff")
    image.paste((0, 0, 255), (40, 20, 70, 50))
    path = str(tmp_path / "boxed.png")
    image.save(path)
    found = np.asarray(open_image(path, (40, 20, 30, 30)))
    assert found.shape == (30, 30, 3)
    assert (found == (0, 0, 255)).all()
    assert open_image(path, np.full(4, np.nan)).size == (100, 60)
    assert open_image(path, (95, -5, 50, 10)).size == (5, 5)
    assert open_image(path, (500, 500, 5, 5)).size == (1, 1)


def test_modes_are_shown_as_the_model_sees_them(tmp_path):
    clear = paint(tmp_path / "clear.png", (4, 4), (0, 0, 0, 0), "RGBA")
    assert np.asarray(open_image(clear)).min() == 255
    deep = str(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(deep)
    assert (np.asarray(open_image(deep)) == 0x80).all()
    for name, mode, colour in [
        ("grey.png", "L", 9),
        ("cmyk.jpg", "CMYK", (0, 0, 0, 0)),
        ("palette.gif", "P", 0),
        ("one.png", "1", 1),
    ]:
        assert open_image(paint(tmp_path / name, (9, 9), colour, mode)).mode == "RGB"


def test_too_large_a_picture_is_refused_not_decoded(tmp_path, monkeypatch):
    path = paint(tmp_path / "large.png", (300, 300), "#0000ff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="decompression bomb"):
        open_image(path)

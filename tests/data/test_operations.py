"""Operations on pictures against Pillow's."""

import numpy as np
import pytest
import tensorflow as tf
from matplotlib import cbook
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from trainer.data.operations import LOOKS, apply_look


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((60, 60))


def pixels(picture) -> tf.Tensor:
    return tf.constant(np.asarray(picture), tf.float32)


def looked(photo, name: str, amount: float) -> np.ndarray:
    return apply_look(pixels(photo), tf.constant(LOOKS.index(name)), tf.constant(amount)).numpy()


@pytest.mark.parametrize("amount", [0.5, -0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "pillow"),
    [
        ("identity", lambda p, a: p),
        ("autocontrast", lambda p, a: ImageOps.autocontrast(p)),
        ("equalize", lambda p, a: ImageOps.equalize(p)),
        ("solarize", lambda p, a: ImageOps.solarize(p, int(256 * (1 - abs(a))))),
        ("posterize", lambda p, a: ImageOps.posterize(p, 8 - round(4 * abs(a)))),
        ("color", lambda p, a: ImageEnhance.Color(p).enhance(1 + 0.9 * a)),
        ("contrast", lambda p, a: ImageEnhance.Contrast(p).enhance(1 + 0.9 * a)),
        ("brightness", lambda p, a: ImageEnhance.Brightness(p).enhance(1 + 0.9 * a)),
        ("sharpness", lambda p, a: ImageEnhance.Sharpness(p).enhance(1 + 0.9 * a)),
        ("invert", lambda p, a: ImageOps.invert(p)),
    ],
)
def test_looks_are_what_pillow_makes_of_them(photo, name, pillow, amount):
    # Pillow works in whole numbers throughout.
    expected = np.asarray(pillow(photo, amount), float)
    assert np.abs(looked(photo, name, amount) - expected).max() <= 2.0


def test_every_look_has_a_test_against_pillow():
    marks = test_looks_are_what_pillow_makes_of_them.pytestmark
    assert {name for name, _ in marks[0].args[1]} == set(LOOKS)


@pytest.mark.parametrize("name", LOOKS)
def test_even_pictures_stay_finite_and_in_range(name):
    for value in (0.0, 130.0, 255.0):
        for amount in (1.0, -1.0):
            result = looked(np.full((9, 9, 3), value), name, amount)
            assert np.isfinite(result).all()
            assert result.min() >= 0
            assert result.max() <= 255


def test_smoothing_leaves_the_border(photo):
    smooth = looked(photo, "sharpness", -1 / 0.9)
    expected = np.asarray(photo.filter(ImageFilter.SMOOTH), float)
    assert np.abs(smooth - expected).max() <= 1.0
    np.testing.assert_allclose(smooth[0], np.asarray(photo)[0])

import numpy as np
import pytest
import tensorflow as tf
from matplotlib import cbook
from PIL import Image
from scipy import ndimage, stats

from trainer.config import components
from trainer.data.augment import Mildnet, Plain
from trainer.data.decode import warp

SIZE = 96


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A real photograph, uint8 (96, 96, 3)."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB").resize((SIZE, SIZE)))


def views(picture: np.ndarray, affine: np.ndarray, size: int = SIZE) -> np.ndarray:
    affine = np.asarray(affine, np.float32).reshape(-1, 2, 3)
    sources = tf.zeros(len(affine), tf.int32)
    pixels = tf.constant(np.pad(picture.reshape(-1, 3), ((0, 1), (0, 0)), constant_values=99))
    return warp(
        pixels, tf.constant([picture.shape[:2]]), sources, tf.constant(affine), size
    ).numpy()


def difference(a, b) -> np.ndarray:
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))


class Fixed:
    """Stands for a random generator that gives what a test wants, as values from 0 to 1."""

    def __init__(self, flips, angles, zoom):
        self._flips, self._uniform = flips, [angles, zoom]

    def random(self, shape):
        return np.where(np.broadcast_to(self._flips, shape), 0.0, 0.9)

    def uniform(self, low, high, shape):
        return low + (high - low) * np.broadcast_to(self._uniform.pop(0), shape)


def draws(augment, count=4000, seed=0) -> np.ndarray:
    return augment.draw(np.random.default_rng(seed), count).affine.astype(np.float64)


OFF = {"horizontal_flip": False, "vertical_flip": False, "zoom": 0.0, "shear": 0.0, "rotation": 0.0}


@pytest.mark.parametrize(
    "shape", [(96, 96), (150, 130), (60, 97), (31, 200), (1, 50), (50, 1), (1, 1), (2, 2)]
)
def test_unchanged_is_a_plain_resize(photo, shape):
    picture = np.asarray(Image.fromarray(photo).resize(shape[::-1]))
    same = Plain().draw(np.random.default_rng(0), 1).affine
    assert difference(views(picture, same)[0], tf.image.resize(picture, (SIZE, SIZE))).max() <= 0.51
    if shape == (SIZE, SIZE):
        np.testing.assert_array_equal(views(picture, same)[0], photo)


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
def test_a_flip_only_is_a_flipped_picture(photo, flips):
    affine = Mildnet(zoom=0, shear=0, rotation=0).draw(Fixed(flips, 0.5, 0.5), 1).affine
    axes = [axis for axis, flipped in ((1, flips[0]), (0, flips[1])) if flipped]
    np.testing.assert_array_equal(views(photo, affine)[0], np.flip(photo, axes))


@pytest.mark.parametrize("rotation", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("shear", [0.5, 1.0])
@pytest.mark.parametrize("zoom", [(0.5, 0.5), (0.0, 0.9)])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
def test_the_picture_is_what_scipy_makes_of_the_same_choices(photo, rotation, shear, zoom, flips):
    augment = Mildnet(rotation=30, shear=20, zoom=0.2)
    affine = augment.draw(Fixed(flips, [rotation, shear], zoom), 1).affine
    theta, lean = np.deg2rad(30 * (2 * rotation - 1)), np.deg2rad(20 * (2 * shear - 1))
    across, down = 0.8 + 0.4 * np.array(zoom)
    # In (x, y), as Keras writes it; SciPy counts (row, column) from the centre of a pixel.
    matrix = (
        np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        @ np.array([[1, -np.sin(lean)], [0, np.cos(lean)]])
        @ np.diag([across, down])
    )[::-1, ::-1]
    centre = np.full(2, (SIZE - 1) / 2)
    expected = np.stack(
        [
            ndimage.affine_transform(
                photo[..., channel].astype(np.float64),
                matrix,
                centre - matrix @ centre,
                order=1,
                mode="nearest",
            )
            for channel in range(3)
        ],
        axis=-1,
    )
    expected = np.flip(expected, [axis for axis in (0, 1) if flips[1 - axis]])
    # SciPy lets the border pixel begin at its centre, and so do we; only rounding differs.
    assert difference(views(photo, affine)[0], expected).max() <= 0.52


def test_flips_come_in_half_of_the_pictures_each_and_independently():
    affine = draws(Mildnet(**{**OFF, "horizontal_flip": True, "vertical_flip": True}))
    signs = np.stack([affine[:, 0, 0], affine[:, 1, 1]], axis=1)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    counts = np.unique(signs, axis=0, return_counts=True)[1]
    assert len(counts) == 4
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("parameter", "value", "read"),
    [
        ("rotation", 30.0, lambda a: np.rad2deg(np.arctan2(a[:, 1, 0], a[:, 0, 0])) / 30),
        ("shear", 10.0, lambda a: np.rad2deg(np.arcsin(-a[:, 0, 1])) / 10),
        ("zoom", 0.2, lambda a: (a[:, 0, 0] - 1) / 0.2),
        ("zoom", 0.2, lambda a: (a[:, 1, 1] - 1) / 0.2),
    ],
)
def test_choices_are_uniform_over_their_range(parameter, value, read):
    chosen = read(draws(Mildnet(**{**OFF, parameter: value})))
    assert np.abs(chosen).max() <= 1 + 1e-5
    assert stats.kstest(chosen, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_width_and_height_zoom_on_their_own():
    affine = draws(Mildnet(**{**OFF, "zoom": 0.2}))
    assert abs(np.corrcoef(affine[:, 0, 0], affine[:, 1, 1])[0, 1]) < 0.06


def test_the_centre_stays_where_it_is():
    moved = draws(Mildnet(shear=30, rotation=180)) @ [0.5, 0.5, 1.0]
    np.testing.assert_allclose(moved, 0.5, atol=1e-6)


def test_everything_off_changes_nothing():
    np.testing.assert_allclose(draws(Mildnet(**OFF), 5), draws(Plain(), 5))


def test_same_seed_same_choice():
    np.testing.assert_array_equal(draws(Mildnet(), seed=3), draws(Mildnet(), seed=3))
    assert (draws(Mildnet(), seed=3) != draws(Mildnet(), seed=4)).any()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("zoom", 1.0), ("zoom", -0.1), ("shear", 90.0), ("rotation", 181.0), ("rotation", -1.0)],
)
def test_values_out_of_range_are_refused(parameter, value):
    with pytest.raises(ValueError, match=f"{parameter}={value}"):
        Mildnet(**{parameter: value})


def test_the_config_knows_them_with_the_released_values():
    assert set(components("augment")) == {"none", "mildnet", "standard", "autoaugment"}
    assert components("augment")["mildnet"].check({}) == {
        "horizontal_flip": True,
        "vertical_flip": True,
        "zoom": 0.2,
        "shear": 0.2,
        "rotation": 30.0,
    }


def test_views_of_several_pictures_in_one_buffer(photo):
    other = 255 - photo[:50, :70]
    pixels = np.concatenate([photo.reshape(-1, 3), other.reshape(-1, 3), np.full((99, 3), 7)])
    sizes = tf.constant([[96, 96], [50, 70]])
    same = np.tile(np.eye(3)[:2], (3, 1, 1)).astype(np.float32)
    result = warp(tf.constant(pixels.astype(np.uint8)), sizes, tf.constant([1, 0, 1]), same, 64)
    for picture, view in zip((other, photo, other), result, strict=True):
        assert difference(view, tf.image.resize(picture, (64, 64))).max() <= 0.51

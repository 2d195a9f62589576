import numpy as np
import pytest
import tensorflow as tf
from matplotlib import cbook
from PIL import Image

from trainer.data.augment_standard import RANDAUGMENT, Standard, erase, jitter
from trainer.data.operations import GREY, MOVES

OFF = {
    "crop_min_area": 1.0,
    "crop_max_stretch": 1.0,
    "horizontal_flip": False,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "num_layers": 0,
    "erasing": 0.0,
}
CORNERS = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], float)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((60, 60))


def draw(count=3000, seed=0, **parameters):
    return Standard(**{**OFF, **parameters}).draw(np.random.default_rng(seed), count)


def pixels(picture) -> tf.Tensor:
    return tf.constant(np.asarray(picture), tf.float32)


def test_everything_off_changes_nothing(photo):
    chosen = draw(5)
    np.testing.assert_array_equal(chosen.affine, np.tile(np.eye(3)[:2], (5, 1, 1)))
    same = Standard(**OFF).look(pixels(photo), tf.constant(chosen.look[0]))
    np.testing.assert_array_equal(same, pixels(photo))


def test_crops_lie_inside_the_picture_with_the_area_and_shape_asked_for():
    affine = draw(crop_min_area=0.2, crop_max_stretch=2.0).affine.astype(float)
    points = affine @ CORNERS
    assert points.min() > -1e-6
    assert points.max() < 1 + 1e-6
    width, height = affine[:, 0, 0], affine[:, 1, 1]
    assert (affine[:, 0, 1] == 0).all()
    area, stretch = width * height, width / height
    assert 0.2 - 1e-6 < area.min() < 0.21
    assert 0.99 < area.max() < 1 + 1e-6
    assert abs(area.mean() - 0.6) < 0.02
    assert 1.9 < stretch.max() <= 2 + 1e-6
    assert 1.9 < 1 / stretch.min() <= 2 + 1e-6
    # Anywhere along the free way, from one edge to the other.
    free = (1 - width) > 0.2
    place = affine[free, 0, 2] / (1 - width[free])
    assert abs(place.mean() - 0.5) < 0.03
    assert place.min() < 0.02
    assert place.max() > 0.98


def test_a_crop_without_stretch_keeps_the_shape_of_the_picture():
    affine = draw(crop_min_area=0.3).affine
    np.testing.assert_allclose(affine[:, 0, 0], affine[:, 1, 1], rtol=1e-6)


def test_flips():
    assert abs((draw(horizontal_flip=True).affine[:, 0, 0] < 0).mean() - 0.5) < 0.04
    assert abs((draw(vertical_flip=True).affine[:, 1, 1] < 0).mean() - 0.5) < 0.04


def test_randaugment_draws_all_operations_equally_often():
    chosen = draw(14000, num_layers=1, magnitude=10.0)
    operation, amount = chosen.look[:, 4].astype(int), chosen.look[:, 5]
    counts = np.bincount(operation, minlength=len(RANDAUGMENT))
    # A move shows as an affine map and, among the looks, as the identity.
    assert len(RANDAUGMENT) + len(MOVES) == 14
    assert np.abs(counts[1:] - 1000).max() < 150
    assert abs(counts[0] - 6000) < 250
    assert set(np.unique(amount)) == {-1.0, 1.0}
    moved = (chosen.affine != np.eye(3, dtype=np.float32)[:2]).any(axis=(1, 2))
    assert abs(moved.sum() - 5000) < 250
    assert (operation[moved] == 0).all()
    kinds = np.unique(chosen.affine[moved].round(4).reshape(-1, 6), axis=0)
    assert len(kinds) == 10
    assert np.abs(kinds[:, [2, 5]]).max() == pytest.approx(0.45)


def test_two_layers_are_two_draws():
    chosen = draw(4000, num_layers=2)
    both = np.stack([chosen.look[:, 4], chosen.look[:, 6]])
    assert abs(np.corrcoef(both)[0, 1]) < 0.06


def test_jitter_of_nothing_is_nothing(photo):
    np.testing.assert_allclose(
        jitter(pixels(photo), tf.constant([1.0, 1.0, 1.0, 0.0])), pixels(photo), atol=1e-3
    )


def test_jitter_changes_what_it_names():
    picture = tf.constant(np.random.default_rng(0).uniform(60, 190, (8, 8, 3)), tf.float32)

    def grey(image):
        return np.asarray(image) @ GREY

    brighter = jitter(picture, tf.constant([1.2, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(brighter, np.asarray(picture) * 1.2, rtol=1e-4)
    flatter = jitter(picture, tf.constant([1.0, 0.5, 1.0, 0.0]))
    mean = grey(picture).mean()
    np.testing.assert_allclose(flatter, mean + (np.asarray(picture) - mean) / 2, rtol=1e-3)
    paler = jitter(picture, tf.constant([1.0, 1.0, 0.3, 0.0]))
    own = grey(picture)[..., None]
    np.testing.assert_allclose(paler, own + (np.asarray(picture) - own) * 0.3, rtol=1e-2)
    turned = jitter(picture, tf.constant([1.0, 1.0, 1.0, 0.1]))
    np.testing.assert_allclose(grey(turned), grey(picture), rtol=1e-2)
    assert np.abs(np.asarray(turned) - picture).max() > 5
    full = jitter(picture, tf.constant([1.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(full, picture, atol=0.05)


def test_jitter_is_drawn_from_its_range():
    look = draw(brightness=0.3, contrast=0.1, saturation=0.5, hue=0.05).look
    for column, (low, high) in enumerate([(0.7, 1.3), (0.9, 1.1), (0.5, 1.5), (-0.05, 0.05)]):
        span = high - low
        assert low <= look[:, column].min() < low + 0.02 * span
        assert high - 0.02 * span < look[:, column].max() <= high + 1e-6


def test_erasing_paints_a_rectangle_of_its_area(photo):
    look = draw(erasing=0.4).look
    boxes = look[:, -7:-3]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert abs((area > 0).mean() - 0.4) < 0.04
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6
    assert area[area > 0].min() < 0.03
    assert 0.3 < area.max() <= 0.33 + 1e-6
    erased = erase(
        pixels(photo), tf.constant([0.25, 0.5, 0.75, 0.6]), tf.constant([1.0, 2.0, 3.0])
    ).numpy()
    expected = np.asarray(photo).astype(float)
    expected[30:36, 15:45] = [1, 2, 3]
    np.testing.assert_array_equal(erased, expected)


def test_same_seed_same_choice():
    for name in ("affine", "look"):
        one, two, other = (
            getattr(Standard().draw(np.random.default_rng(seed), 9), name) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, two)
        assert (one != other).any()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("crop_min_area", 0.0),
        ("crop_min_area", 1.5),
        ("crop_max_stretch", 0.9),
        ("brightness", 1.1),
        ("contrast", -0.1),
        ("saturation", 2.0),
        ("hue", 0.6),
        ("num_layers", -1),
        ("magnitude", 11.0),
        ("erasing", 1.2),
    ],
)
def test_values_out_of_range_are_refused(parameter, value):
    with pytest.raises(ValueError, match=f"{parameter}={value}"):
        Standard(**{parameter: value})

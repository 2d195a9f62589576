import io

import numpy as np
import pytest
from PIL import Image

from trainer.data.generated.products import SIBLINGS, product
from trainer.data.generated.scenes import MANNERS, photograph
from trainer.data.generated.silhouettes import CATEGORIES, band, mirrored, rounded


@pytest.mark.parametrize("category", CATEGORIES)
def test_outlines_stay_inside_the_square_and_fill_some_of_it(category):
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = CATEGORIES[category](rng)
        points = np.concatenate([part.outline for part in shape.parts])
        assert points.min() > -0.02
        assert points.max() < 1.02
        # A print that is off the product would not tell anything apart.
        x, y, radius = shape.logo
        assert 0.1 < x < 0.9
        assert 0.1 < y < 0.95
        assert 0.03 < radius < 0.25


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_print_lies_on_its_product(category):
    names = list(CATEGORIES)
    for number in range(0, 2 * SIBLINGS * len(names), 3):
        made = product(number, 7, 96)
        if made.category == category:
            x, y, _ = CATEGORIES[category](np.random.default_rng([7, 3, number])).logo
            alpha = np.asarray(made.picture.getchannel("A"))
            assert alpha[int(y * 96), int(x * 96)] > 200


def test_siblings_share_category_and_colours_but_not_their_looks():
    made = [product(number, 1, 96) for number in range(3 * SIBLINGS)]
    for start in range(0, len(made), SIBLINGS):
        family = made[start : start + SIBLINGS]
        assert len({(one.category, one.palette) for one in family}) == 1
    assert len({one.picture.tobytes() for one in made}) == len(made)


def test_every_category_comes_up_before_any_comes_up_twice():
    drawn = [product(SIBLINGS * turn, 5, 96).category for turn in range(2 * len(CATEGORIES))]
    assert set(drawn[: len(CATEGORIES)]) == set(drawn[len(CATEGORIES) :]) == set(CATEGORIES)


def test_helpers_of_outlines():
    outline = mirrored((0, 0), (0.3, 0), (0.2, 1), (0, 1))
    np.testing.assert_allclose(sorted(outline[:, 0] - 0.5), sorted(0.5 - outline[:, 0]))
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    cut = rounded(square, 1)
    assert len(cut) == 8
    assert {tuple(point) for point in cut} >= {(0.25, 0.0), (0.75, 0.0), (1.0, 0.25)}
    stroke = band([(0, 0), (1, 0), (2, 0)], 0.5)
    assert {abs(y) for y in stroke[:, 1]} == {0.25}


@pytest.mark.parametrize("domain", MANNERS)
def test_a_photograph_is_a_jpeg_with_the_product_in_its_box(domain):
    red = Image.new("RGBA", (96, 96), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (20, 20, 76, 76))
    for seed in range(10):
        photo = photograph(red, domain, np.random.default_rng(seed), 64)
        picture = np.asarray(Image.open(io.BytesIO(photo.jpeg)), np.int16)
        assert picture.shape == (64, 64, 3)
        left, top, width, height = photo.box
        assert 10 < width < 64
        assert 10 < height < 64
        # The middle of a convex product is never hidden, and stays red in any light.
        red_, green, blue = picture[top + height // 2, left + width // 2]
        assert red_ > 1.6 * max(green, blue)

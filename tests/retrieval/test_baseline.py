"""Colour histograms against loops over pixels."""

import numpy as np
import pytest
from PIL import Image

from trainer.config import UserError
from trainer.retrieval.baseline import color_histogram


@pytest.mark.parametrize("bins", [1, 3, 8])
def test_equal_to_counting_pixels(bins, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (11, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    counts = np.zeros((bins, bins, bins))
    for pixel in pixels.reshape(-1, 3):
        r, g, b = (int(value) * bins // 256 for value in pixel)
        counts[r, g, b] += 1
    found = color_histogram([str(tmp_path / "a.png")], bins)
    assert found.shape == (1, bins**3)
    np.testing.assert_allclose(found[0], np.sqrt(counts.ravel() / 77), atol=1e-6)


def test_colours_are_found_again_at_any_size(tmp_path):
    rng = np.random.default_rng(1)
    paths, labels = [], []
    for label, colour in enumerate([(250, 10, 10), (10, 250, 10), (10, 10, 250)]):
        for size in ((30, 30), (700, 500)):
            noise = rng.integers(-8, 8, (*size, 3))
            path = tmp_path / f"{label}-{size[0]}.jpg"
            Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)
            paths.append(str(path))
            labels.append(label)
    found = color_histogram(paths)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    similar = found @ found.T
    same = np.equal.outer(labels, labels)
    assert similar[same].min() > 0.9
    assert similar[~same].max() < 0.1


def test_only_the_box_counts(tmp_path):
    image = Image.new("RGB", (40, 40), "#ffffff")
    image.paste((255, 0, 0), (10, 10, 20, 20))
    image.save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    boxes = np.array([[10, 10, 10, 10], [np.nan] * 4], np.float32)
    boxed, whole = color_histogram([path, path], 2, boxes)
    assert np.flatnonzero(boxed).tolist() == [4]
    assert np.flatnonzero(whole).tolist() == [4, 7]


def test_bad_input(tmp_path):
    (tmp_path / "a.jpg").write_text("none")
    with pytest.raises(UserError, match=r"a\.jpg"):
        color_histogram([str(tmp_path / "a.jpg")])
    with pytest.raises(ValueError, match="bins=0"):
        color_histogram([], bins=0)
    assert color_histogram([]).shape == (0, 512)

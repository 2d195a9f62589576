"""Test-time augmentation inside an exported model, against views made by hand."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.config import UserError
from trainer.serving.embedder import Embedder
from trainer.serving.export import export
from trainer.serving.views import Views

SIZE = 20


@pytest.fixture(scope="module")
def model():
    model = models.build(
        "mildnet", image_size=SIZE, trunk="convnet_small(widths=(4, 6))", embedding_dim=8
    )
    model(pictures(16), training=True)
    return model


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.float32)


def middle(picture: np.ndarray, share: float) -> np.ndarray:
    """The middle of a picture (S, S, 3) at full size, one axis after the other, in float64."""
    place = (np.arange(SIZE) + 0.5) * share + SIZE * (1 - share) / 2 - 0.5
    for axis in (0, 1):
        picture = np.apply_along_axis(
            lambda line: np.interp(place, np.arange(SIZE), line), axis, picture
        )
    return picture


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(model, images: np.ndarray, views: list[tuple[float, bool]]) -> np.ndarray:
    total = 0.0
    for share, mirrored in views:
        view = np.stack([middle(image, share) for image in images])
        total = total + unit(model(view[:, :, ::-1] if mirrored else view))
    return unit(total / len(views))


@pytest.mark.parametrize(
    ("tta", "views"),
    [
        ("none", [(1.0, False)]),
        ("flip", [(1.0, False), (1.0, True)]),
        ("0.8", [(1.0, False), (0.8, False)]),
    ],
)
def test_the_mean_of_separate_calls(model, tta, views):
    images = pictures(3)
    found = Views.parse(tta).embed(model, tf.constant(images))
    np.testing.assert_allclose(found, by_hand(model, images, views), atol=2e-5)


def test_views_within_an_exported_model(model, tmp_path):
    images = pictures(3)
    embedder = Embedder(export(model, tmp_path / "model", tta="flip+0.5"))
    assert embedder.tta == "flip+0.5"
    want = by_hand(model, images, [(1.0, False), (1.0, True), (0.5, False), (0.5, True)])
    found = embedder.embed_images(images)
    np.testing.assert_allclose(found, want, atol=2e-5)
    assert np.abs(found - model(images)).max() > 1e-3
    files = [tf.io.encode_png(image.astype(np.uint8)).numpy() for image in images]
    np.testing.assert_allclose(embedder.embed_bytes(files), want, atol=2e-5)
    np.testing.assert_allclose(embedder.embed_images(images[:, :, ::-1]), want, atol=2e-5)
    assert embedder.embed_images(images[:0]).shape == (0, 8)


def test_what_is_written_is_read():
    assert (len(Views.parse("none")), str(Views.parse("none"))) == (1, "none")
    views = Views.parse("0.9+flip+0.80")
    assert views == Views((1.0, 0.9, 0.8), True)
    assert (len(views), str(views)) == (6, "flip+0.9+0.8")
    assert Views.parse(str(views)) == views


@pytest.mark.parametrize(
    "text", ["", "flop", "flip+flip", "1", "1.2", "0", "-0.5", "nan", "0.9+0.9", "flip,0.9", "0.2"]
)
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match="write none, flip, or shares"):
        Views.parse(text)

"""Embedding with an exported model, and what is said of broken folders and pictures."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.config import UserError
from trainer.serving.embedder import Embedder
from trainer.serving.export import CARD, export

SIZE = 16


@pytest.fixture(scope="module")
def model():
    return models.build(
        "mildnet", image_size=SIZE, trunk="convnet_small(widths=(4, 6))", embedding_dim=8
    )


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3)).astype("uint8")


@pytest.fixture
def files(pictures, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(tf.io.encode_png(picture).numpy())
    return paths


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_files_bytes_and_arrays_agree(exported, model, pictures, files, batch_size):
    embedder = Embedder(exported, batch_size=batch_size)
    assert (embedder.dim, embedder.image_size) == (8, SIZE)
    want = embedder.embed_images(pictures)
    assert want.dtype == np.float32
    assert np.ptp(want, axis=0).max() > 1e-3
    for got in (
        embedder.embed_files(files),
        embedder.embed_files(map(str, files)),
        embedder.embed_bytes([path.read_bytes() for path in files]),
        embedder.embed_images(pictures.astype("float64")),
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)
    fitting = pictures[:, :SIZE, :SIZE]
    np.testing.assert_allclose(embedder.embed_images(fitting), model(fitting), atol=1e-5)
    np.testing.assert_allclose(embedder(fitting), model(fitting), atol=1e-5)


def test_batches_are_no_larger_than_asked(exported, pictures, monkeypatch):
    embedder = Embedder(exported, batch_size=2)
    seen = []
    run = embedder._from_uint8
    monkeypatch.setattr(
        embedder, "_from_uint8", lambda images: seen.append(len(images)) or run(images=images)
    )
    embedder.embed_images(pictures)
    assert seen == [2, 2, 1]


def test_warming_up_embeds_pictures_of_every_kind(exported, pictures, monkeypatch):
    seen = []
    call = Embedder.__call__
    monkeypatch.setattr(
        Embedder, "__call__", lambda self, images: seen.append(images) or call(self, images)
    )
    embedder = Embedder(exported, warm_up=(1, 3))
    shape = (SIZE, SIZE, 3)
    assert [(images.shape, images.dtype) for images in seen] == [
        ((count, *shape), kind) for count in (1, 3) for kind in (np.uint8, np.float32)
    ]
    np.testing.assert_array_equal(
        embedder.embed_images(pictures), Embedder(exported).embed_images(pictures)
    )
    with pytest.raises(ValueError, match="warm_up"):
        Embedder(exported, warm_up=(0,))


def test_nothing_to_embed(exported):
    embedder = Embedder(exported)
    empty = np.zeros((0, 30, 20, 3), "uint8")
    for got in (embedder.embed_files([]), embedder.embed_bytes([]), embedder.embed_images(empty)):
        assert got.shape == (0, 8)


def test_formats_that_only_pillow_reads(exported, pictures, tmp_path):
    from PIL import Image

    Image.fromarray(pictures[0]).save(tmp_path / "picture.tiff")
    embedder = Embedder(exported)
    np.testing.assert_allclose(
        embedder.embed_files([tmp_path / "picture.tiff"]),
        embedder.embed_images(pictures[:1]),
        atol=1e-6,
    )


def test_broken_pictures_are_named(exported, files, tmp_path):
    embedder = Embedder(exported)
    (tmp_path / "noise.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("noise.jpg", "empty.png"):
        with pytest.raises(UserError, match=f"{name} is not a picture") as caught:
            embedder.embed_files([*files, tmp_path / name])
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"missing\.png: no such file"):
        embedder.embed_files([files[0], tmp_path / "missing.png"])
    with pytest.raises(UserError, match="picture 2 is not a picture"):
        embedder.embed_bytes([files[0].read_bytes(), b"no picture"])


@pytest.mark.parametrize("shape", [(4, 4, 3), (2, 4, 4, 1), (2, 0, 4, 3)])
def test_arrays_of_another_shape(exported, shape):
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\)"):
        Embedder(exported).embed_images(np.zeros(shape, "uint8"))


def test_batch_size_out_of_range(exported):
    with pytest.raises(ValueError, match="above 0"):
        Embedder(exported, batch_size=0)


def test_folders_that_are_no_export(tmp_path, model):
    with pytest.raises(UserError, match="there is no folder"):
        Embedder(tmp_path / "missing")
    with pytest.raises(UserError, match="no model exported by mildnet"):
        Embedder(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "foreign"))
    with pytest.raises(UserError, match="no model exported by mildnet"):
        Embedder(tmp_path / "foreign")


@pytest.mark.parametrize(
    "file",
    ["saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"],
)
@pytest.mark.parametrize("harm", ["cut", "gone", "noise"])
def test_damaged_exports(exported, tmp_path, file, harm):
    shutil.copytree(exported, tmp_path / "model")
    path = tmp_path / "model" / file
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(whole[:-1])
    else:
        path.write_bytes(np.random.default_rng(0).bytes(len(whole)))
    with pytest.raises(UserError, match="export it again") as caught:
        Embedder(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_cards_that_cannot_be_read(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    path = tmp_path / "model" / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Embedder(tmp_path / "model")
    for text in ("", "[]", "{}", '{"format": 1, "files": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match="no model exported by mildnet"):
            Embedder(tmp_path / "model")

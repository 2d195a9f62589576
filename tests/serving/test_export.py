"""The exported model: the same numbers without this library, and nothing half written."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import models
from trainer.config import UserError
from trainer.data.decode import decode
from trainer.serving.export import CARD, export

SIZE = 24
PLAIN_TENSORFLOW = """
    import sys
    import numpy as np, tensorflow as tf
    folder, arrays = sys.argv[1:]
    loaded = tf.saved_model.load(folder)
    given = np.load(arrays, allow_pickle=True)
    embed = lambda name, **x: loaded.signatures[name](**x)["embedding"].numpy()
    np.testing.assert_allclose(
        embed("images", images=tf.constant(given["images"])), given["embeddings"], atol=1e-5)
    np.testing.assert_allclose(
        embed("serving_default", image_bytes=tf.constant(list(given["files"]))),
        given["file_embeddings"], atol=1e-5)
    assert list(loaded.signatures) == ["serving_default", "images", "images_uint8"]
    assert not [name for name in sys.modules if name.split(".")[0] == "trainer"]
"""


def build(**parameters) -> keras.Model:
    small = {"trunk": "convnet_small(widths=(4, 6))", "hidden": (8,), "dropout": 0.5}
    model = models.build("mildnet", image_size=SIZE, **small | {"embedding_dim": 8} | parameters)
    # Statistics of a trained model, not the initial zeros and ones.
    model(pictures(16), training=True)
    return model


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    random = np.random.default_rng(count)
    return random.integers(0, 256, (count, height, width, 3)).astype("float32")


def encoded() -> list[bytes]:
    wide, small = pictures(1, 70, 90)[0].astype("uint8"), pictures(1, 9, 11)[0].astype("uint8")
    return [
        tf.io.encode_jpeg(wide).numpy(),
        tf.io.encode_png(small).numpy(),
        tf.io.encode_jpeg(wide[..., :1], format="grayscale").numpy(),
        tf.io.encode_png(np.concatenate([small, small[..., :1]], -1)).numpy(),
    ]


def signatures(folder):
    # The owner of the variables has to live as long as its functions.
    loaded = tf.saved_model.load(str(folder))
    return lambda name, **given: (loaded, loaded.signatures[name](**given)["embedding"])[1].numpy()


def test_plain_tensorflow_gives_the_same_embeddings(tmp_path):
    model = build(pooling="gem")
    folder = export(model, tmp_path / "run" / "model")
    files = encoded()
    decoded = np.stack([decode(tf.constant(f), SIZE).numpy() for f in files])
    np.savez(
        tmp_path / "arrays.npz",
        images=pictures(5),
        embeddings=model(pictures(5)),
        files=np.array(files, object),
        file_embeddings=model(decoded),
    )
    # -I: neither the working directory nor PYTHONPATH leads to this library.
    subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(PLAIN_TENSORFLOW)]
        + [str(folder), str(tmp_path / "arrays.npz")],
        cwd=tmp_path,
        check=True,
    )


def test_signatures_agree_with_each_other_and_the_model(tmp_path):
    model = build()
    embed = signatures(export(model, tmp_path / "model"))
    exact = pictures(3) + np.float32(0.25) * (pictures(3) < 255)
    np.testing.assert_allclose(embed("images", images=tf.constant(exact)), model(exact), atol=1e-5)
    whole = pictures(3).astype("uint8")
    np.testing.assert_allclose(
        embed("images_uint8", images=tf.constant(whole)), model(whole), atol=1e-5
    )
    # A picture of another size goes the way of a decoded file.
    large = pictures(2, 61, 130).astype("uint8")
    files = [tf.io.encode_png(picture).numpy() for picture in large]
    want = embed("serving_default", image_bytes=tf.constant(files))
    for name, images in (("images_uint8", large), ("images", large.astype("float32"))):
        np.testing.assert_allclose(embed(name, images=tf.constant(images)), want, atol=1e-6)
    assert np.abs(want - model(tf.image.resize(large, (SIZE, SIZE)))).max() > 1e-5


def test_batches_of_none_and_one(tmp_path):
    embed = signatures(export(build(), tmp_path / "model"))
    assert embed("serving_default", image_bytes=tf.constant([], tf.string)).shape == (0, 8)
    assert embed("images", images=tf.zeros((0, SIZE, SIZE, 3))).shape == (0, 8)
    assert embed("images", images=tf.zeros((0, 40, 30, 3))).shape == (0, 8)
    one = embed("serving_default", image_bytes=tf.constant(encoded()[:1]))
    assert one.shape == (1, 8)
    np.testing.assert_allclose(
        one, embed("serving_default", image_bytes=tf.constant(encoded()))[:1], atol=1e-6
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_served_in_float32_or_as_it_is(tmp_path, policy):
    exact = build()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        mixed = build()
        mixed.set_weights(exact.get_weights())
        as_float32 = signatures(export(mixed, tmp_path / "float32"))
        as_it_is = signatures(export(mixed, tmp_path / "model", precision="model"))
    finally:
        keras.config.set_dtype_policy(before)
    images = pictures(4)
    assert mixed.get_layer("hidden_1").compute_dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(
        as_float32("images", images=tf.constant(images)), exact(images), atol=1e-5
    )
    np.testing.assert_allclose(
        as_it_is("images", images=tf.constant(images)), mixed(images), atol=2e-3
    )
    assert np.abs(mixed(images) - exact(images)).max() > 1e-5


@pytest.mark.parametrize("inside", [True, False])
def test_models_of_a_mirrored_strategy(tmp_path, inside):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = build()
        if inside:
            export(model, tmp_path / "model")
    if not inside:
        export(model, tmp_path / "model")
    embed = signatures(tmp_path / "model")
    images = pictures(3)
    np.testing.assert_allclose(
        embed("images", images=tf.constant(images)), model(images), atol=1e-5
    )


def test_exporting_does_not_change_the_model(tmp_path):
    model = build(frozen=3)
    weights, config = model.get_weights(), model.get_config()
    export(model, tmp_path / "model")
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_export_is_replaced_and_other_folders_are_not(tmp_path):
    first, second = build(), build()
    export(first, tmp_path / "model")
    export(second, tmp_path / "model")
    images = pictures(2)
    embed = signatures(tmp_path / "model")
    np.testing.assert_allclose(
        embed("images", images=tf.constant(images)), second(images), atol=1e-5
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="not an exported model"):
        export(first, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"

    (tmp_path / "empty").mkdir()
    export(first, tmp_path / "empty")
    assert (tmp_path / "empty" / CARD).is_file()


@pytest.mark.parametrize("place", ["save", "rename"])
def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch, place):
    model = build()
    export(model, tmp_path / "model")
    before = {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}

    def full(*_, **__):
        if place == "save":
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        raise OSError(28, "No space left on device")

    if place == "save":
        monkeypatch.setattr(tf.saved_model, "save", full)
    else:
        rename = os.rename
        monkeypatch.setattr(
            os,
            "rename",
            lambda this, to: full() if str(this).endswith(".part") else rename(this, to),
        )
    with pytest.raises(UserError, match="No space left on device"):
        export(build(), tmp_path / "model")
    after = {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        export(build(), tmp_path / "file" / "model")


def test_wrong_image_size(tmp_path):
    with pytest.raises(ValueError, match="24, 24"):
        export(build(), tmp_path / "model", image_size=32)


def test_card_and_permissions(tmp_path):
    folder = export(build(), tmp_path / "model")
    card = json.loads((folder / CARD).read_text())
    assert (card["image_size"], card["embedding_dim"]) == (SIZE, 8)
    assert set(card["files"]) >= {"saved_model.pb", "variables/variables.index"}
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask

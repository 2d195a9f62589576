"""Embedding a catalogue: order, memory, disk, and what is said when something is wrong."""

import errno
import os

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.embed import embed


def batches(count=10, size=4, rows=True, change=None):
    images = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3))
    for low in range(0, count, size):
        batch = {"image": images[low : low + size].astype(np.float32)}
        if rows:
            batch["row"] = np.arange(low, min(low + size, count))
        if change is not None:
            change(batch)
        yield batch


def model(images):
    mean = np.asarray(images).mean(axis=(1, 2, 3))
    return np.stack([mean, -mean, mean + 1], axis=1).astype(np.float16)


EXPECTED = np.stack([np.arange(10), -np.arange(10), np.arange(10) + 1], axis=1)


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_in_order(rows, on_disk, tmp_path):
    out = tmp_path / "deep" / "embeddings.npy" if on_disk else None
    found = embed(model, batches(rows=rows), 10, dim=3, out=out)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, EXPECTED)
    if out:
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(np.load(out), EXPECTED)
        assert os.listdir(out.parent) == ["embeddings.npy"]


def test_batches_in_any_order_land_in_their_rows():
    found = embed(model, reversed(list(batches())), 10)
    np.testing.assert_array_equal(found, EXPECTED)


def test_one_batch_at_a_time(tmp_path):
    alive = []

    def watched():
        for batch in batches(count=40):
            alive.append(0)
            assert len(alive) <= calls + 1, "batches are collected before they are embedded"
            yield batch

    calls = 0

    def counting(images):
        nonlocal calls
        calls += 1
        return model(images)

    embed(counting, watched(), 40, out=tmp_path / "e.npy")
    assert calls == 10


def broken(value):
    def call(images):
        vectors = model(images).astype(np.float32)
        if (images[:, 0, 0, 0] == 6).any():
            vectors[2, 1] = value
        return vectors

    return call


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_embedding_names_its_picture_and_keeps_the_old_file(value, tmp_path):
    out = tmp_path / "e.npy"
    embed(model, batches(), 10, out=out)
    paths = [f"shop/{n}.jpg" for n in range(10)]
    with pytest.raises(UserError, match=r"shop/6\.jpg \(row 6\) holds NaN"):
        embed(broken(value), batches(), 10, out=out, paths=paths)
    np.testing.assert_array_equal(np.load(out), EXPECTED)
    assert os.listdir(tmp_path) == ["e.npy"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embed(model, batches(), 11), "hold 10 of 11 images"),
        (lambda: embed(model, batches(), 9), r"not in 0\.\.8"),
        (lambda: embed(model, [], 3), "hold 0 of 3"),
        (lambda: embed(model, [], 0), "no images"),
        (lambda: embed(model, [*batches(), *batches()], 10), "a row twice"),
        (lambda: embed(model, batches(), 10, dim=4), "3 dimensions, expected were 4"),
        (lambda: embed(lambda images: model(images)[:1], batches(), 10), "one embedding"),
        (lambda: embed(lambda images: images, batches(), 10), "one embedding"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="no space left"):
        embed(model, batches(), 10, out=tmp_path / "e.npy")
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_pictures_is_not_blamed_on_the_disk(tmp_path):
    def failing():
        yield from batches(count=4)
        raise FileNotFoundError("a.jpg")

    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        embed(model, failing(), 10, out=tmp_path / "e.npy")
    assert os.listdir(tmp_path) == []


def test_a_keras_model_and_a_dataset():
    import keras
    import tensorflow as tf

    images = np.random.default_rng(0).uniform(0, 255, (7, 8, 8, 3)).astype(np.float32)
    net = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    dataset = tf.data.Dataset.from_tensor_slices(
        {"image": images, "row": np.arange(7)[::-1].copy()}
    ).batch(3)
    found = embed(net, dataset, 7)
    expected = images.reshape(7, -1) @ net.layers[-1].kernel.numpy()
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-4, atol=1e-2)

"""Embeddings are used again for the same picture, box and model, and for nothing else."""

import logging

import numpy as np
import pytest

from trainer.data.table import ItemTable
from trainer.retrieval.embedding_cache import FILE, EmbeddingCache, picture_keys

IDS = ["a", "b", "c"]


def table(tmp_path, names, boxes=None):
    paths = [str(tmp_path / name) for name in names]
    return ItemTable.from_columns(paths, names, box=boxes)


def some(seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 256, (3, 32), np.uint8)
    return EmbeddingCache(keys, rng.standard_normal((3, 4)).astype(np.float32))


def same(one, other):
    return np.array_equal(one.keys, other.keys) and np.array_equal(one.embeddings, other.embeddings)


def test_a_key_is_content_and_box_and_model(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("copy", b"one")):
        (tmp_path / name).write_bytes(content)
    boxes = np.full((6, 4), np.nan)
    boxes[3], boxes[4], boxes[5] = (0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 1, 1)
    items = table(tmp_path, ["a", "b", "copy", "a", "a", "b"], boxes)
    keys = picture_keys(items, "m")
    texts = [key.tobytes() for key in keys]
    assert texts[0] == texts[2]  # wherever it lies
    assert len(set(texts)) == 5
    assert not set(texts) & {key.tobytes() for key in picture_keys(items, "n")}
    (tmp_path / "a").write_bytes(b"three")
    again = picture_keys(items, "m")
    assert (again != keys).any(axis=1).tolist() == [True, False, False, True, True, False]


def test_a_file_that_cannot_be_read_has_no_key(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    keys = picture_keys(table(tmp_path, ["a", "missing", "folder"]), "m")
    assert keys.any(axis=1).tolist() == [True, False, False]
    cache = EmbeddingCache(keys, np.eye(3, dtype=np.float32))
    assert cache.find(keys).tolist() == [0, -1, -1]


def test_what_is_saved_comes_back_for_the_same_ids(tmp_path, caplog):
    cache = some()
    cache.save(tmp_path, IDS)
    loaded = EmbeddingCache.load(tmp_path, 4)
    assert same(loaded, cache)
    assert same(loaded.of(IDS), cache)
    assert loaded.find(np.concatenate([cache.keys[::-1], some(1).keys])).tolist() == [
        *(2, 1, 0),
        *(-1, -1, -1),
    ]
    assert not caplog.records
    # Rows of other items say nothing about these, not even of as many.
    for ids in (["a", "c", "b"], ["a", "b"], ["a", "b", "c", "d"], []):
        other = loaded.of(ids)
        assert other.keys.shape == (len(ids), 32)
        assert not other.keys.any()
    assert "another index" in caplog.text


def test_other_dimensions_or_no_file_is_an_empty_cache(tmp_path, caplog):
    assert len(EmbeddingCache.load(tmp_path, 4)) == 0
    some().save(tmp_path, IDS)
    assert EmbeddingCache.load(tmp_path, 5).of(IDS).embeddings.shape == (3, 5)
    assert not caplog.records


def test_a_damaged_file_is_told_and_never_believed(tmp_path, caplog):
    cache = some()
    cache.save(tmp_path, IDS)
    path = tmp_path / FILE
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    ignored = 0
    for place in rng.permutation(len(whole))[:300]:
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        loaded = EmbeddingCache.load(tmp_path, 4)
        ignored += not len(loaded)
        # A bit in a part that nobody reads (a date) does no harm.
        assert not len(loaded) or same(loaded, cache)
    assert ignored > 200
    for data in (b"", b"PK", whole[:-30], whole[: len(whole) // 2], b"text"):
        caplog.clear()
        path.write_bytes(data)
        assert len(EmbeddingCache.load(tmp_path, 4)) == 0
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "embeddings.npz is damaged" in caplog.text


def test_nothing_in_it_is_executed(tmp_path):
    np.savez(
        tmp_path / FILE,
        keys=np.array([{}], object),
        embeddings=np.eye(3),
        ids=np.array("x"),
        allow_pickle=True,
    )
    assert len(EmbeddingCache.load(tmp_path, 3)) == 0
    np.savez(tmp_path / FILE, keys=np.zeros(3), embeddings=np.eye(3), ids=np.array("x"))
    assert len(EmbeddingCache.load(tmp_path, 3)) == 0


@pytest.mark.parametrize("kept", ["keys", "embeddings"])
def test_parts_of_unequal_length_are_not_used(tmp_path, kept):
    cache = some()
    parts = {"keys": cache.keys, "embeddings": cache.embeddings, "ids": np.array("x")}
    parts[kept] = parts[kept][:2]
    np.savez(tmp_path / FILE, **parts)
    assert len(EmbeddingCache.load(tmp_path, 4)) == 0

"""The .npz of embeddings: what is read, and one clear line for what is not."""

import os

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.embeddings_file import EmbeddingsFile, read_embeddings, write_embeddings

EYE = np.eye(4, dtype=np.float32)
LABELS = np.array([0, 0, 2**60 + 1, 1])


def save(tmp_path, **arrays):
    path = tmp_path / "e.npz"
    np.savez(path, **arrays)
    return path


def test_what_was_written_is_read(tmp_path):
    content = EmbeddingsFile(
        EYE,
        np.array(["a", "ü", "a", "b"]),
        is_query=np.array([True, False, True, False]),
        categories=np.array(["x", "x", "y", "y"]),
    )
    write_embeddings(tmp_path / "new" / "e.npz", content)
    found = read_embeddings(tmp_path / "new" / "e.npz")
    for name, value in vars(content).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert found.domains is None
    assert os.listdir(tmp_path / "new") == ["e.npz"]


@pytest.mark.parametrize("compressed", [True, False])
def test_plain_numpy_files_are_read(compressed, tmp_path):
    path = tmp_path / "e.npz"
    (np.savez_compressed if compressed else np.savez)(
        path, embeddings=EYE.astype(np.float64), labels=LABELS, is_query=[1, 0, 0, 1], other=[1]
    )
    found = read_embeddings(path)
    assert found.embeddings.dtype == np.float32
    assert found.labels.tolist() == LABELS.tolist()
    assert found.is_query.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS}, "no array 'embeddings'"),
        ({"embedding": EYE, "labels": LABELS}, "did you mean 'embedding'"),
        ({"embeddings": EYE, "y": LABELS}, "no array 'labels'; it holds: embeddings, y"),
        ({"embeddings": EYE, "labels": np.array([{}] * 4)}, "pickle|object"),
        ({"embeddings": EYE, "labels": np.array(list("aabb"), object)}, "pickle|object"),
        ({"embeddings": EYE, "labels": LABELS.astype(float)}, "labels are float64"),
        ({"embeddings": EYE, "labels": LABELS[:3]}, "labels has shape"),
        ({"embeddings": EYE, "labels": LABELS[:, None]}, "labels has shape"),
        ({"embeddings": EYE[0], "labels": LABELS}, r"shape \(4,\)"),
        ({"embeddings": EYE * np.nan, "labels": LABELS}, "row 0 holds NaN"),
        ({"embeddings": EYE[:0], "labels": LABELS[:0]}, "empty"),
        ({"embeddings": EYE, "labels": LABELS, "is_query": [0, 1, 2, 1]}, "is_query is int64"),
        ({"embeddings": EYE, "labels": LABELS, "is_query": [True]}, "is_query has shape"),
        ({"embeddings": EYE, "labels": LABELS, "domains": ["a"]}, "domains has shape"),
    ],
)
def test_arrays_that_do_not_fit(arrays, message, tmp_path):
    path = save(tmp_path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        read_embeddings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_truncated_files(keep, tmp_path):
    path = save(tmp_path, embeddings=EYE, labels=LABELS)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"not a complete \.npz file"):
        read_embeddings(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = save(tmp_path, embeddings=EYE, labels=LABELS)
    data = bytearray(path.read_bytes())
    data[data.index(EYE.tobytes()) + 5] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"not a complete \.npz file"):
        read_embeddings(path)


@pytest.mark.parametrize("content", ["npy", "text", "folder", "nothing"])
def test_other_things_than_npz(content, tmp_path):
    path = tmp_path / "e.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, EYE)
    elif content == "text":
        path.write_text("embeddings")
    elif content == "folder":
        path.mkdir()
    with pytest.raises(UserError, match=r"not a complete|does not exist|holds no embeddings"):
        read_embeddings(path)


def test_a_header_that_lies_is_refused(tmp_path):
    # It announces far more numbers than the file holds.
    import zipfile

    path = save(tmp_path, labels=LABELS)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 64), }"
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("embeddings.npy", data)
    with pytest.raises(UserError, match="cannot read"):
        read_embeddings(path)


def test_writing_checks_first_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "e.npz"
    write_embeddings(path, EmbeddingsFile(EYE, LABELS))
    with pytest.raises(UserError, match="labels has shape"):
        write_embeddings(path, EmbeddingsFile(EYE, LABELS[:2]))
    assert len(read_embeddings(path).labels) == 4
    with pytest.raises(UserError, match="cannot write"):
        write_embeddings(path / "below" / "e.npz", EmbeddingsFile(EYE, LABELS))

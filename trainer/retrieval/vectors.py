"""Checks that every table of embeddings and every list of ids passes once; similarities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from trainer.config import UserError

Similarity = Literal["cosine", "dot", "euclidean"]
#: Rows looked at in one go, so that checks need little memory beside the table itself.
CHUNK = 4096


def check_embeddings(embeddings: np.ndarray, name: str = "embeddings") -> np.ndarray:
    """Return `embeddings` as a contiguous float32 table; one that is already is not copied.

    Args:
        embeddings: (N, D) numbers, N and D at least 1.
        name: what messages call them.

    Raises:
        UserError: not a table, empty, NaN or infinite (as float32), or so large that a dot product
            of two rows could overflow float32.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise UserError(
            f"{name} are {embeddings.dtype} of shape {embeddings.shape}: a table of numbers "
            "(images, dimensions) is needed"
        )
    if not embeddings.size:
        raise UserError(f"{name} are empty: shape {embeddings.shape}")
    with np.errstate(over="ignore"):
        embeddings = np.ascontiguousarray(embeddings, np.float32)
    largest = 0.0
    for low in range(0, len(embeddings), CHUNK):
        part = embeddings[low : low + CHUNK]
        size = float(np.abs(part).max())
        if not np.isfinite(size):
            row = low + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise UserError(
                f"{name} row {row} holds NaN or infinity (in float32): the model that made it "
                "has diverged, or its input was broken"
            )
        largest = max(largest, size)
    if largest**2 * embeddings.shape[1] * 8 > float(np.finfo(np.float32).max):
        raise UserError(
            f"{name} reach {largest:.3g}, too large for similarities in float32: scale them"
        )
    return embeddings


def normalise(embeddings: np.ndarray) -> None:
    """Divide each row of a float32 table by its length, in place; a zero row stays zero."""
    for low in range(0, len(embeddings), CHUNK):
        part = embeddings[low : low + CHUNK]
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64))
        lengths[lengths == 0] = 1
        part /= lengths[:, None].astype(np.float32)


def prepared(embeddings: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Return float32 rows (N, D) as they are compared: for `cosine` a copy of unit length."""
    if similarity == "cosine":
        embeddings = embeddings.copy()
        normalise(embeddings)
    return embeddings


def similarities(queries: np.ndarray, held: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Return how near prepared queries (Q, D) and rows (N, D) are, (Q, N); higher is closer."""
    if similarity == "euclidean":
        return np.stack([-np.square(held - query).sum(axis=1) for query in queries])
    return queries @ held.T


def check_ids(values: np.ndarray | Sequence[int] | Sequence[str], name: str) -> np.ndarray:
    """Return ids or labels as an int64 or str array, every digit and character kept.

    Args:
        values: integers or strings, one kind; they never pass through a float.
        name: what messages call them.

    Raises:
        UserError: another kind of value, a mixture, or an integer beyond int64.
    """
    array = np.asarray(values)
    if array.ndim == 1 and not array.size:
        return array.astype(np.int64) if array.dtype.kind != "U" else array
    if array.dtype.kind in "OU" and not isinstance(values, np.ndarray):
        # numpy turns [1, "a"] into strings; the values themselves tell.
        array = np.array(values, dtype=object)
    if array.dtype.kind == "O":
        flat = array.ravel().tolist()
        if all(isinstance(value, str) for value in flat):
            array = array.astype(str)
        elif all(isinstance(value, int) and not isinstance(value, bool) for value in flat):
            array = _int64(array, name)
    if array.dtype.kind == "u":
        array = _int64(array, name)
    if array.dtype.kind not in "iU":
        raise UserError(f"{name} are {array.dtype}: all integers or all strings are needed")
    return array if array.dtype.kind == "U" else array.astype(np.int64, copy=False)


def _int64(array: np.ndarray, name: str) -> np.ndarray:
    limits = np.iinfo(np.int64)
    if array.size and not limits.min <= int(array.min()) <= int(array.max()) <= limits.max:
        raise UserError(f"{name} go beyond 64-bit integers: use strings")
    return array.astype(np.int64)

"""Embeddings kept beside an index, so that only new and changed pictures are embedded again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from trainer.data.files import read_bytes
from trainer.data.progress import bar
from trainer.data.table import ItemTable

log = logging.getLogger(__name__)

#: Name of the file in the folder of an index.
FILE = "embeddings.npz"
#: Part of every key. Raise it when the same file and model come to give another embedding.
VERSION = b"mildnet-embedding-1"
#: Bytes of a key, a SHA-256.
WIDTH = 32


@dataclass(frozen=True)
class EmbeddingCache:
    """The embeddings of the items of an index, each with a key of what it was made from.

    It holds one row for each item of the index, in the same order, and so never outgrows it.

    Args:
        keys: uint8 (N, 32), see :func:`picture_keys`; a row of zeros stands for an embedding that
            is not kept.
        embeddings: float32 (N, D).
        owner: which ids the rows belong to; empty for none.
    """

    keys: np.ndarray
    embeddings: np.ndarray
    owner: str = ""

    @classmethod
    def empty(cls, count: int, dim: int) -> EmbeddingCache:
        """Return a cache that keeps no embedding of `count` items."""
        return cls(np.zeros((count, WIDTH), np.uint8), np.zeros((count, dim), np.float32))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], dim: int) -> EmbeddingCache:
        """Return the cache of the index in a folder, an empty one if none can be trusted.

        A file that is damaged is told in the log and not used.

        Args:
            folder: folder of an index.
            dim: dimensions of the embeddings; a cache with others is not used.
        """
        path = Path(folder) / FILE
        try:
            # The archive holds a checksum of each part, which reading compares.
            with np.load(path, allow_pickle=False) as parts:
                keys, embeddings, owner = parts["keys"], parts["embeddings"], str(parts["ids"])
        except FileNotFoundError:
            return cls.empty(0, dim)
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile) as error:
            log.warning("%s is damaged (%s): all pictures are embedded again", path, error)
            return cls.empty(0, dim)
        fits = (keys.dtype, keys.shape[1:]) == (np.uint8, (WIDTH,)) and (
            (embeddings.dtype, embeddings.shape) == (np.float32, (len(keys), dim))
        )
        return cls(keys, embeddings, owner) if fits else cls.empty(0, dim)

    def of(self, ids: Sequence[str]) -> EmbeddingCache:
        """Return the cache row by row for an index with these ids.

        If it belongs to other ids, which is told in the log, nothing is known of any of them.
        """
        if self.owner == _digest(ids):
            return self
        if len(self):
            log.warning("the embeddings kept belong to another index: they are not used")
        return self.empty(len(ids), self.embeddings.shape[1])

    def save(self, folder: str | os.PathLike[str], ids: Sequence[str]) -> None:
        """Write the cache to the folder of the index with these ids."""
        path = Path(folder) / FILE
        np.savez(path, keys=self.keys, embeddings=self.embeddings, ids=np.array(_digest(ids)))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the row of each key, int64 (M,), -1 for those that are not kept.

        Args:
            keys: uint8 (M, 32).
        """
        rows = {key.tobytes(): row for row, key in enumerate(self.keys) if key.any()}
        return np.fromiter((rows.get(key.tobytes(), -1) for key in keys), np.int64, len(keys))

    def __len__(self) -> int:
        return len(self.keys)


def picture_keys(items: ItemTable, model: str) -> np.ndarray:
    """Return what tells apart all that an embedding depends on, uint8 (N, 32).

    A key is the SHA-256 of the content of the picture file, the box and the model; paths, dates
    and labels are not in it. A file that cannot be read has a row of zeros.

    Args:
        items: rows; a file that several of them name is read once.
        model: fingerprint of the model.
    """
    paths = list(dict.fromkeys(items.path))
    with bar("comparing pictures", len(paths)) as advance, ThreadPoolExecutor(8) as pool:
        contents = {}
        for path, digest in zip(paths, pool.map(_content, paths), strict=True):
            contents[path] = digest
            advance(1)
    keys = np.zeros((len(items), WIDTH), np.uint8)
    for row, path in enumerate(items.path):
        content = contents[path]
        if content is not None:
            keys[row] = _key(content, items.box[row], model)
    return keys


def picture_key(content: bytes, box: np.ndarray, model: str) -> np.ndarray:
    """Return the key of a picture, uint8 (32,), see :func:`picture_keys`.

    Args:
        content: of its file.
        box: float32 (4,), NaN for none.
        model: fingerprint of the model.
    """
    return _key(hashlib.sha256(content).digest(), box, model)


def _key(content: bytes, box: np.ndarray, model: str) -> np.ndarray:
    whole = b"" if np.isnan(box[0]) else box.astype("<f4").tobytes()
    key = hashlib.sha256(VERSION + model.encode() + content + whole)
    return np.frombuffer(key.digest(), np.uint8)


def _content(path: str) -> bytes | None:
    try:
        return hashlib.sha256(read_bytes(path)).digest()
    except Exception:  # Whoever wants the picture itself says what is wrong with it.
        return None


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()

"""Embeddings of a catalogue in a folder: arrays, the table of their items, what they are made by.

embeddings.npy     float32 (N, D), to be memory-mapped
picture_keys.npy   uint8 (N, 32), what each was made from: see `embedding_cache`
picture_files.npy  int64 (R, 2), bytes and time of change in nanoseconds of each row's file, as
                   it was read, of R rows with and without a picture; zeros where not known
items.csv          N items in the same order
bad_images.log     pictures that were left out, each with its reason
meta.json          of what, by which model, and the SHA-256 of the other files
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import absolute, is_remote, reason, sha256
from trainer.data.readers.items import read_items
from trainer.data.table import ItemTable
from trainer.retrieval.embedding_cache import WIDTH

FORMAT = 2
META, EMBEDDINGS, KEYS = "meta.json", "embeddings.npy", "picture_keys.npy"
STATES, ITEMS, BAD = "picture_files.npy", "items.csv", "bad_images.log"
#: The files that the meta data has checksums of.
FILES = (EMBEDDINGS, KEYS, STATES, ITEMS, BAD)


@dataclass(frozen=True)
class EmbeddingsMeta:
    """What a folder of embeddings says of itself.

    Attributes:
        model: fingerprint of the exported model.
        catalogue: fingerprint of the table of all rows, see :meth:`ItemTable.fingerprint`.
        source: folder that the pictures of all rows share.
        rows: of the catalogue.
        dim: numbers of an embedding.
        batch: rows of the catalogue that go through the model together.
        shard: which part this is, from 1.
        shards: parts that the catalogue was split into; 1 for all of it.
        items: rows here, those with a picture that can be used.
        bad: rows that are left out.
        problems: rows that the reader of the catalogue could not use.
        max_bad_share: largest share of bad rows and problems that was allowed, 0 to 1.
        query_domain: domain of the queries that the run was measured with; empty for none.
        gallery_domain: domain that it searched; empty for none.
        checksums: SHA-256 of each file by its name.
    """

    model: str
    catalogue: str
    source: str
    rows: int
    dim: int
    batch: int
    shard: int
    shards: int
    items: int
    bad: int
    problems: int
    max_bad_share: float
    query_domain: str
    gallery_domain: str
    checksums: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], place: str) -> EmbeddingsMeta:
        """Return what :meth:`to_dict` gave.

        Raises:
            UserError: something is missing, or of another version.
        """
        version = values.get("format")
        if version != FORMAT:
            raise UserError(f"{place} has format {version}, this mildnet reads {FORMAT}")
        try:
            return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        except KeyError as error:
            raise UserError(f"{place} has no {error}: it is damaged") from None


@dataclass(frozen=True)
class EmbeddingsFolder:
    """A complete folder, its arrays memory-mapped.

    Attributes:
        path: of the folder.
        meta: what it says of itself.
        embeddings: float32 (N, D).
        keys: uint8 (N, 32), see :func:`trainer.retrieval.embedding_cache.picture_key`.
        items: N rows.
    """

    path: str
    meta: EmbeddingsMeta
    embeddings: np.ndarray
    keys: np.ndarray
    items: ItemTable


def read_embeddings_folder(path: str | os.PathLike[str]) -> EmbeddingsFolder:
    """Return the embeddings of a whole catalogue.

    Raises:
        UserError: no such folder, one that is not finished or only a shard, or damaged files.
    """
    if is_remote(os.fspath(path)):
        raise UserError(f"{path}: copy it to this machine: mildnet embed merge {path} --to DIR")
    folder = Path(absolute(os.fspath(path)))
    meta = read_meta(folder)
    if meta.shards > 1:
        raise UserError(
            f"{path} is shard {meta.shard} of {meta.shards}: merge all of them first "
            "(mildnet embed merge)"
        )
    check_files(folder, meta, str(path))
    return read_part(folder, meta)


def read_meta(folder: Path) -> EmbeddingsMeta:
    """Return what a local folder says of itself.

    Raises:
        UserError: it says nothing, or something that cannot be read.
    """
    place = folder / META
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
        return EmbeddingsMeta.from_dict(values, str(place))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no embeddings that are finished (no {META}): see mildnet embed"
        ) from None
    except OSError as error:
        raise UserError(f"{place}: {reason(error)}") from None
    except (ValueError, AttributeError):
        raise UserError(f"{place}: damaged, or not written by mildnet") from None


def check_files(folder: Path, meta: EmbeddingsMeta, path: str) -> None:
    """Compare the files of a local folder with their checksums.

    Args:
        folder: with the files.
        meta: what it says of itself.
        path: what people know it by, for the message.

    Raises:
        UserError: one is missing, damaged or another one.
    """
    for name in FILES:
        if not (folder / name).is_file() or sha256(folder / name) != meta.checksums.get(name):
            raise UserError(f"{path}/{name} is damaged, or not what was written: copy it again")


def read_part(folder: Path, meta: EmbeddingsMeta) -> EmbeddingsFolder:
    """Return what is in a local folder, whole or a shard with any items.

    Raises:
        UserError: files are missing or do not fit each other.
    """
    arrays = {}
    for name, kind, width in ((EMBEDDINGS, np.float32, meta.dim), (KEYS, np.uint8, WIDTH)):
        try:
            array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise UserError(f"{folder / name}: {reason(error)}") from None
        except ValueError:
            raise UserError(f"{folder / name} is damaged") from None
        if (array.dtype, array.shape) != (kind, (meta.items, width)):
            raise UserError(
                f"{folder / name} holds {array.dtype} {array.shape}, {META} speaks of "
                f"{(meta.items, width)}"
            )
        arrays[name] = array
    items = read_items(str(folder / ITEMS), any_bytes=True)
    if len(items) != meta.items or items.problems:
        raise UserError(f"{folder / ITEMS} holds {len(items)} items, {META} speaks of {meta.items}")
    return EmbeddingsFolder(str(folder), meta, arrays[EMBEDDINGS], arrays[KEYS], items)

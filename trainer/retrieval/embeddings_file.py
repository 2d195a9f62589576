"""Embeddings with their labels, for `mildnet evaluate`: in one .npz file, from any program; or in
a folder that `mildnet embed` wrote."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from trainer.config import UserError, nearest
from trainer.data.domains import query_masks
from trainer.data.files import reason
from trainer.retrieval.embeddings_folder import EmbeddingsFolder, read_embeddings_folder
from trainer.retrieval.vectors import check_embeddings, check_ids


@dataclass(frozen=True)
class EmbeddingsFile:
    """The arrays of an embeddings file; all but the first two are optional.

    Attributes:
        embeddings: (N, D) float32, finite.
        labels: (N,) int64 or str.
        is_query: (N,) bool, the rows that search.
        is_gallery: (N,) bool, the rows that are searched.
        categories: (N,) str.
        domains: (N,) str.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    is_query: np.ndarray | None = None
    is_gallery: np.ndarray | None = None
    categories: np.ndarray | None = None
    domains: np.ndarray | None = None


NAMES = tuple(field.name for field in fields(EmbeddingsFile))


def read_embeddings(path: str | os.PathLike[str]) -> EmbeddingsFile:
    """Read an .npz file with the arrays of :class:`EmbeddingsFile`; other arrays are not touched.

    A folder of :mod:`trainer.retrieval.embeddings_folder` is read as such a file: its queries and
    gallery are of the domains that the run was measured with.

    Raises:
        UserError: no such file, not a complete .npz, a pickled array, an array missing or
            misspelt, or shapes and types that do not fit.
    """
    source = Path(path)
    if source.is_dir():
        return _of_folder(read_embeddings_folder(source))
    if not source.is_file():
        raise UserError(f"embeddings file {source} does not exist")
    try:
        with zipfile.ZipFile(source) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist()]
        for name in NAMES[:2]:
            if name not in there:
                raise UserError(
                    f"{source} has no array {name!r}{nearest(name, there, 'it holds')} "
                    "(np.savez with embeddings and labels makes such a file)"
                )
        with np.load(source, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in NAMES if name in there}
    except zipfile.BadZipFile as error:
        raise UserError(f"{source} is not a complete .npz file: {error}") from None
    except (OSError, EOFError, KeyError, ValueError, MemoryError, zlib.error) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {source}: {what}") from None
    try:
        return _checked(loaded)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _of_folder(folder: EmbeddingsFolder) -> EmbeddingsFile:
    items, meta = folder.items, folder.meta
    is_query, is_gallery = query_masks(items, meta.query_domain, meta.gallery_domain)
    return EmbeddingsFile(
        check_embeddings(folder.embeddings),
        np.array(items.label_names, str)[items.label],
        is_query,
        is_gallery,
        categories=items.category.astype(str) if any(items.category) else None,
        domains=items.domain.astype(str) if any(items.domain) else None,
    )


def write_embeddings(path: str | os.PathLike[str], content: EmbeddingsFile) -> None:
    """Write `content` to an .npz file that :func:`read_embeddings` reads, complete or not at all.

    Raises:
        UserError: arrays that do not fit each other, or a disk that refuses.
    """
    given = {name: getattr(content, name) for name in NAMES}
    arrays = {
        name: value
        for name, value in vars(_checked({k: v for k, v in given.items() if v is not None})).items()
        if value is not None
    }
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the embeddings to {target}: {reason(error)}") from None


def _checked(arrays: dict[str, np.ndarray]) -> EmbeddingsFile:
    embeddings = check_embeddings(arrays["embeddings"])
    checked = {"embeddings": embeddings, "labels": check_ids(arrays["labels"], "labels")}
    for name in NAMES[2:]:
        if name not in arrays:
            continue
        array = np.asarray(arrays[name])
        if name.startswith("is_"):
            if array.dtype != bool and not (
                array.dtype.kind in "iu" and np.isin(array, (0, 1)).all()
            ):
                raise UserError(f"{name} is {array.dtype}: true or false (or 0 and 1) is needed")
            checked[name] = array.astype(bool)
        else:
            checked[name] = check_ids(array, name).astype(str)
    for name, array in checked.items():
        if name != "embeddings" and array.shape != (len(embeddings),):
            raise UserError(
                f"{name} has shape {array.shape}: one for each of the {len(embeddings)} embeddings "
                "is needed"
            )
    return EmbeddingsFile(**checked)

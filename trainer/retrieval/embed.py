"""Embed a catalogue: stream batches through a model into one array, in memory or on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import UserError
from trainer.data.files import reason


def embed(
    model_fn: Callable[[Any], Any],
    batches: Iterable[Mapping[str, Any]],
    count: int,
    *,
    dim: int | None = None,
    out: str | os.PathLike[str] | None = None,
    paths: Sequence[str] | None = None,
) -> np.ndarray:
    """Return the embeddings of `count` images in row order.

    One batch is held at a time; with `out`, the embeddings themselves are on disk only.

    Args:
        model_fn: images (B, H, W, 3) -> embeddings (B, D): a Keras model, a loaded SavedModel's
            function, or any other callable.
        batches: dicts with `image` (B, H, W, 3) and, optionally, `row` (B,), where in 0..count-1
            each image belongs; without `row` they come in order.
        count: how many images there are.
        dim: dimensions expected; default: whatever the model gives.
        out: an .npy file to write, complete or not at all. Default: memory.
        paths: (count,) names of the images, for messages.

    Returns:
        (count, D) float32; a read-only memory map of `out` if that is given.

    Raises:
        UserError: an embedding that is not finite (the image is named), another number of
            dimensions, rows missing or given twice, or a disk that refuses.
    """
    if count < 1:
        raise UserError("there are no images to embed")
    if out is None:
        return _fill(model_fn, batches, count, dim, paths, _in_memory)
    target = Path(out)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        table = _fill(model_fn, batches, count, dim, paths, _on_disk(partial))
        table.flush()  # type: ignore[attr-defined]  # a memory map
        del table
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return np.load(target, mmap_mode="r", allow_pickle=False)


def _in_memory(count: int, dim: int) -> np.ndarray:
    return np.empty((count, dim), np.float32)


def _on_disk(path: Path) -> Callable[[int, int], np.ndarray]:
    def make(count: int, dim: int) -> np.ndarray:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            table = np.lib.format.open_memmap(path, "w+", np.float32, (count, dim))
            # Reserved now: a memory map that runs out of disk later is killed by a signal.
            if hasattr(os, "posix_fallocate"):
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise UserError(
                f"cannot write {count} x {dim} embeddings to {path.parent}: {reason(error)}"
            ) from None
        return table

    return make


def _fill(
    model_fn: Callable[[Any], Any],
    batches: Iterable[Mapping[str, Any]],
    count: int,
    dim: int | None,
    paths: Sequence[str] | None,
    make: Callable[[int, int], np.ndarray],
) -> np.ndarray:
    table: np.ndarray | None = None
    filled = np.zeros(count, bool)
    seen = 0
    for batch in batches:
        # float32 also from bfloat16 and float16 models.
        vectors = np.asarray(model_fn(batch["image"])).astype(np.float32, copy=False)
        rows = np.asarray(batch["row"]) if "row" in batch else np.arange(seen, seen + len(vectors))
        seen += len(vectors)
        if vectors.ndim != 2 or len(vectors) != len(rows):
            raise UserError(
                f"the model gave {vectors.shape} for {len(rows)} images: one embedding (D,) each "
                "is needed"
            )
        if dim is not None and vectors.shape[1] != dim:
            raise UserError(f"the model gave {vectors.shape[1]} dimensions, expected were {dim}")
        dim = vectors.shape[1]
        if (
            rows.min(initial=0) < 0
            or rows.max(initial=0) >= count
            or len(np.unique(rows)) < len(rows)
            or filled[rows].any()
        ):
            raise UserError(f"batches hold a row twice, or one that is not in 0..{count - 1}")
        _check_finite(vectors, rows, paths)
        if table is None:
            table = make(count, dim)
        table[rows] = vectors
        filled[rows] = True
    if table is None or not filled.all():
        raise UserError(f"batches hold {int(filled.sum())} of {count} images")
    return table


def _check_finite(vectors: np.ndarray, rows: np.ndarray, paths: Sequence[str] | None) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        name = f"row {row}" if paths is None else f"{paths[row]} (row {row})"
        raise UserError(
            f"the embedding of {name} holds NaN or infinity: the model has diverged, or this image "
            "makes it overflow (mixed precision?)"
        )

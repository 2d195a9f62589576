"""Files wherever Beam reads and writes them: local, gs://, s3://, hdfs://."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from trainer.config import UserError

#: Bytes that are copied at once.
PIECE = 1 << 20


def check(path: str) -> None:
    """Check that Beam can go to where a path is.

    Raises:
        UserError: it cannot, such as to `gs://` without the packages of Google.
    """
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def find(pattern: str) -> list[str]:
    """Return the files that a pattern such as `gs://bucket/folder/*.parquet` names, in order."""
    return sorted(path for path, _ in sizes(pattern))


def sizes(pattern: str) -> list[tuple[str, int]]:
    """Return the files that a pattern names and their bytes, in order."""
    (result,) = FileSystems.match([pattern])
    return sorted((found.path, found.size_in_bytes) for found in result.metadata_list)


def has(pattern: str) -> bool:
    """Whether there is a file that a pattern names."""
    (result,) = FileSystems.match([pattern], [1])
    return bool(result.metadata_list)


def open_plain(path: str) -> BinaryIO:
    """Open a file to read its bytes as they are, whatever its name promises."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


@contextlib.contextmanager
def whole(path: str) -> Iterator[BinaryIO]:
    """Open a file that appears under its name once it is complete, and not if the block raises.

    A process that is killed leaves a file whose name begins with `.part-`.
    """
    folder, name = FileSystems.split(path)
    part = FileSystems.join(folder, f".part-{uuid.uuid4().hex[:12]}-{name}")
    try:
        with FileSystems.create(part, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            yield stream
        FileSystems.rename([part], [path])
    except BaseException:
        with contextlib.suppress(BeamIOError):
            FileSystems.delete([part])
        raise


def write_json(path: str, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with whole(path) as stream:
        stream.write((json.dumps(values, indent=1) + "\n").encode())


def read_json(path: str) -> dict[str, Any] | None:
    """Return the content of a JSON file, None if there is no such file."""
    if not FileSystems.exists(path):
        return None
    with open_plain(path) as stream:
        return dict(json.loads(stream.read()))


def append(source: str, target: BinaryIO) -> None:
    """Write the bytes of a file behind what `target` has."""
    with open_plain(source) as stream:
        while piece := stream.read(PIECE):
            target.write(piece)


def clear(folder: str) -> None:
    """Delete all files below a folder, if it is there."""
    if paths := find(FileSystems.join(folder, "**")):
        FileSystems.delete(paths)


@contextlib.contextmanager
def local_folder(path: str) -> Iterator[Path]:
    """Give a local folder with the files of one that may be remote; a copy is deleted after."""
    if "://" not in path:
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as copy:
        for source in find(FileSystems.join(path, "**")):
            target = os.path.join(copy, source[len(path) :].lstrip("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as stream:
                append(source, stream)
        yield Path(copy)

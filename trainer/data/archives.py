"""Unpacking a zip archive that may come from anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from trainer.config import UserError
from trainer.data import files
from trainer.data.progress import bar

#: Pictures hardly shrink in a zip. An archive that grows by more than this was made to fill a disk.
MAX_GROWTH = 100
#: Growth is of no interest below this size, in bytes.
GROWTH_FREE = 64 * 2**20
#: Name of the note that an unpacked folder carries about its archive.
NOTE = ".unpacked.json"


def unpacked(archive: str, folder: str | None = None) -> str:
    """Return the folder with the content of a zip archive; unpack it if that was not yet done.

    The content goes to `folder`, or to the cache folder if that cannot be written or the archive
    is remote. A folder that this function did not make is taken as it is: whoever put it there
    has unpacked the archive by hand. One that it made is made again when the archive has changed.

    Args:
        archive: path or URL of the zip file.
        folder: where to unpack it, default beside the archive under its name without `.zip`.

    Raises:
        UserError: not a zip file, damaged, encrypted, an entry is unsafe (see :func:`unpack`), or
            the disk is full.
    """
    size, changed = _identity(archive)
    note = {"archive": os.path.basename(archive), "size": size, "changed": changed}
    target = Path(folder or os.path.splitext(archive)[0])
    key = hashlib.sha256(f"{archive}\n{size}\n{changed}".encode()).hexdigest()[:16]
    cached = files.cache_folder() / f"{Path(archive).stem}-{key}"
    if files.is_remote(archive):
        if not cached.is_dir():
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cached.parent) as place:
                local = os.path.join(place, "archive.zip")
                _fetch(archive, local, size)
                unpack(local, cached, name=archive)
        return str(cached)

    if target.is_dir() and any(target.iterdir()):
        if not (target / NOTE).is_file() or json.loads((target / NOTE).read_text()) == note:
            return str(target)
        outdated = target.with_name(f".{target.name}.outdated")
        shutil.rmtree(outdated, ignore_errors=True)
        os.rename(target, outdated)
        try:
            unpack(archive, target, note=note)
        except BaseException:
            os.rename(outdated, target)
            raise
        shutil.rmtree(outdated, ignore_errors=True)
        return str(target)
    if os.access(target if target.is_dir() else target.parent, os.W_OK):
        unpack(archive, target, note=note)
        return str(target)
    if not cached.is_dir():
        unpack(archive, cached, note=note)
    return str(cached)


def unpack(
    archive: str, folder: str | os.PathLike[str], *, name: str = "", note: dict | None = None
) -> None:
    """Unpack a zip archive into a new folder, whole or not at all.

    Every entry is checked before the first byte is written: names that are absolute or climb out
    of the folder, links and devices, names that come twice, encrypted entries, and archives that
    grow more than 100 times (zip bombs) are refused.

    Args:
        archive: path of the zip file.
        folder: the folder to make.
        name: what messages call the archive, default its path.
        note: facts to store in the folder under NOTE.

    Raises:
        UserError: the archive is unsafe, damaged or not a zip file, or the disk is full.
    """
    name = name or archive
    try:
        with zipfile.ZipFile(archive) as opened, files.whole_folder(folder) as place:
            targets = _checked(opened, name, os.path.getsize(archive))
            total = sum(entry.file_size for entry, _ in targets)
            free = shutil.disk_usage(place).free
            if total > free:
                raise UserError(
                    f"{name} unpacks to {total / 2**20:,.0f} MiB, {place.parent} has "
                    f"{free / 2**20:,.0f} MiB free: make room or unpack it elsewhere"
                )
            with bar(f"unpacking {os.path.basename(name)}", total, "bytes") as advance:
                for entry, parts in targets:
                    path = place.joinpath(*parts)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(entry) as source, open(path, "xb") as sink:
                        _copy(source, sink, advance)
            if note is not None:
                (place / NOTE).write_text(json.dumps(note), encoding="utf-8")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(
            f"{name} cannot be unpacked as a zip file ({error}): copy or download it again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot unpack {name}: {files.reason(error)}") from None


def _checked(
    opened: zipfile.ZipFile, name: str, packed_size: int
) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """Return the file entries with the parts of their safe relative paths."""
    targets: list[tuple[zipfile.ZipInfo, tuple[str, ...]]] = []
    seen: set[tuple[str, ...]] = set()
    total = 0
    for entry in opened.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        # Archives made on Windows may separate by backslashes.
        written = entry.filename.replace("\\", "/")
        parts = tuple(part for part in written.split("/") if part not in ("", "."))
        drive = len(written) > 1 and written[1] == ":"
        if written.startswith("/") or drive or ".." in parts:
            raise UserError(f"{name}: entry {entry.filename!r} leads out of the folder: refused")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "a device"
            raise UserError(f"{name}: entry {entry.filename!r} is {what}, not a file: refused")
        if entry.flag_bits & 1:
            raise UserError(f"{name}: entry {entry.filename!r} is encrypted: unpack it by hand")
        if written.endswith("/") or not parts:
            continue
        if parts in seen:
            raise UserError(f"{name}: entry {entry.filename!r} comes twice: refused")
        seen.add(parts)
        total += entry.file_size
        targets.append((entry, parts))
    for parts in seen:
        if any(parts[:end] in seen for end in range(1, len(parts))):
            raise UserError(f"{name}: entry {'/'.join(parts)!r} lies below a file: refused")
    if total > GROWTH_FREE and total > MAX_GROWTH * packed_size:
        raise UserError(
            f"{name} grows from {packed_size / 2**20:,.1f} to {total / 2**20:,.0f} MiB, more than "
            f"{MAX_GROWTH} times: refused as a zip bomb; unpack it by hand if you trust it"
        )
    return targets


def _fetch(archive: str, local: str, size: int) -> None:
    """Copy a remote archive to a local file."""
    try:
        with (
            files.remote_errors(),
            files.gfile().GFile(archive, "rb") as source,
            open(local, "xb") as sink,
            bar(f"fetching {archive}", size, "bytes") as advance,
        ):
            _copy(source, sink, advance)
    except OSError as error:
        raise UserError(f"cannot fetch {archive}: {files.reason(error)}") from None


def _copy(source: Any, sink: IO[bytes], advance: Callable[[int], None]) -> None:
    while piece := source.read(2**20):
        sink.write(piece)
        advance(len(piece))


def _identity(archive: str) -> tuple[int, int]:
    """Return size and time of change, in bytes and ns since 1970."""
    try:
        if files.is_remote(archive):
            with files.remote_errors():
                found = files.gfile().stat(archive)
            return int(found.length), int(found.mtime_nsec)
        status = os.stat(archive)
    except OSError as error:
        raise UserError(f"cannot read {archive}: {files.reason(error)}") from None
    return status.st_size, status.st_mtime_ns

"""Local and remote files behind the same few calls, and writes that happen whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from trainer.config import UserError

#: What a mounted bucket says when it can't rename a folder.
_NO_RENAME = (errno.EMFILE, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

#: What a file system without locks says.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def is_remote(path: str) -> bool:
    """Whether `path` is a URL such as gs://bucket/folder, which only `tf.io.gfile` can read."""
    return "://" in path


def gfile() -> Any:
    """Return `tf.io.gfile`; imported only when asked for, as it brings all of TensorFlow."""
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def remote_errors() -> Iterator[None]:
    """Turn what TensorFlow's file systems raise into an OSError, as local files do.

    Raises:
        FileNotFoundError, PermissionError, OSError: with the first line of TensorFlow's message.
    """
    import tensorflow as tf

    kinds = {tf.errors.NotFoundError: errno.ENOENT, tf.errors.PermissionDeniedError: errno.EACCES}
    try:
        yield
    except tf.errors.OpError as error:
        words = str(error.message).strip().split("\n", 1)[0]
        raise OSError(kinds.get(type(error), errno.EIO), words) from None


def _asked(path: str, question: Callable[[Any], bool]) -> bool:
    """Return the answer of a remote file system."""
    try:
        with remote_errors():
            return bool(question(gfile()))
    except OSError as error:
        raise UserError(f"cannot look at {path}: {reason(error)}") from None


def absolute(path: str) -> str:
    """Return a local path as an absolute one without `~`, a URL unchanged but for a last slash."""
    if is_remote(path):
        return path.rstrip("/")
    return os.path.abspath(os.path.expanduser(path))


def join(folder: str, name: str) -> str:
    """Return `name` below `folder`; a URL or an absolute path is returned as it is."""
    return name if is_remote(name) else os.path.join(folder, name)


def is_folder(path: str) -> bool:
    """Whether the local or remote folder exists."""
    if is_remote(path):
        return _asked(path, lambda remote: remote.isdir(path))
    return os.path.isdir(path)


def is_file(path: str) -> bool:
    """Whether the local or remote file exists."""
    if is_remote(path):
        return _asked(path, lambda remote: remote.exists(path) and not remote.isdir(path))
    return os.path.isfile(path)


def require_place(path: str, example: str) -> None:
    """Check that a file can be written at `path`, before the work that it is to hold begins.

    Args:
        path: the file, which may be there.
        example: name of a file, for those who gave a folder.

    Raises:
        UserError: there is no folder for it, or it is a folder itself.
    """
    folder = os.path.dirname(absolute(path))
    if not is_folder(folder):
        raise UserError(f"{path}: there is no folder {folder}; make it first")
    if is_folder(path):
        raise UserError(f"{path} is a folder; give a file, such as {path.rstrip('/')}/{example}")


def require_folder(data_path: str) -> str:
    """Return the absolute data path.

    Raises:
        UserError: it is empty, does not exist, or is a file.
    """
    if not data_path:
        raise UserError("no data path is set: give the folder (or gs:// URL) that holds the data")
    path = absolute(data_path)
    if not is_folder(path):
        what = "is a file, not a folder" if is_file(path) else "does not exist"
        raise UserError(f"data path {path} {what}: give the folder that holds the data")
    return path


def read_bytes(path: str) -> bytes:
    """Return the whole content of a local or remote file."""
    if is_remote(path):
        with remote_errors(), gfile().GFile(path, "rb") as stream:
            return bytes(stream.read())
    return Path(path).read_bytes()


def read_text(path: str, *, any_bytes: bool = False) -> str:
    """Return a UTF-8 text file, with or without a byte order mark.

    Args:
        path: local or remote.
        any_bytes: take bytes that are not UTF-8 as Python takes them in names of files.

    Raises:
        UserError: there is no such file, it cannot be read, or it is not UTF-8.
    """
    try:
        errors = "surrogateescape" if any_bytes else "strict"
        return read_bytes(path).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} at position "
            f"{error.start}): save it as CSV in UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below and with `folder` and its file names, both in alphabetical order.

    Folders are given relative to `folder`, `''` for itself. Links to folders are followed, once.
    Hidden files and folders are left out.

    Raises:
        UserError: a folder cannot be read; passed over, its pictures would be missed in silence.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {reason(error)}") from None

    walker = (
        gfile().walk(folder, onerror=lambda error: fail(OSError(errno.EIO, str(error), folder)))
        if is_remote(folder)
        else os.walk(folder, onerror=fail, followlinks=True)
    )
    seen = set()
    for place, folders, names in walker:
        if not is_remote(folder):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = place[len(folder) :].strip("/")
        yield relative, sorted(name for name in names if not name.startswith("."))


def cache_folder() -> Path:
    """Return the folder for data that can be made again: $MILDNET_CACHE or ~/.cache/mildnet."""
    return Path(absolute(os.environ.get("MILDNET_CACHE") or "~/.cache/mildnet"))


def reason(error: OSError) -> str:
    """Return what the system said in lower case, such as `no space left on device`."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def write_bytes(path: str, data: Any) -> None:
    """Write a local or remote file, whole or not at all.

    Args:
        path: its folder must exist.
        data: bytes, or anything with the buffer interface.

    Raises:
        UserError: it cannot be written; a file that was there is untouched.
    """
    with whole_bytes(path) as stream:
        stream.write(data)


def write_json(path: str, values: Any) -> None:
    """Write values as JSON that people can read, as :func:`write_bytes` does."""
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())


def is_leftover(name: str, of: str) -> bool:
    """Return whether a name is of what :func:`whole_bytes` leaves of a file when it is killed.

    Args:
        name: in the folder of the file.
        of: name of the file.
    """
    return name.startswith(f".{of}.") or (name.startswith(f"{of}.") and name.endswith("part"))


@contextlib.contextmanager
def whole_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open a local or remote file for bytes, that appears under its name only once it is complete.

    A file that was there stays until then, and stays if the block raises. What goes to a remote one
    is held in memory until the block ends.

    Args:
        path: its folder must exist.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if is_remote(path):
            held = io.BytesIO()
            yield held
            # Other machines may be writing the same file.
            partial = f"{path}.{uuid.uuid4().hex[:12]}.part"
            with remote_errors():
                try:
                    with gfile().GFile(partial, "wb") as remote:
                        remote.write(held.getvalue())
                    gfile().rename(partial, path, overwrite=True)
                except BaseException:
                    with contextlib.suppress(Exception):
                        gfile().remove(partial)
                    raise
        else:
            with _whole(path, mode="wb") as local:
                yield local
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from None


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Open a text file that appears under its name only once it is complete.

    A file that was there stays until then, and stays if the block raises.

    Args:
        path: the local file; its folder must exist.
    """
    with _whole(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        yield stream


@contextlib.contextmanager
def _whole(path: str | os.PathLike[str], mode: str, **options: Any) -> Iterator[IO[Any]]:
    target = Path(absolute(os.fspath(path)))
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(handle, mode, **options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], *, first: str = "") -> Iterator[Path]:
    """Give a temporary folder that becomes `path` once the block ends well, and vanishes if not.

    If another process has put a folder there first, that one stays and this one vanishes: the
    makers of this library put equal content under equal names.

    Args:
        path: the local folder to make; it must not exist, or be empty.
        first: see :func:`rename_folder`.
    """
    target = Path(absolute(os.fspath(path)))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield partial
        os.chmod(partial, 0o777 & ~_umask())
        try:
            rename_folder(partial, target, first=first)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def rename_folder(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, first: str = ""
) -> None:
    """Rename a local folder; in a mounted bucket, which can't, move its files one by one.

    Cloud Storage FUSE refuses to rename a folder with files in it, as a bucket has no folders but
    the names of its objects. If a file can't be moved, those before it are moved back. A process
    that is killed in between leaves files in both folders.

    Args:
        source: the folder; it is gone afterwards.
        target: must not exist, or be an empty folder.
        first: the file in it that says what else belongs to it, which is moved before all others.
            By it a folder that was left so is known for what it is, and may be replaced.

    Raises:
        OSError: the system refuses; ENOTEMPTY or EEXIST where the target holds files, and only
            there.
    """
    try:
        os.rename(source, target)
        return
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
    if os.path.isdir(target) and os.listdir(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    root = Path(source)
    paths = [path.relative_to(root) for path in root.rglob("*")]
    moved: list[tuple[Path, Path]] = []
    try:
        for path in sorted(paths, key=lambda path: (path.as_posix() != first, path)):
            there = Path(target) / path
            if (root / path).is_dir():
                there.mkdir(parents=True, exist_ok=True)
            else:
                there.parent.mkdir(parents=True, exist_ok=True)
                os.replace(root / path, there)
                moved.append((root / path, there))
    except OSError:
        for here, there in reversed(moved):
            os.replace(there, here)
        shutil.rmtree(target)
        raise
    shutil.rmtree(source)


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str], *, first: str = "") -> Iterator[Path]:
    """Give a temporary folder that takes the place of `path` once the block ends well.

    The folder that was there stays until then, and stays if the block raises. There is an instant
    between two renames in which nothing is at `path`: a process that is killed in it leaves the
    old folder as `.NAME.old`, which :func:`restore_folder` puts back.

    Args:
        path: the local folder to make or replace. Only one process at a time may do so: see
            :func:`locked`.
        first: see :func:`rename_folder`.
    """
    target = Path(absolute(os.fspath(path)))
    restore_folder(target)
    fresh, outdated = target.with_name(f".{target.name}.new"), outdated_folder(target)
    shutil.rmtree(fresh, ignore_errors=True)
    with whole_folder(fresh, first=first) as partial:
        yield partial
    shutil.rmtree(outdated, ignore_errors=True)
    if target.exists():
        rename_folder(target, outdated, first=first)
    try:
        rename_folder(fresh, target, first=first)
    except OSError:
        restore_folder(target)
        raise
    shutil.rmtree(outdated, ignore_errors=True)


def restore_folder(path: str | os.PathLike[str]) -> None:
    """Put back the folder that a process was about to replace by another when it was killed."""
    target = Path(absolute(os.fspath(path)))
    if not target.exists() and outdated_folder(target).exists():
        rename_folder(outdated_folder(target), target)


def outdated_folder(path: str | os.PathLike[str]) -> Path:
    """Return where :func:`replaced_folder` puts the old folder until the new one is in place."""
    target = Path(absolute(os.fspath(path)))
    return target.with_name(f".{target.name}.old")


@contextlib.contextmanager
def locked(
    path: str | os.PathLike[str], refusal: str, *, wait: float = 0, shared: bool = False
) -> Iterator[None]:
    """Keep other processes on this machine out of what the block does.

    The system lifts the lock when the process ends, however it ends. Where the file system has no
    locks, as in some mounted buckets, nobody is kept out.

    Args:
        path: local lock file, in a folder that exists; it is gone again after the block.
        refusal: message of the error.
        wait: seconds to wait for another process, default 0.
        shared: let others in that share it, too; default: nobody.

    Raises:
        UserError: another process is in such a block.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    end, asked = time.monotonic() + wait, 0
    while True:
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    if time.monotonic() >= end:
                        raise UserError(refusal) from None
                    time.sleep(0.02)
                    continue
            # The one who held it before has removed the file: a lock on that keeps nobody out. Some
            # mounts number a file anew whenever it is looked at, so there is an end to asking.
            if asked < 100 and not _is_file(lock.fileno(), path):
                asked += 1
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    if shared:  # the last one of them takes it away
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
            return


def _is_file(descriptor: int, path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a local file, 64 hex digits, however large it is."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    # The mask can only be read by setting it; mkstemp and mkdtemp ignore it for privacy.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

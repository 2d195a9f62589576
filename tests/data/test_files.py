import errno
import fcntl
import io
import os
import subprocess
import sys
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.config import UserError
from trainer.data import archives, files
from trainer.data.readers.folder import folder
from trainer.data.readers.items import items
from trainer.data.readers.triplets import triplets
from trainer.data.verify import verify_images


@pytest.fixture
def bucket():
    """A URL that only `tf.io.gfile` can read, as gs:// is; in memory."""
    url = f"ram://bucket-{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(url)
    return url


def put(url, data):
    tf.io.gfile.makedirs(url.rsplit("/", 1)[0])
    with tf.io.gfile.GFile(url, "wb") as stream:
        stream.write(data)


def jpeg(seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG")
    return stream.getvalue()


def test_a_remote_catalogue_is_read_and_verified(bucket):
    put(f"{bucket}/items.csv", b"path,label,x,y,w,h\na.jpg,x,,,,\nsub/b.jpg,y,0,0,16,12\n")
    put(f"{bucket}/a.jpg", jpeg())
    put(f"{bucket}/sub/b.jpg", jpeg())
    table = items(bucket)
    assert table.path.tolist() == [f"{bucket}/a.jpg", f"{bucket}/sub/b.jpg"]
    for mode in ("full", "header"):
        assert len(verify_images(table, mode=mode)) == 2
    for name in ("a.jpg", "sub/b.jpg"):
        tf.io.gfile.remove(f"{bucket}/{name}")
    put(f"{bucket}/a.jpg", jpeg()[:-50])
    with pytest.raises(UserError, match=r"2 pictures and rows cannot be used.*a.jpg: JPEG"):
        verify_images(table)


def test_a_remote_folder_of_labels_is_read(bucket):
    put(f"{bucket}/train/shoe/a.jpg", jpeg())
    put(f"{bucket}/test/bag/b.jpg", jpeg())
    table = folder(bucket)
    assert sorted(table.path) == [f"{bucket}/test/bag/b.jpg", f"{bucket}/train/shoe/a.jpg"]
    assert table.splits == ("test", "train")


def test_a_remote_archive_is_unpacked_into_the_cache_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in "abc":
            archive.writestr(f"tops/{name}.jpg", jpeg())
    put(f"{bucket}/tops.zip", stream.getvalue())
    put(f"{bucket}/train.csv", b"a.jpg,b.jpg,c.jpg\n")
    table = triplets(bucket, train_csv="train.csv")
    assert table.triplets.tolist() == [[0, 1, 2]]
    assert len(verify_images(table)) == 3
    assert len(os.listdir(tmp_path)) == 1
    before = os.stat(table.path[0])
    assert triplets(bucket, train_csv="train.csv").path.tolist() == table.path.tolist()
    assert os.stat(table.path[0]).st_ino == before.st_ino


def test_what_is_missing_remotely_is_told(bucket):
    with pytest.raises(UserError, match="does not exist"):
        items(f"{bucket}/nothing")
    with pytest.raises(UserError, match="there is no"):
        items(bucket)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "file.txt"
    with files.whole_file(target) as stream:
        stream.write("one")
        assert not target.exists()
    assert target.read_text() == "one"

    def fail():
        with files.whole_file(target) as stream:
            stream.write("half of two")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "one"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep/folder"

    def fail():
        with files.whole_folder(target) as partial:
            (partial / "a").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path / "deep") == []
    with files.whole_folder(target) as partial:
        (partial / "a").touch()
        assert not target.exists()
    assert os.listdir(target) == ["a"]
    # Another process was faster: its folder stays.
    with files.whole_folder(target) as partial:
        (partial / "b").touch()
    assert os.listdir(target) == ["a"]
    assert os.listdir(tmp_path / "deep") == ["folder"]


def fill(target, name):
    with files.replaced_folder(target) as partial:
        (partial / name).touch()
        assert name not in os.listdir(target if target.exists() else target.parent)


def test_a_folder_is_replaced_by_a_whole_one_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    fill(target, "a")
    fill(target, "b")
    assert os.listdir(target) == ["b"]

    def fail():
        with files.replaced_folder(target) as partial:
            (partial / "c").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(target) == ["b"]
    assert os.listdir(tmp_path) == ["folder"]

    # Killed before each of the renames, and before the old folder is deleted.
    rename = os.rename
    for killed_at, left in [(0, "b"), (1, "b"), (2, "b"), (3, "new-3")]:
        calls = iter(range(9))

        def dying(source, goal, calls=calls, killed_at=killed_at):
            if next(calls) == killed_at:
                raise KeyboardInterrupt
            rename(source, goal)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", dying)
            if killed_at == 3:
                fill(target, "new-3")
            else:
                with pytest.raises(KeyboardInterrupt):
                    fill(target, f"new-{killed_at}")
        files.restore_folder(target)
        assert os.listdir(target) == [left]
    fill(target, "last")
    assert os.listdir(target) == ["last"]
    assert os.listdir(tmp_path) == ["folder"]


def test_a_lock_keeps_others_out_and_goes_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    holder = f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from trainer.data.files import locked
with locked({str(path)!r}, "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="busy"), files.locked(path, "busy"):
            pass
        process.kill()  # leaves the file, not the lock
        process.wait()
    assert path.exists()
    with files.locked(path, "busy"):
        with pytest.raises(UserError, match="busy"), files.locked(path, "busy", wait=0.05):
            pass
        assert path.exists()
    assert not path.exists()


def test_only_one_at_a_time_has_a_lock(tmp_path):
    """Each removes the file, so that the others wait for one that is no longer there."""
    inside, most = [], []

    def work(_):
        for _ in range(20):
            with files.locked(tmp_path / ".lock", "busy", wait=30):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 160
    assert os.listdir(tmp_path) == []


@pytest.fixture
def mounted(monkeypatch):
    """Cloud Storage FUSE: a folder with files is not renamed, and there are no locks."""
    rename = os.rename

    def refusing(source, target):
        if os.path.isdir(source) and os.listdir(source):
            raise OSError(errno.EMFILE, "too many objects to be renamed")
        rename(source, target)

    def no_locks(descriptor, kind):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "rename", refusing)
    monkeypatch.setattr(fcntl, "flock", no_locks)


def test_folders_are_made_and_replaced_in_a_mounted_bucket(mounted, tmp_path):
    target = tmp_path / "folder"
    for name in ("a", "b"):
        with files.replaced_folder(target) as partial:
            (partial / "deep").mkdir()
            (partial / "deep" / name).write_text(name)
            (partial / "top").touch()
        assert sorted(os.listdir(target)) == ["deep", "top"]
        assert os.listdir(target / "deep") == [name]
        assert (target / "deep" / name).read_text() == name
        assert os.listdir(tmp_path) == ["folder"]
    # As where folders can be renamed, one that is there is not mixed with another.
    with files.whole_folder(target) as partial:
        (partial / "c").touch()
    assert sorted(os.listdir(target)) == ["deep", "top"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/d").touch()
    with pytest.raises(FileExistsError):
        files.rename_folder(tmp_path / "other", target)
    assert sorted(os.listdir(tmp_path)) == ["folder", "other"]


@pytest.mark.parametrize("failing", range(1, 7))
def test_a_folder_is_not_half_replaced_where_a_mounted_bucket_fails(
    failing, mounted, tmp_path, monkeypatch
):
    target = tmp_path / "folder"
    with files.replaced_folder(target) as partial:
        for name in ("a", "b"):
            (partial / name).write_text("old")
    replace, calls = os.replace, []

    def fails_once(source, there):
        calls.append(there)
        if len(calls) == failing:
            raise OSError(errno.EIO, "input/output error")
        replace(source, there)

    monkeypatch.setattr(os, "replace", fails_once)

    def replaced():
        with files.replaced_folder(target) as partial:
            for name in ("a", "b"):
                (partial / name).write_text("new")

    with pytest.raises(OSError, match="input/output"):
        replaced()
    files.restore_folder(target)
    assert [(target / name).read_text() for name in ("a", "b")] == ["old", "old"]
    # The next time it works, and nothing of the first try is left.
    with files.replaced_folder(target) as partial:
        (partial / "c").touch()
    assert (os.listdir(target), os.listdir(tmp_path)) == (["c"], ["folder"])


def test_what_says_what_a_folder_is_comes_first_into_a_mounted_bucket(
    mounted, tmp_path, monkeypatch
):
    source, target, moved = tmp_path / "source", tmp_path / "target", []
    (source / "z").mkdir(parents=True)
    for name in ("a", "b", "z/card.json"):
        (source / name).touch()
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(a), replace(a, b)))
    files.rename_folder(source, target, first="z/card.json")
    assert moved == [source / name for name in ("z/card.json", "a", "b")]
    assert not source.exists()


def test_where_there_are_no_locks_nobody_is_kept_out(mounted, tmp_path):
    with files.locked(tmp_path / ".lock", "busy"), files.locked(tmp_path / ".lock", "busy"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_mount_that_numbers_files_anew_does_not_hold_up_a_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    with files.locked(tmp_path / ".lock", "busy"):
        pass


def test_a_checksum_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_what_it_makes_can_be_read_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        with files.whole_file(tmp_path / "file"):
            pass
        with files.whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(mask)
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o644
    assert os.stat(tmp_path / "folder").st_mode & 0o777 == 0o755


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.absolute("~/a/../b") == str(tmp_path / "b")
    assert files.absolute("gs://bucket/a/") == "gs://bucket/a"
    assert files.join("/a", "b") == "/a/b"
    assert files.join("gs://a", "b/c") == "gs://a/b/c"
    assert files.join("/a", "gs://b") == "gs://b"
    monkeypatch.delenv("MILDNET_CACHE", raising=False)
    assert files.cache_folder() == tmp_path / ".cache/mildnet"


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "shoe").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("shoe"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*shoe: permission denied"):
        list(files.walk(str(tmp_path)))


def test_two_machines_may_write_one_remote_file():
    url = f"ram://bucket-{uuid.uuid4().hex}"
    with files.whole_bytes(f"{url}/a") as one:
        one.write(b"one")
        with files.whole_bytes(f"{url}/a") as other:
            other.write(b"other")
    assert files.read_bytes(f"{url}/a") == b"one"
    real, seen = tf.io.gfile.rename, []

    def renamed(source, target, overwrite):
        seen.append(source)
        if len(seen) == 1:
            with files.whole_bytes(target) as other:
                other.write(b"other")
        real(source, target, overwrite)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", renamed)
        files.write_bytes(f"{url}/b", b"two")
    assert len(set(seen)) == 2
    assert files.read_bytes(f"{url}/b") == b"two"
    assert sorted(tf.io.gfile.listdir(url)) == ["a", "b"]


def test_a_remote_file_system_that_refuses_is_told_in_one_line(tmp_path):
    nowhere = "nosuchscheme://bucket/shop"
    with pytest.raises(UserError, match=r"cannot look at nosuchscheme://bucket/shop: file system"):
        items(nowhere)
    with pytest.raises(UserError, match=r"cannot write nosuchscheme://bucket/shop: file system"):
        files.write_bytes(nowhere, b"x")
    with pytest.raises(UserError, match=r"cannot read nosuchscheme:.*tops.zip: file system"):
        archives.unpacked(f"{nowhere}/tops.zip")
    with pytest.raises(FileNotFoundError):
        files.read_bytes("ram://nothing/there")

"""What is in the bucket, and what has to be put there: the real client against a local storage."""

import pytest

from tests.launch.vertex.storage import StorageServer
from trainer.config import UserError
from trainer.launch.vertex.staging import Bucket, Staged

PLACE = "gs://shop-jobs/mildnet"


def test_a_file_is_uploaded_once(storage: StorageServer):
    bucket = Bucket(PLACE, "shop")
    binary = bytes(range(256)) * 40 + b"\r\n--\r\n"
    files = [Staged(f"{PLACE}/configs/a.cnf", b"lr=1\n"), Staged(f"{PLACE}/p/b.tar.gz", binary)]
    assert bucket.put(files) == [file.uri for file in files]
    assert storage.objects == {"mildnet/configs/a.cnf": b"lr=1\n", "mildnet/p/b.tar.gz": binary}
    assert bucket.put(files) == []
    assert bucket.put([Staged(files[0].uri, b"lr=2\n")]) == [files[0].uri]
    assert storage.objects["mildnet/configs/a.cnf"] == b"lr=2\n"
    assert len(storage.uploads) == 3
    assert bucket.read(files[0].uri) == "lr=2\n"
    with pytest.raises(ValueError, match="utf-8"):
        bucket.read(files[1].uri)


def test_a_name_is_claimed_once(storage: StorageServer):
    bucket, mine = Bucket(PLACE, "shop"), Staged(f"{PLACE}/configs/shop_1.cnf", b"lr=1\n")
    assert bucket.claim(mine)
    assert not bucket.claim(mine)
    assert not bucket.claim(Staged(mine.uri, b"lr=2\n"))
    assert storage.objects == {"mildnet/configs/shop_1.cnf": b"lr=1\n"}
    storage.objects["mildnet/configs/other_1.cnf"] = storage.objects["configs/shop_9.cnf"] = b""
    assert bucket.configs("shop_") == ["shop_1"]
    assert Bucket("gs://shop-jobs", "shop").configs("") == ["shop_9"]


def test_what_arrives_damaged_is_not_kept(storage: StorageServer):
    storage.damage = True
    with pytest.raises(UserError, match=r"CRC32C does not match"):
        Bucket(PLACE, "shop").put([Staged(f"{PLACE}/a", b"abc")])
    assert storage.objects == {}


def test_run_folders_by_the_beginning_of_their_names(storage: StorageServer):
    for name in ("shop_1/config.json", "shop_2/logs/x", "shop_x", "other_1/a"):
        storage.objects[f"mildnet/{name}"] = b""
        storage.objects[name] = b""
    assert Bucket(PLACE, "shop").runs("shop_") == ["shop_1", "shop_2"]
    assert Bucket("gs://shop-jobs", "shop").runs("") == ["mildnet", "other_1", "shop_1", "shop_2"]
    assert Bucket(PLACE, "shop").exists(f"{PLACE}/shop_1/config.json")
    assert not Bucket(PLACE, "shop").exists(f"{PLACE}/shop_1")


def test_a_bucket_that_is_not_there(storage: StorageServer):
    with pytest.raises(UserError) as caught:
        Bucket("gs://other-jobs/mildnet", "shop").runs("")
    assert str(caught.value) == (
        "there is no bucket other-jobs, or these credentials may not see it: check MILDNET_BUCKET, "
        "or make it with `gcloud storage buckets create gs://other-jobs`"
    )


def test_a_bucket_that_may_not_be_used(storage: StorageServer):
    storage.refusal = (403, "me@x.org does not have storage.objects.create access.")
    with pytest.raises(UserError, match=r"roles/storage\.objectAdmin.*me@x\.org does not have"):
        Bucket(PLACE, "shop").put([Staged(f"{PLACE}/a", b"abc")])


def test_without_credentials(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(UserError, match=r"no Google Cloud credentials .*key\.json"):
        Bucket(PLACE, "shop")

"""What clients call the items of a catalogue."""

import re

import pytest

from trainer.config import UserError
from trainer.data.table import ItemTable
from trainer.serving.catalogue import item_ids
from trainer.serving.public_names import check_new, common_roots, merged_file, public_names

MERGED = "/runs/index.pictures"


def named(*paths, roots=None):
    ids = item_ids(ItemTable.from_columns(paths, ["a"] * len(paths)))
    roots = common_roots(paths, MERGED) if roots is None else roots
    names = public_names(ids, paths, MERGED, roots)
    assert len(set(names)) == len(names)
    return names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/shop/shirts/1.jpg", "/data/shop/2.jpg"], ["shirts/1.jpg", "2.jpg"]),
        (["/data/shop/1.jpg"], ["1.jpg"]),
        (["/data/shop/1.jpg", "/data/shop2/1.jpg"], ["shop/1.jpg", "shop2/1.jpg"]),
        (["/a/1.jpg", "/b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (
            ["/s/1.jpg", "/s/1.jpg", "/s/1.jpg", "/s/2.jpg"],
            ["1.jpg", "1.jpg#1", "1.jpg#2", "2.jpg"],
        ),
        (["gs://b/shop/a/1.jpg", "gs://b/shop/2.jpg"], ["a/1.jpg", "2.jpg"]),
        (["gs://b/1.jpg", "gs://c/1.jpg"], ["b/1.jpg", "c/1.jpg"]),
        # Local and remote ones have no folder in common, but may have a name.
        (["/data/1.jpg", "gs://b/x/1.jpg", "gs://b/x/2.jpg"], ["1.jpg", "1.jpg~2", "2.jpg"]),
        (["/s/köln #1.jpg", "/s/a b?c.jpg", "/s/%41.jpg"], ["köln #1.jpg", "a b?c.jpg", "%41.jpg"]),
        (["/s/t/../1.jpg", "/s/t/1.jpg"], ["1.jpg", "t/1.jpg"]),
        (["gs://b/x/../1.jpg", "gs://b/y//1.jpg"], ["x/_/1.jpg", "y/_/1.jpg"]),
        (["/s/1.jpg#1", "/s/1.jpg", "/s/1.jpg"], ["1.jpg#1", "1.jpg", "1.jpg#2"]),
        # Pictures of items that were added keep the ids that clients gave them.
        (
            ["/data/1.jpg", "/data/x/2.jpg", "/runs/index.pictures/a+b.c~0123456789abcdef.png"],
            ["1.jpg", "x/2.jpg", "a/b.c"],
        ),
        (["/data/a", "/runs/index.pictures/a~0123456789abcdef"], ["a", "a~2"]),
        (["/data/a~0123456789abcdef.png"], ["a~0123456789abcdef.png"]),
    ],
)
def test_no_path_of_the_server_is_seen(paths, names):
    assert named(*paths) == names


def test_ids_stay_when_other_items_come_and_go():
    first = ["/d/shop/shoes/1.jpg", "/d/shop/hats/1.jpg", "gs://b/x/1.jpg"]
    roots = common_roots(first, MERGED)
    assert named(*first, roots=roots) == ["shoes/1.jpg", "hats/1.jpg", "1.jpg"]
    assert named(first[0], roots=roots) == ["shoes/1.jpg"]
    later = ["/d/secret/1.jpg", "/d/secret/2.jpg", "/d/shop2/1.jpg", "s3://b/secret/1.jpg"]
    names = named(*first, *later, f"{MERGED}/a+b~0123456789abcdef.png", roots=roots)
    assert names[:3] == named(*first)
    assert names[7] == "a/b"
    assert names[3:7] == named(*reversed(later), roots=roots)[::-1]
    folders, files = zip(*(name.split("/") for name in names[3:7]), strict=True)
    assert files == ("1.jpg", "2.jpg", "1.jpg", "1.jpg")
    assert folders[0] == folders[1]
    assert len({*folders}) == 3
    assert all(re.fullmatch("[0-9a-f]{10}", folder) for folder in folders)


@pytest.mark.parametrize("name", ["a", "a/b.c", "A-Z_0.9/x/y..", "a" * 200, "a/" * 99 + "b"])
def test_files_of_added_items_lead_back_to_their_ids(name):
    file = merged_file(check_new(name), "0123456789abcdef" * 4, ".webp")
    assert "/" not in file
    assert len(file) < 256
    assert named(f"/runs/index.pictures/{file}") == [name]


@pytest.mark.parametrize(
    "name", ["", "/", "a//b", "../a", "a/..", ".a", "a/.b", "a\\b", "a~b", "a+b", "a\n"]
)
def test_other_ids_are_refused(name):
    with pytest.raises(UserError, match="is not allowed"):
        check_new(name)

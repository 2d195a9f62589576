"""Readers of Products-10K, the Amazon review set, and the challenge's development set."""

import logging

import numpy as np
import pytest
from PIL import Image

from tests.data import product_sets
from tests.data.product_sets import write
from trainer.config import UserError
from trainer.data.readers.amazon_reviews import amazon_reviews
from trainer.data.readers.product10k import product10k
from trainer.data.readers.product_challenge import product_challenge
from trainer.data.verify import usable


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))


def names(table):
    return [table.label_names[code] for code in table.label]


def counts(table):
    return {split: len(table.in_split(split)) for split in table.splits}


def test_product10k_reads_both_lists(tmp_path):
    root = product_sets.product10k(tmp_path)
    table = product10k(str(tmp_path))
    assert usable(table).all()
    assert not table.problems
    assert counts(table) == {"train": 18, "test": 12}
    assert table.path[[0, 18]].tolist() == [f"{root}/train/0.jpg", f"{root}/test/0.jpg"]
    assert names(table)[:4] == ["0", "0", "0", "1"]
    # The list of test pictures has no groups: they are those of the products.
    assert set(zip(names(table), table.category, strict=True)) == {
        (str(label), str(label // 2)) for label in range(6)
    }
    assert np.isnan(table.box).all()
    assert set(table.domain) == {""}
    assert product10k(str(root)).fingerprint() == table.fingerprint()


@pytest.mark.parametrize("columns", ["name,class", "class,name", "name,class,group", ",name,class"])
def test_product10k_knows_columns_by_their_names(tmp_path, columns):
    root = product_sets.product10k(tmp_path)
    value = {"name": "0.jpg", "class": "3", "group": "1", "": "0"}
    write(root / "test_kaggletest.csv", columns, ",".join(value[c] for c in columns.split(",")))
    tested = product10k(str(root)).in_split("test")
    assert tested.path.tolist() == [f"{root}/test/0.jpg"]
    assert (names(tested), tested.category.tolist()) == (["3"], ["1"])


def test_product10k_test_pictures_may_be_for_something_else(tmp_path):
    root = product_sets.product10k(tmp_path)
    assert counts(product10k(str(root), test="val")) == {"train": 18, "val": 12}
    assert counts(product10k(str(root), test="train")) == {"train": 30}
    (root / "test_kaggletest.csv").unlink()
    for path in (root / "test").iterdir():
        path.unlink()
    (root / "test").rmdir()
    assert counts(product10k(str(root), test="none")) == {"train": 18}


def test_product10k_holds_out_products_and_takes_fewer(tmp_path):
    product_sets.product10k(tmp_path, products=12)
    table = product10k(str(tmp_path), val=0.25, val_seed=1)
    train, val = table.in_split("train"), table.in_split("val")
    assert (len(train.classes), len(val.classes), len(val)) == (9, 3, 9)
    assert not set(train.classes) & set(val.classes)
    other = product10k(str(tmp_path), val=0.25, val_seed=2)
    assert set(names(other.in_split("val"))) != set(names(val))
    # What is held out is held out with its test pictures, where these are to train on.
    assert counts(product10k(str(tmp_path), test="train", val=3)) == {"train": 45, "val": 15}
    few = product10k(str(tmp_path), classes=11)
    # By number: 10 comes after 9, and 11 is the twelfth.
    assert set(names(few.in_split("train"))) == {str(n) for n in range(11)}
    assert len(few.in_split("test").classes) == 12
    assert counts(product10k(str(tmp_path), classes=9700)) == counts(product10k(str(tmp_path)))
    with pytest.raises(ValueError, match="classes is -1"):
        product10k(str(tmp_path), classes=-1)
    with pytest.raises(ValueError, match=r"val is 11: .* of the 12 training classes"):
        product10k(str(tmp_path), val=11)


def test_product10k_says_what_is_missing_and_what_cannot_be_used(tmp_path):
    root = product_sets.product10k(tmp_path)
    write(root / "train.csv", "name,class,group", "0.jpg,0,0", "1.jpg,,0", "2.jpg,1", "0.jpg,4,2",
          "3.jpg,1,0")  # fmt: skip
    table = product10k(str(root))
    assert [note.split("train.csv:")[1] for note in table.problems] == [
        "3: no class",
        "4: 2 fields, the header has 3",
        "5: the same picture as in line 2",
    ]
    write(root / "train.csv", "name,label", "0.jpg,0")
    with pytest.raises(UserError, match=r"train\.csv:1: the header has no class: it is not the"):
        product10k(str(root))
    write(root / "train.csv", "name,class", "0.jpg,")
    with pytest.raises(UserError, match=r"no row that can be used; the first: .*csv:2: no class"):
        product10k(str(root))
    (root / "train.csv").write_text("")
    with pytest.raises(UserError, match=r"train\.csv:1: the header has no name, class"):
        product10k(str(root))
    for path in (root / "train").iterdir():
        path.unlink()
    (root / "train").rmdir()
    with pytest.raises(UserError, match=r"Product10K lacks train of Product10K: give the folder"):
        product10k(str(tmp_path))
    (root / "train.zip").touch()
    with pytest.raises(UserError, match=r"lacks train of Product10K: unpack .*/train\.zip$"):
        product10k(str(tmp_path))


@pytest.mark.parametrize("pictures", ["images_mean_50k", "", "pictures/large"])
def test_amazon_reviews_find_their_pictures(tmp_path, pictures):
    root = product_sets.amazon_reviews(tmp_path, pictures=pictures)
    given = {"images": pictures} if "large" in pictures else {}
    table = amazon_reviews(str(tmp_path), **given)
    assert usable(table).all()
    place = f"{root}/{pictures}".rstrip("/")
    assert table.path[:2].tolist() == [f"{place}/0/0.jpg", f"{place}/0/1.jpg"]
    assert names(table) == list("0001123333")
    assert set(table.split) == {"train"}
    if given:
        with pytest.raises(UserError, match=r"there is no picture .*images_mean_50k/0/0\.jpg: "):
            amazon_reviews(str(tmp_path))


def test_amazon_reviews_leave_out_products_with_few_pictures(tmp_path, caplog):
    product_sets.amazon_reviews(tmp_path)
    with caplog.at_level(logging.INFO, "trainer"):
        table = amazon_reviews(str(tmp_path), min_images=3)
    assert names(table) == list("0003333")
    assert table.label_names == ("0", "3")
    assert "2 products have fewer than 3 pictures" in caplog.text
    with pytest.raises(UserError, match="no product has min_images=5 pictures; the most are 4"):
        amazon_reviews(str(tmp_path), min_images=5)
    with pytest.raises(ValueError, match="min_images is 0"):
        amazon_reviews(str(tmp_path), min_images=0)
    held = amazon_reviews(str(tmp_path), val=1, val_seed=3)
    assert len(held.in_split("val").classes) == 1
    assert len(held.in_split("train").classes) == 3


def test_a_picture_of_several_products_counts_for_the_first(tmp_path, caplog):
    root = product_sets.amazon_reviews(tmp_path)
    write(root / "05.csv", "image_path,label", "0/0.jpg,7", "0/1.jpg,9", "0/0.jpg,9", "0/2.jpg,7")
    with caplog.at_level(logging.INFO, "trainer"):
        table = amazon_reviews(str(tmp_path), file="05.csv")
    assert names(table) == ["7", "9", "7"]
    assert not table.problems
    assert "1 rows are of pictures that an earlier product has" in caplog.text
    assert names(amazon_reviews(str(tmp_path), file="05.csv", min_images=2)) == ["7", "7"]


def test_amazon_reviews_say_what_is_missing(tmp_path):
    root = product_sets.amazon_reviews(tmp_path)
    with pytest.raises(UserError, match=r"Amazon-review lacks 05\.csv of Amazon-review: give"):
        amazon_reviews(str(tmp_path), file="05.csv")
    write(root / "05.csv", "image_path,label", "0/0.jpg,7", "0/1.jpg,7,8", "0/0.jpg,7", "1/0.jpg,")
    table = amazon_reviews(str(tmp_path), file="05.csv")
    assert names(table) == ["7"]
    assert [note.split("05.csv:")[1] for note in table.problems] == [
        "3: 3 fields, the header has 2",
        "4: the same picture as in line 2",
        "5: no label",
    ]
    (root / "images_mean_50k").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"unpack it in .*Amazon-review, or set dataset\.images$"):
        amazon_reviews(str(tmp_path))
    # A picture or two may be missing: these are found when all are checked.
    (root / "elsewhere").rename(root / "images_mean_50k")
    (root / "images_mean_50k/0/0.jpg").unlink()
    assert usable(amazon_reviews(str(tmp_path)), max_bad_share=0.2).sum() == 9


def test_challenge_has_boxes_on_queries_and_none_of_the_gallerys_borders(tmp_path):
    root = product_sets.challenge(tmp_path)
    table = product_challenge(str(tmp_path))
    assert usable(table).all()
    assert counts(table) == {"test": 12}
    assert table.domain.tolist() == ["query"] * 4 + ["gallery"] * 8
    assert names(table) == [*"0123", *"00112233"]
    assert table.path[[0, 4]].tolist() == [f"{root}/queries/0.jpg", f"{root}/gallery/0_0.png"]
    assert table.box[:4].tolist() == [[label, 2, 20, 16] for label in range(4)]
    assert table.box[4:6].tolist() == [[4, 6, 24, 20], [5, 6, 24, 20]]
    whole = product_challenge(str(root), boxes=False, borders=False)
    assert np.isnan(whole.box).all()
    assert np.isnan(product_challenge(str(root), borders=False).box).any(axis=1).sum() == 8
    assert np.isnan(product_challenge(str(root), boxes=False).box).any(axis=1).sum() == 4


def test_challenge_takes_the_tolerance_of_borders(tmp_path):
    root = product_sets.challenge(tmp_path, products=2, shown=1)
    shown = root / "gallery/0_0.png"
    with Image.open(shown) as image:
        off_white = image.point(lambda value: min(value, 250))
    off_white.save(shown)
    assert product_challenge(str(root)).box[2].tolist() == [4, 6, 24, 20]
    assert np.isnan(product_challenge(str(root), tolerance=0).box[2]).all()
    for tolerance in (-1, 255):
        with pytest.raises(ValueError, match=f"tolerance is {tolerance}, allowed is 0 to 254"):
            product_challenge(str(root), tolerance=tolerance)


def test_challenge_says_what_is_missing_and_what_cannot_be_used(tmp_path):
    root = product_sets.challenge(tmp_path)
    with (root / "queries.csv").open("a") as file:
        file.write("queries/0.jpg,1,3,4,5,6\n")  # another box: another query
        file.write("queries/0.jpg,1,3,4,5,6\nqueries/1.jpg,1,3,4,0,6\nqueries/1.jpg,1,3,4,wide,6\n")
        file.write("queries/1.jpg,1,3,4,,6\n")
    table = product_challenge(str(root))
    assert len(table) == 13
    assert [note.split("queries.csv:")[1] for note in table.problems] == [
        "7: the same picture as in line 6",
        "8: the box 3,4,0,6 has no area",
        "9: the box 3,4,wide,6 is not four numbers",
        "10: no bbox_w",
    ]
    write(root / "queries.csv", "img_path,product_id", "queries/0.jpg,0")
    with pytest.raises(UserError, match=r"queries\.csv:1: the header has no bbox_x, bbox_y, bbox_"):
        product_challenge(str(root))
    assert len(product_challenge(str(root), boxes=False).in_split("test")) == 9
    write(root / "gallery.csv", "img_path,product_id", "shop/0.jpg,0")
    with pytest.raises(UserError, match=r"no picture .*_data/shop/0\.jpg: unpack the pictures of"):
        product_challenge(str(root), boxes=False)
    (root / "gallery").rename(root / "shop")
    (root / "gallery.zip").touch()
    with pytest.raises(UserError, match=r"lacks gallery of .*: unpack .*/gallery\.zip$"):
        product_challenge(str(tmp_path))

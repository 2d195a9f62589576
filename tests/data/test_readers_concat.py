"""Data sets one after another: how they are written down, checked, and kept apart."""

import numpy as np
import pytest

from tests.data import product_sets
from tests.data.product_sets import paint, write
from trainer.config import JobConfig, Settings, UserError
from trainer.data.readers import concat as reader
from trainer.data.readers.concat import concat, parse_parts
from trainer.data.verify import usable


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))
    product_sets.product10k(tmp_path)
    product_sets.amazon_reviews(tmp_path)
    product_sets.challenge(tmp_path)
    for label in ("mug", "hat"):
        for view in range(2):
            paint(tmp_path / f"my shop, old/{label}/{view}.png", view)
    write(
        tmp_path / "shop/items.csv",
        "path,label,split,domain,category,x,y,w,h",
        '"../my shop, old/mug/0.png",0,train,street,cup,1,2,10,12',
        '"../my shop, old/mug/1.png",0,test,shop,cup,,,,',
        '"../my shop, old/hat/0.png",1,train,shop,hat,,,,',
        '"../my shop, old/hat/1.png",,train,shop,hat,,,,',
    )
    return tmp_path


def read(text):
    return [(part.name, part.component.name, part.folder) for part in parse_parts(text)]


def test_how_parts_are_written():
    assert read("sop") == [("sop", "sop", "")]
    assert read(" product10k : Product10K ,amazon_reviews(file='a,b(1).csv'):Amazon-review, ") == [
        ("product10k", "product10k", "Product10K"),
        ("amazon_reviews", "amazon_reviews", "Amazon-review"),
    ]
    assert read("own=items:shop, old-1 = items(file=\"it's)\"):'my, shop', folder:a b (c)") == [
        ("own", "items", "shop"),
        ("old-1", "items", "my, shop"),
        ("folder", "folder", "a b (c)"),
    ]
    assert read("items:gs://bucket/a:b, sop:/data/sop") == [
        ("items", "items", "gs://bucket/a:b"),
        ("sop", "sop", "/data/sop"),
    ]
    (part,) = parse_parts("product10k(val=0.1, classes=50, test='train')")
    assert part.parameters == {"test": "train", "classes": 50, "val": 0.1, "val_seed": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' cannot be read: parts are READER:FOLDER"),
        ("sop,,inshop", "',inshop' cannot be read"),
        ("sop inshop", "'sop inshop' cannot be read"),
        ("sop:'a' b", "cannot be read"),
        ("sop:a, (val=1)", r"'\(val=1\)' cannot be read"),
        ("soap:a", "of the parts, soap: unknown dataset 'soap'; did you mean 'sop'"),
        ("x=sop(vall=1)", "of the parts, x: dataset 'sop' has no parameter 'vall'; did you mean"),
        ("sop(val='x')", "of the parts, sop: dataset.val: 'x' is not a number"),
        ("sop(1)", "of the parts, sop: write a name, or NAME"),
        ("sop(val=1", "of the parts, sop: write a name, or NAME"),
        ("triplets", "of the parts, triplets: dataset 'triplets' needs train_csv"),
        ("items:a, items:b", "two parts are called 'items'; write NAME=items:FOLDER"),
        ("a=items:a, a=folder:b", "two parts are called 'a'; write NAME=folder:FOLDER"),
    ],
)
def test_what_is_wrong_is_said_before_data_is_touched(text, message, monkeypatch):
    monkeypatch.setattr(reader, "_read", lambda *_: pytest.fail("data was touched"))
    with pytest.raises(ValueError, match=message) as error:
        concat("/no/such/folder", parts=text)
    assert "\n" not in str(error.value)
    values = {"model_id": "mildnet", "loss": "ntxent", "dataset": "concat", "dataset.parts": text}
    if text:
        config = JobConfig.from_mapping(values, settings=Settings(), source="job.cnf")
        with pytest.raises(UserError, match=rf"^job.cnf: dataset\.parts: .*{message}"):
            config.build("dataset", "/no/such/folder")


def test_parts_keep_what_they_have_and_share_no_label(data):
    table = concat(
        str(data),
        parts="product10k:Product10K, amazon_reviews:Amazon-review, own=items:shop, "
        "product_challenge:development_test_data",
    )
    assert usable(table, max_bad_share=0.1).all()
    names = [table.label_names[code] for code in table.label]
    part = np.array([name.split(":")[0] for name in names])
    assert {name: int((part == name).sum()) for name in part} == {
        "product10k": 30,
        "amazon_reviews": 10,
        "own": 3,
        "product_challenge": 12,
    }
    # "0" is a label of each of the four.
    assert {f"{name}:0" for name in part} <= set(names)
    assert len(table.classes) == len(table.label_names) == 6 + 4 + 2 + 4
    own = table.select(part == "own")
    assert own.split.tolist() == ["train", "test", "train"]
    assert own.domain.tolist() == ["street", "shop", "shop"]
    assert own.category.tolist() == ["cup", "cup", "hat"]
    assert own.box[0].tolist() == [1, 2, 10, 12]
    assert len(table.problems) == 1
    assert "shop/items.csv:5: no label" in table.problems[0]
    challenge = table.select(part == "product_challenge")
    assert set(challenge.split) == {"test"}
    assert challenge.domain.tolist() == ["query"] * 4 + ["gallery"] * 8
    assert np.isfinite(challenge.box).all()
    assert len(table.in_split("train")) == 18 + 10 + 2


def test_parts_that_only_count_for_training(data):
    parts = "product10k, own=items:shop, folder:'my shop, old', product_challenge"
    table = concat(str(data), parts=parts, train_only=("product10k", "own", "folder"))
    names = np.array([table.label_names[code].split(":")[0] for code in table.label])
    splits = {name: set(table.split[names == name]) for name in names}
    assert splits == {
        "product10k": {"train"},
        "own": {"train"},
        "folder": {"train"},
        "product_challenge": {"test"},
    }
    assert [int((names == name).sum()) for name in ("product10k", "own", "folder")] == [18, 2, 4]
    with pytest.raises(UserError, match=r"'product_challenge' of .* no split train; it has test"):
        concat(str(data), parts=parts, train_only=("folder", "product_challenge"))
    with pytest.raises(UserError, match=r"part 'folder' of .* set dataset\.train_only=folder"):
        concat(str(data), parts=parts)
    with pytest.raises(ValueError, match="train_only: shop is no part; there are product10k, own,"):
        concat(str(data), parts=parts, train_only=("shop",))
    # Where none has splits, the job divides the classes of all.
    both = concat(str(data), parts="a=folder:'my shop, old', b=folder:'my shop, old'")
    assert both.splits == ("",)
    assert both.label_names == ("a:hat", "a:mug", "b:hat", "b:mug")


def test_what_a_part_refuses_is_said_with_its_name(data):
    with pytest.raises(ValueError, match=r"of the parts, product10k: val is 6: .* 6 training"):
        concat(str(data), parts="product10k(val=6)")
    with pytest.raises(UserError, match=r"Product10K/none does not exist"):
        concat(str(data), parts="product10k:Product10K/none")


def test_a_config_with_parts_reads_back_as_it_was_written(data, tmp_path):
    text = "amazon_reviews(file='a.csv', min_images=2):Amazon-review, own=items:shop"
    values = {
        "model_id": "mildnet",
        "loss": "ntxent",
        "dataset": "concat",
        "dataset.parts": text,
        "dataset.train_only": "own",
    }
    config = JobConfig.from_mapping(values, settings=Settings())
    path = tmp_path / "config.cnf"
    path.write_text(config.to_cnf())
    again = JobConfig.load(path, settings=Settings())
    assert again.parameters["dataset"] == {"parts": text, "train_only": ("own",)}
    assert again.fingerprint() == config.fingerprint()

import os

import numpy as np
import pytest

from trainer.data.readers.items import read_items
from trainer.data.table import ItemTable


def small(**changes):
    columns = {
        "path": [f"/shop/pictures/{i}.jpg" for i in range(6)],
        "label": ["shoe", "bag", "shoe", "hat", "bag", "hat"],
        "split": ["train", "train", "train", "val", "val", "test"],
        "domain": ["street", "shop"] * 3,
        "box": [[1, 2, 3.1, 4]] + [[np.nan] * 4] * 5,
        "triplets": [[0, 2, 1], [3, 5, 4], [2, 0, 1]],
        "problems": ["items.csv:9: no label"],
    }
    return ItemTable.from_columns(**{**columns, **changes})


def test_labels_become_codes_of_their_sorted_names_whatever_the_order_of_rows():
    table = small()
    assert table.label_names == ("bag", "hat", "shoe")
    assert table.label.dtype == np.int64
    assert [table.label_names[code] for code in table.label] == [
        "shoe",
        "bag",
        "shoe",
        "hat",
        "bag",
        "hat",
    ]
    assert table.classes.tolist() == [0, 1, 2]
    turned = ItemTable.from_columns(
        list(table.path)[::-1], ["hat", "bag", "hat", "shoe", "bag", "shoe"]
    )
    assert turned.label_names == table.label_names


def test_labels_that_only_differ_beyond_float_precision_stay_apart():
    table = ItemTable.from_columns(["a", "b", "c"], [2**53, 2**53 + 1, "009007199254740993"])
    assert len(table.classes) == 3


def test_rows_may_leave_out_optional_columns():
    table = ItemTable.from_rows(
        [
            {"path": "a.jpg", "label": 7},
            {"path": "b.jpg", "label": 8, "split": "val", "x": "1", "y": 2, "w": 3, "h": 4.5},
        ]
    )
    assert table.split.tolist() == ["", "val"]
    assert np.isnan(table.box[0]).all()
    assert table.box[1].tolist() == [1, 2, 3, 4.5]
    with pytest.raises(ValueError, match="possible are path, label"):
        ItemTable.from_rows([{"path": "a.jpg", "label": 7, "colour": "red"}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": np.array(["train"], object)}, "split has shape"),
        ({"label": np.array([0, 1, 2, 3, 0, 0])}, r"label holds 0..3, allowed is 0..2"),
        ({"label": np.array([0, -1, 2, 0, 0, 0])}, "label holds -1"),
        ({"label": np.zeros(6, np.float32)}, "not integers"),
        ({"triplets": np.array([[0, 1, 6]])}, r"triplets holds 0..6, allowed is 0..5"),
        ({"triplets": np.array([[0, 1]])}, "not \\(T, 3\\)"),
        ({"box": np.zeros((6, 4), np.float32)}, "w and h above 0"),
        ({"box": np.full((6, 4), np.inf, np.float32)}, "all NaN"),
        ({"box": np.tile(np.float32([1, np.nan, 2, 2]), (6, 1))}, "all NaN"),
        ({"box": np.zeros((5, 4), np.float32)}, "box has shape"),
        ({"label_names": ("a", "b", "a")}, "twice"),
        ({"path": np.array([1] * 6, object)}, "other than text"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(changes, message):
    table = small()
    fields = {name: getattr(table, name) for name in table.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        ItemTable(**{**fields, **changes})


def test_a_table_cannot_be_changed_and_does_not_hold_on_to_what_it_was_made_of():
    label = np.array([0, 1], np.int64)
    empty = np.array(["", ""], object)
    table = ItemTable(
        np.array(["a", "b"], object), label, ("x", "y"), empty, empty, empty,
        np.full((2, 4), np.nan, np.float32),
    )  # fmt: skip
    label[0] = 1
    assert table.label[0] == 0
    for name in ("path", "label", "split", "domain", "category", "box", "triplets"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(table, name)[...] = getattr(table, name)
    with pytest.raises(AttributeError):
        table.label = label


@pytest.mark.parametrize(
    "rows", [[5, 2, 0], np.array([1, 0, 1, 1, 0, 1], bool), slice(1, 6, 2), [-1, 0], []]
)
def test_select_keeps_rows_and_renumbers_triplets(rows):
    table = small()
    kept = table.select(rows)
    expected = np.arange(6)[np.array(rows, int) if isinstance(rows, list) else rows]
    assert kept.path.tolist() == [table.path[row] for row in expected]
    assert kept.label.tolist() == [table.label[row] for row in expected]
    assert kept.label_names == table.label_names
    assert kept.problems == table.problems
    np.testing.assert_array_equal(kept.box, table.box[expected])
    # Seen through the paths, what is left are the triplets whose three members are left.
    wanted = [t for t in table.triplets.tolist() if set(t) <= set(expected.tolist())]
    assert (
        kept.path[kept.triplets].tolist()
        == table.path[np.array(wanted, int).reshape(-1, 3)].tolist()
    )


def test_select_says_no_to_what_has_no_meaning():
    with pytest.raises(IndexError):
        small().select([6])
    with pytest.raises(IndexError):
        small().select(np.ones(5, bool))
    with pytest.raises(ValueError, match="listed twice"):
        small().select([0, 0, 1])
    assert len(small(triplets=None).select([0, 0, 1])) == 3


def test_in_split_takes_names_and_comma_lists():
    table = small()
    assert table.splits == ("test", "train", "val")
    assert len(table.in_split("train")) == 3
    assert (
        table.in_split("train", "test").path.tolist() == table.in_split("test, train").path.tolist()
    )
    assert table.in_split("val").triplets.tolist() == []
    assert table.in_split("train").triplets.tolist() == [[0, 2, 1], [2, 0, 1]]
    assert len(table.in_split("nothing")) == 0
    assert len(table.in_split("")) == 0


def test_fingerprint_sees_every_change_but_not_a_move_of_the_whole():
    table = small()
    prints = [table.fingerprint(), table.select([1, 0, 2, 3, 4, 5]).fingerprint()]
    for changes in (
        {"path": [f"/shop/pictures/{i + 1}.jpg" for i in range(6)]},
        {"label": ["shoe", "bag", "shoe", "hat", "bag", "bag"]},
        {"label": ["shoes", "bag", "shoes", "hat", "bag", "hat"]},
        {"split": ["train"] * 6},
        {"domain": [""] * 6},
        {"domain": None, "category": ["street", "shop"] * 3},
        {"box": None},
        {"triplets": [[0, 2, 1], [3, 5, 4]]},
        {"domain": ["streets", "hop"] + ["street", "shop"] * 2},
    ):
        prints.append(small(**changes).fingerprint())
    assert len(set(prints)) == len(prints)
    assert all(len(value) == 64 for value in prints)
    moved = small(path=[f"/else/where/{i}.jpg" for i in range(6)], problems=())
    assert moved.fingerprint() == table.fingerprint()
    assert small().fingerprint() == table.fingerprint()


def test_csv_round_trip_is_exact(tmp_path):
    for name in ('a, "b".jpg', "ü/c.jpg", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    table = ItemTable.from_columns(
        [str(tmp_path / 'a, "b".jpg'), str(tmp_path / "ü/c.jpg"), "gs://bucket/d.jpg", "/e/f.jpg"],
        ["01", "1", 'one "two"', "x,y"],
        split=["train", "", "val", "val"],
        category=["", "", "tops", ""],
        box=[[0, 0.1, 1 / 3, 12345.678], [np.nan] * 4, [1, 2, 3, 4], [-1, -2, 1e-3, 7]],
    )
    table.to_csv(tmp_path / "items.csv")
    assert (tmp_path / "items.csv").read_text().splitlines()[
        0
    ] == "path,label,split,category,x,y,w,h"
    assert "ü/c.jpg" in (tmp_path / "items.csv").read_text(encoding="utf-8")
    back = read_items(str(tmp_path / "items.csv"))
    assert back.fingerprint() == table.fingerprint()
    assert back.path.tolist() == table.path.tolist()
    np.testing.assert_array_equal(back.box, table.box)


def test_csv_without_optional_values_has_two_columns(tmp_path):
    ItemTable.from_columns(["/a.jpg"], ["b"]).to_csv(tmp_path / "items.csv")
    assert (tmp_path / "items.csv").read_text() == "path,label\n/a.jpg,b\n"


def test_a_csv_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "items.csv"
    target.write_text("precious")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        small().to_csv(target)
    assert target.read_text() == "precious"
    assert os.listdir(tmp_path) == ["items.csv"]

"""Several tables as one: what belongs together stays together, labels meet or do not."""

import numpy as np
import pytest

from trainer.data import ItemTable
from trainer.data.join import join


@pytest.fixture
def tables():
    first = ItemTable.from_columns(
        ["a", "b", "c", "x"],
        ["mug", "hat", "mug", "gone"],
        split=["train", "val", "train", "train"],
        box=[[1, 2, 3, 4], [np.nan] * 4, [np.nan] * 4, [np.nan] * 4],
        triplets=[[0, 2, 1]],
        problems=["f:1: bad", "f:2: bad"],
    ).select([0, 1, 2])
    second = ItemTable.from_columns(
        ["d", "e"],
        ["hat", "bag"],
        domain=["shop", "street"],
        category=["x", "y"],
        triplets=[[1, 0, 1]],
        problems=["g:1: bad", "f:2: bad"],
    )
    return first, second


def test_labels_of_equal_text_are_one(tables):
    table = join(tables)
    assert table.label_names == ("bag", "hat", "mug")
    assert [table.label_names[code] for code in table.label] == ["mug", "hat", "mug", "hat", "bag"]
    assert table.path.tolist() == list("abcde")
    assert table.split.tolist() == ["train", "val", "train", "", ""]
    assert table.domain.tolist() == ["", "", "", "shop", "street"]
    assert table.category.tolist() == ["", "", "", "x", "y"]
    assert table.box[0].tolist() == [1, 2, 3, 4]
    assert np.isnan(table.box[1:]).all()
    assert table.triplets.tolist() == [[0, 2, 1], [4, 3, 4]]
    assert table.problems == ("f:1: bad", "f:2: bad", "g:1: bad")


def test_with_names_no_label_is_in_two_tables(tables):
    table = join(tables, ["one", "two"])
    assert table.label_names == ("one:hat", "one:mug", "two:bag", "two:hat")
    assert table.label.tolist() == [1, 0, 1, 3, 2]
    again = join([*tables, tables[0]], ["one", "two", "three"])
    assert len(again.label_names) == 6
    assert not set(again.label[5:]) & set(again.label[:5])

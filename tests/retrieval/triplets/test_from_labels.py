"""Triplets from labels, each row checked against the definition."""

import numpy as np
import pytest

from trainer.data.table import ItemTable
from trainer.retrieval.triplets.from_labels import from_labels
from trainer.retrieval.triplets.lists import whole_numbers


def catalogue(labels=30, views=6, categories=4, domains=("shop", "street"), seed=0):
    """Rows in random order; label `n` is of category `n mod categories`."""
    random = np.random.default_rng(seed)
    label = random.permutation(np.repeat(np.arange(labels), views))
    return ItemTable.from_columns(
        [f"/p/{number:04}.jpg" for number in range(len(label))],
        [f"{value:03}" for value in label],
        category=[f"c{value % categories}" if categories else "" for value in label],
        domain=[domains[number % len(domains)] for number in range(len(label))],
    )


def everything(table):
    return np.arange(len(table))


def check(table, triplets):
    """Each row is what its name says, and so is its mark."""
    assert len(set(map(tuple, triplets.rows.tolist()))) == len(triplets)
    for (a, p, n), in_class in zip(triplets.rows.tolist(), triplets.in_class, strict=True):
        assert len({a, p, n}) == 3
        assert table.label[a] == table.label[p] != table.label[n]
        assert (table.category[a] == table.category[n]) == in_class


def same(one, other):
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.in_class, other.in_class)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_row_satisfies_the_definition_and_shares_are_kept(share):
    table = catalogue()
    triplets = from_labels(table, everything(table), per_anchor=3, in_class_share=share)
    check(table, triplets)
    assert len(triplets) == 3 * len(table)
    assert triplets.in_class.mean() == pytest.approx(share, abs=0.06)
    assert (triplets.skipped, triplets.replaced) == (0, 0)
    assert not same(triplets, from_labels(table, everything(table), per_anchor=3, seed=1))


def test_negatives_are_drawn_from_all_rows_that_may_be_one():
    table = catalogue(labels=8, views=4, categories=2, domains=("",))
    triplets = from_labels(table, everything(table), per_anchor=40, in_class_share=0.5)
    check(table, triplets)
    for label in range(8):
        rows = triplets.rows[table.label[triplets.rows[:, 0]] == label]
        expected = np.flatnonzero(table.label != label)
        assert np.array_equal(np.unique(rows[:, 2]), expected)


def test_query_and_gallery_domain():
    table = catalogue()
    triplets = from_labels(
        table, everything(table), query_domain="street", gallery_domain="shop", per_anchor=2
    )
    check(table, triplets)
    assert set(table.domain[triplets.rows[:, 0]]) == {"street"}
    assert set(table.domain[triplets.rows[:, 1:]].ravel()) == {"shop"}
    assert triplets.anchors == (table.domain == "street").sum()


def test_the_other_domain_comes_first_and_does_not_give_the_answer_away():
    table = catalogue(views=2, domains=("shop", "street", "wild"))
    triplets = from_labels(table, everything(table), per_anchor=1)
    check(table, triplets)
    domain = table.domain[triplets.rows]
    assert (domain[:, 1] == domain[:, 2]).all()
    for a, p, _ in triplets.rows.tolist():
        others = (table.label == table.label[a]) & (table.domain != table.domain[a])
        assert (table.domain[p] != table.domain[a]) == others.any()


def test_without_categories_negatives_are_of_any_other_label():
    table = catalogue(categories=0)
    triplets = from_labels(table, everything(table), in_class_share=0.7)
    assert not triplets.in_class.any()
    assert triplets.replaced == 0
    a, _, n = triplets.rows.T
    assert (table.label[a] != table.label[n]).all()


def test_a_label_in_two_categories_is_never_its_own_negative():
    table = ItemTable.from_columns(
        [f"/p/{n}.jpg" for n in range(12)],
        ["x"] * 6 + ["y"] * 6,
        category=["a", "b", "c"] * 2 + ["b"] * 6,
    )
    triplets = from_labels(table, everything(table), per_anchor=20, in_class_share=0.5)
    check(table, triplets)
    assert triplets.replaced > 0  # x in the categories a and c has no in-class negative


def test_hard_negatives_come_from_the_neighbours():
    table = catalogue(domains=("",))
    # One number a row, on a half circle: the nearest rows are the next ones.
    angle = np.linspace(0, np.pi, len(table))
    vectors = {"angle": whole_numbers(np.stack([np.cos(angle), np.sin(angle)], axis=1))}
    triplets = from_labels(
        table, everything(table), hard=vectors, depth=60, per_anchor=2, in_class_share=0.5
    )
    check(table, triplets)
    distance = np.abs(triplets.rows[:, 0] - triplets.rows[:, 2])
    assert distance[triplets.in_class].max() <= 60
    assert distance[~triplets.in_class].max() > 100
    bare = from_labels(catalogue(categories=0), everything(table), hard=vectors, depth=20)
    assert bare.in_class.mean() == pytest.approx(0.5, abs=0.01)
    assert np.abs(bare.rows[:, 0] - bare.rows[:, 2])[bare.in_class].max() <= 20


def test_at_most_so_many_of_a_label():
    table = catalogue(labels=5, views=9)
    triplets = from_labels(table, everything(table), per_anchor=4, per_label=7)
    check(table, triplets)
    assert np.bincount(table.label[triplets.rows[:, 0]]).tolist() == [7] * 5
    assert len(np.unique(triplets.rows[:, 0])) > 15  # not just the first pictures


def test_only_the_rows_given_are_used_and_lonely_pictures_are_skipped():
    table = catalogue(labels=6, views=3)
    first = np.flatnonzero(table.label == 0)
    rows = np.setdiff1d(np.flatnonzero(table.label < 4), first[1:])
    triplets = from_labels(table, rows)
    check(table, triplets)
    assert set(triplets.rows.ravel()) <= set(rows.tolist())
    assert (triplets.anchors, triplets.skipped) == (10, 1)
    nothing = from_labels(table, first)
    assert (len(nothing), nothing.skipped) == (0, 3)

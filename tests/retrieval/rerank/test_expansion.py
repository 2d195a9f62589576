"""Augmentation and query expansion, by hand and by loops in float64."""

import numpy as np
import pytest

from tests.retrieval.rerank.test_neighbours import units
from trainer.retrieval.rerank.expansion import augment_gallery, augment_queries, expand_queries


def blended(query, items, k, weigh, leave_out=-1):
    """The definition, one query, sorted in full."""
    likeness = items.astype(np.float64) @ query.astype(np.float64)
    order = [row for row in np.argsort(-likeness, kind="stable") if row != leave_out][:k]
    total = query.astype(np.float64)
    for place, row in enumerate(order, start=1):
        total = total + weigh(place, likeness[row]) * items[row]
    return total / np.linalg.norm(total)


def test_weights_of_two_neighbours_by_hand():
    # logspace(0, -2, 3) is 1, 0.1, 0.01. Nearest to the query: (0.8, 0.6), then (0, 1).
    query = np.array([[1, 0]], np.float32)
    gallery = np.array([[0, 1], [0.8, 0.6], [-1, 0]], np.float32)
    total = np.array([1 + 0.1 * 0.8, 0.1 * 0.6 + 0.01])
    found = augment_queries(query, gallery, 2)
    np.testing.assert_allclose(found[0], total / np.linalg.norm(total), rtol=1e-6)
    # By likeness: 0.8^3 = 0.512 for the first, 0 for the second; the third is unlike the query.
    total = np.array([1 + 0.512 * 0.8, 0.512 * 0.6])
    found = expand_queries(query, gallery, 3)
    np.testing.assert_allclose(found[0], total / np.linalg.norm(total), rtol=1e-6)
    # Of the items, each is blended with both others: (0, 1) with 0.1 (0.8, 0.6) + 0.01 (-1, 0).
    total = np.array([0.08 - 0.01, 1.06])
    np.testing.assert_allclose(
        augment_gallery(gallery, 2)[0], total / np.linalg.norm(total), rtol=1e-6
    )


@pytest.mark.parametrize("k", [1, 5, 80, 200])
def test_equal_to_loops(k):
    queries, gallery = units(70, 12), units(80, 12, seed=1)
    many = min(k, 80)
    falling = np.logspace(0, -2, many + 1)
    found = augment_queries(queries, gallery, k)
    expected = [blended(q, gallery, k, lambda place, s: falling[place]) for q in queries]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    found = expand_queries(queries, gallery, k, 2.5)
    expected = [blended(q, gallery, k, lambda place, s: max(s, 0) ** 2.5) for q in queries]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    falling = np.logspace(0, -2, min(k, 79) + 1)
    found = augment_gallery(gallery, k)
    expected = [
        blended(item, gallery, k, lambda place, s: falling[place], row)
        for row, item in enumerate(gallery)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_queries_that_are_items_leave_themselves_out():
    gallery = units(90, 6)
    own = np.arange(90)
    np.testing.assert_array_equal(
        augment_queries(gallery, gallery, 4, own=own), augment_gallery(gallery, 4)
    )
    found = expand_queries(gallery, gallery, 4, own=own)
    expected = [
        blended(q, gallery, 4, lambda _, s: max(s, 0) ** 3, r) for r, q in enumerate(gallery)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_nothing_is_blended_with_no_neighbours_or_a_steep_weight():
    queries, gallery = units(20, 6), units(30, 6, seed=1)
    for found in (
        augment_queries(queries, gallery, 0),
        expand_queries(queries, gallery, 0),
        expand_queries(queries, gallery, 30, 1e6),
    ):
        np.testing.assert_allclose(found, queries, atol=1e-7)
    one = units(1, 6)
    np.testing.assert_array_equal(augment_gallery(one, 5), one)


def test_neither_blocks_nor_threads_change_anything():
    queries, gallery = units(300, 32), units(500, 32, seed=1)
    for blend in (augment_queries, expand_queries):
        expected = blend(queries, gallery, 7)
        for costs in ({"block_bytes": 1, "threads": 1}, {"block_bytes": 10**9, "threads": 4}):
            np.testing.assert_array_equal(blend(queries, gallery, 7, **costs), expected)

"""Mean and deviation by hand, and what must not matter."""

import numpy as np
import pytest

from trainer.retrieval.rerank.standardise import standardise
from trainer.retrieval.vectors import CHUNK


def test_by_hand():
    # Means (2, 10), deviations (sqrt 2, 0) over the four rows.
    queries = np.array([[0, 10]], np.float32)
    gallery = np.array([[2, 10], [2, 10], [4, 10]], np.float32)
    asking, items = standardise(queries, gallery)
    assert asking.tolist() == [[-1, 0]]
    assert items.tolist() == [[0, 0], [0, 0], [1, 0]]
    # Means (2, 1) and deviations (2, 1): (-1, 1), (1, 1), (1, -1), (-1, -1) before the lengths.
    queries = np.array([[0, 2], [4, 2]], np.float32)
    gallery = np.array([[4, 0], [0, 0]], np.float32)
    asking, items = standardise(queries, gallery)
    np.testing.assert_allclose(asking, np.array([[-1, 1], [1, 1]]) / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(items, np.array([[1, -1], [-1, -1]]) / 2**0.5, rtol=1e-6)


def test_equal_to_the_formula_in_float64_over_several_chunks():
    random = np.random.default_rng(0)
    table = (random.standard_normal((2 * CHUNK + 9, 3)) * [1, 5, 0.01] + [100, 0, -3]).astype("f4")
    exact = table.astype(np.float64)
    exact = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    asking, items = standardise(table[:10], table[10:])
    np.testing.assert_allclose(np.concatenate([asking, items]), exact, atol=1e-6)


def test_a_query_that_is_an_item_counts_once():
    random = np.random.default_rng(1)
    table = random.standard_normal((40, 5)).astype(np.float32)
    # Items 3 and 7 ask, and two that are not there.
    asking = np.concatenate([table[[3, 7]], random.standard_normal((2, 5)).astype("f4")])
    found, items = standardise(asking, table, own=np.array([3, 7, -1, -1]))
    apart, same = standardise(asking[2:], table)
    np.testing.assert_allclose(items, same, atol=1e-6)
    np.testing.assert_allclose(found, np.concatenate([same[[3, 7]], apart]), atol=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (0.01, 5.0)])
def test_units_and_origin_of_a_dimension_do_not_matter(scale, shift):
    random = np.random.default_rng(2)
    table = random.standard_normal((60, 4)).astype(np.float32)
    changed = (table * np.float32([scale, 1, 2, 3]) + np.float32([shift, 0, 1, 0])).astype("f4")
    for first, second in zip(
        standardise(table[:9], table[9:]), standardise(changed[:9], changed[9:]), strict=True
    ):
        np.testing.assert_allclose(first, second, atol=2e-4)

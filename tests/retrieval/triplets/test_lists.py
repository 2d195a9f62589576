"""Neighbour lists against sorted loops over whole numbers."""

import numpy as np
import pytest

from trainer.retrieval.triplets.lists import nearest_lists, whole_numbers


def vectors(count, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def slow(table, query, gallery, depth):
    """The list of one query, and the similarity at its end, in Python's own whole numbers."""
    whole = [[int(value) for value in row] for row in table]
    if not any(whole[query]):
        return [], np.inf
    found = [
        (-sum(a * b for a, b in zip(whole[query], whole[row], strict=True)), place, row)
        for place, row in enumerate(gallery)
        if row != query
    ]
    found = sorted(found)[:depth]
    return [row for _, _, row in found], -np.inf if len(found) < depth else -found[-1][0]


def collect(blocks, scorers):
    items = [np.concatenate([block.items[s] for block in blocks]) for s in range(scorers)]
    least = [np.concatenate([block.least[s] for block in blocks]) for s in range(scorers)]
    return np.stack(items), np.stack(least), np.concatenate([block.queries for block in blocks])


@pytest.mark.parametrize("depth", [1, 4, 60])
def test_equal_to_sorting_by_hand_with_copies_and_blank_rows(depth):
    first, second = vectors(40, 7), vectors(40, 5, 1)
    first[[3, 9, 30]] = first[8]  # equally similar to all: the earlier row comes first
    first[5] = 0
    tables = {"a": whole_numbers(first), "b": whole_numbers(second)}
    queries, gallery = np.array([0, 3, 5, 8, 20, 39]), np.arange(2, 36)
    items, least, rows = collect(list(nearest_lists(tables, queries, gallery, depth)), 2)
    assert rows.tolist() == queries.tolist()
    for s, table in enumerate(tables.values()):
        for number, query in enumerate(queries.tolist()):
            expected, end = slow(table, query, gallery.tolist(), depth)
            found = items[s, number]
            assert found[: len(expected)].tolist() == expected
            assert (found[len(expected) :] == -1).all()
            assert least[s, number] == end


def test_neither_threads_nor_blocks_change_a_list():
    tables = {"a": whole_numbers(vectors(500, 96))}
    rows = np.arange(500)
    results = [
        collect(list(nearest_lists(tables, rows, rows, 20, threads=t, block_bytes=b)), 1)
        for t, b in ((1, 2**26), (4, 2**26), (2, 4 * 500), (2, 4 * 500 * 7))
    ]
    for items, least, _ in results[1:]:
        assert np.array_equal(items, results[0][0])
        assert np.array_equal(least, results[0][1])


@pytest.mark.parametrize("dim", [1, 3, 512, 4096])
def test_float32_adds_whole_numbers_without_error(dim):
    random = np.random.default_rng(dim)
    table = np.concatenate([vectors(20, dim), np.ones((2, dim)), -np.ones((1, dim))])
    whole = whole_numbers(table * 1000)
    assert np.array_equal(whole, np.rint(whole))
    assert (whole.astype(np.int64) ** 2).sum(axis=1).max() < 2**24
    exact = whole.astype(np.int64) @ whole.astype(np.int64).T
    for _ in range(5):  # any order of adding
        order = random.permutation(dim)
        assert np.array_equal(np.cumsum(whole[0, order] * whole[1, order])[-1], exact[0, 1])
        assert np.array_equal(whole[:, order] @ whole[:, order].T, exact)


def test_rounding_hardly_moves_a_cosine():
    table = vectors(50, 300)
    unit = table.astype(np.float64) / np.linalg.norm(table.astype(np.float64), axis=1)[:, None]
    whole = whole_numbers(table).astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1)[:, None]
    assert np.abs(whole @ whole.T - unit @ unit.T).max() < 5e-4


def test_an_empty_gallery_gives_empty_lists_and_no_query_nothing():
    tables = {"a": whole_numbers(vectors(5, 3))}
    (block,) = nearest_lists(tables, np.arange(3), np.empty(0, np.int64), 4)
    assert (block.items == -1).all()
    assert np.isneginf(block.least).all()
    assert list(nearest_lists(tables, np.empty(0, np.int64), np.arange(3), 4)) == []


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match="4000000 dimensions"):
        whole_numbers(np.ones((1, 4_000_000), np.float32))

"""k-reciprocal re-ranking against the definition in sets and loops, and against torchreid."""

import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.rerank.test_neighbours import units
from trainer.config import UserError
from trainer.retrieval.rerank.k_reciprocal import k_reciprocal
from trainer.retrieval.rerank.neighbours import nearest

GOLDENS = Path(__file__).parents[2] / "reference" / "rerank_goldens.npz"


def table_of(found, items):
    """Return the distances of a whole ranking, (Q, G), inf for what is not in it."""
    table = np.full((len(found.rows), items), np.inf)
    np.put_along_axis(table, found.rows, -found.scores.astype(np.float64), axis=1)
    return table


def distances_by_definition(queries, gallery, k1, k2, weight):
    """One pair of pictures at a time, neighbourhoods as sets, in float64."""
    pictures = [*queries.astype(np.float64), *gallery.astype(np.float64)]
    everyone = range(len(pictures))
    apart = [[float(((a - b) ** 2).sum()) for b in pictures] for a in pictures]
    apart = [[d / max(row) for d in row] for row in apart]
    order = [sorted(everyone, key=lambda j, i=i: (j != i, apart[i][j], j)) for i in everyone]

    def friends(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    shares = []
    for i in everyone:
        close = friends(i, k1)
        circle = set(close)
        for j in close:
            theirs = friends(j, round(k1 / 2))
            if 3 * len(theirs & close) > 2 * len(theirs):
                circle |= theirs
        raw = {j: math.exp(-apart[i][j]) for j in circle}
        shares.append({j: value / sum(raw.values()) for j, value in raw.items()})
    averaged = []
    for i in everyone:
        near = order[i][:k2]
        averaged.append([sum(shares[n].get(j, 0.0) for n in near) / len(near) for j in everyone])
    found = np.empty((len(queries), len(gallery)))
    for q in range(len(queries)):
        for g in range(len(gallery)):
            item = len(queries) + g
            smaller = sum(map(min, averaged[q], averaged[item]))
            larger = sum(map(max, averaged[q], averaged[item]))
            found[q, g] = (1 - weight) * (1 - smaller / larger) + weight * apart[q][item]
    return found


def products(queries, items, dim, seed):
    """Pictures of a few products each, unit length."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((items // 5, dim))
    rows = centres[random.integers(len(centres), size=queries + items)]
    rows = rows + 0.6 * random.standard_normal(rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return rows[:queries], rows[queries:]


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (5, 1, 0.3), (7, 3, 0.0), (1, 2, 0.9), (200, 50, 0.5)]
)
def test_equal_to_the_definition(k1, k2, weight):
    queries, gallery = products(12, 48, 8, seed=k1)
    found = k_reciprocal(queries, gallery, 48, k1=k1, k2=k2, weight=weight)
    expected = distances_by_definition(queries, gallery, k1, k2, weight)
    np.testing.assert_allclose(table_of(found, 48), expected, atol=2e-6)
    for row, distances in zip(found.rows, expected, strict=True):
        assert (np.diff(distances[row]) > -4e-6).all()
    few = k_reciprocal(queries, gallery, 5, k1=k1, k2=k2, weight=weight)
    np.testing.assert_array_equal(few.rows, found.rows[:, :5])


@pytest.mark.parametrize("case", ["published", "small", "odd"])
def test_equal_to_torchreid(case):
    goldens = np.load(GOLDENS)
    queries, gallery = goldens[f"{case}_queries"], goldens[f"{case}_gallery"]
    k1, k2, weight = goldens[f"{case}_parameters"]
    found = k_reciprocal(
        queries, gallery, len(gallery), k1=int(k1), k2=int(k2), weight=float(weight)
    )
    expected = goldens[f"{case}_distances"]
    assert len(np.unique(expected[0])) > 5
    np.testing.assert_allclose(table_of(found, len(gallery)), expected, atol=3e-6)


def test_queries_that_are_items_are_one_picture_and_leave_themselves_out():
    _, gallery = products(0, 60, 8, seed=3)
    own = np.arange(60)
    found = table_of(k_reciprocal(gallery, gallery, 60, k1=6, k2=3, own=own), 60)
    assert np.isinf(found.diagonal()).all()
    half = k_reciprocal(gallery[:30], gallery, 60, k1=6, k2=3, own=own[:30])
    np.testing.assert_array_equal(table_of(half, 60), found[:30])
    apart = distances_by_definition(gallery[:30], gallery[30:], 6, 3, 0.3)
    np.testing.assert_allclose(found[:30, 30:], apart, atol=2e-6)


def test_the_order_of_the_gallery_and_a_rotation_do_not_matter():
    queries, gallery = products(20, 90, 10, seed=4)
    expected = table_of(k_reciprocal(queries, gallery, 90, k1=8, k2=4), 90)
    shuffled = np.random.default_rng(0).permutation(90)
    found = table_of(k_reciprocal(queries, gallery[shuffled], 90, k1=8, k2=4), 90)
    np.testing.assert_allclose(found, expected[:, shuffled], atol=1e-5)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    turned = ((table.astype(np.float64) @ turn).astype("f4") for table in (queries, gallery))
    np.testing.assert_allclose(
        table_of(k_reciprocal(*turned, 90, k1=8, k2=4), 90), expected, atol=1e-5
    )


def test_with_all_weight_on_the_plain_distance_the_order_stays():
    queries, gallery = products(30, 150, 12, seed=5)
    found = k_reciprocal(queries, gallery, 40, weight=1)
    np.testing.assert_array_equal(found.rows, nearest(queries, gallery, 40).rows)


def test_neither_blocks_nor_threads_change_anything():
    queries, gallery = products(150, 1400, 16, seed=6)
    expected = k_reciprocal(queries, gallery, 100)
    for costs in ({"block_bytes": 1, "threads": 1}, {"block_bytes": 10**9, "threads": 4}):
        found = k_reciprocal(queries, gallery, 100, **costs)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_copies_and_one_picture_alone():
    same = np.repeat(units(1, 4), 8, axis=0)
    found = k_reciprocal(same[:2], same, 8, k1=3, k2=2)
    assert sorted(found.rows[0]) == sorted(found.rows[1]) == list(range(8))
    assert np.isfinite(found.scores).all()
    assert k_reciprocal(same[:1], same[:1], 5).rows.tolist() == [[0]]


def test_memory_is_bounded_by_the_block_and_some_dozens_of_numbers_a_picture():
    # All distances would take 576 MB in float32. The bound: 64 MiB for a block, and 2 kB a picture.
    queries, gallery = products(500, 11_500, 64, seed=7)
    tracemalloc.start()
    try:
        k_reciprocal(queries, gallery, 1000, threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20 + 2000 * 12_000


@pytest.mark.parametrize("changes", [{"k1": 0}, {"k2": 0}, {"weight": 1.1}, {"weight": -0.1}])
def test_values_out_of_range_are_refused(changes):
    table = units(5, 4)
    with pytest.raises(ValueError, match="k1="):
        k_reciprocal(table, table, 3, **changes)


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    table = units(5, 4)
    with pytest.raises(UserError, match=r'pip install "mildnet\[rerank\]"'):
        k_reciprocal(table, table, 3)

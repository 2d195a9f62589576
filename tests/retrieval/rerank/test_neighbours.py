"""The partial sort against a full one, with ties, in blocks and threads of any number."""

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.metrics import evaluate
from trainer.retrieval.rerank.neighbours import TILE, first_rows, nearest
from trainer.retrieval.vectors import normalise


def units(count, dim, seed=0):
    table = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    normalise(table)
    return table


@pytest.mark.parametrize("k", [1, 2, 7, 39, 40])
def test_the_first_rows_are_those_of_a_stable_sort(k):
    random = np.random.default_rng(k)
    for levels in (1, 2, 5, 1000):
        scores = random.integers(levels, size=40).astype(np.float32)
        assert first_rows(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()
    assert first_rows(np.array([-np.inf, 1, -np.inf, 2], "f4"), 3).tolist() == [3, 1, 0]


@pytest.mark.parametrize("k", [1, 10, 300, 5000])
def test_equal_to_sorting_everything(k):
    queries, gallery = units(150, 8), units(300, 8, seed=1)
    found = nearest(queries, gallery, k)
    exact = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    assert found.rows.shape == found.scores.shape == (150, min(k, 300))
    for row in range(150):
        np.testing.assert_array_equal(
            found.rows[row], np.argsort(-exact[row], kind="stable")[: found.rows.shape[1]]
        )
        np.testing.assert_allclose(found.scores[row], exact[row, found.rows[row]], atol=1e-6)


def test_a_query_does_not_find_itself_and_copies_come_in_the_order_of_their_rows():
    gallery = units(200, 16)
    gallery[[17, 60, 199]] = gallery[3]
    own = np.arange(200)
    own[5] = -1
    found = nearest(gallery, gallery, 200, own=own)
    assert found.rows.shape == (200, 199)  # one less for all, as a table has one width
    for row in range(200):
        assert (row in found.rows[row]) == (own[row] < 0)
        assert len(set(found.rows[row])) == 199
        copies = [place for place in found.rows[row].tolist() if place in (3, 17, 60, 199)]
        assert copies == sorted(copies)
    assert found.rows[60, :3].tolist() == [3, 17, 199]
    assert found.rows[5, 0] == 5


def test_neither_blocks_nor_threads_change_anything():
    queries, gallery = units(3 * TILE + 5, 24), units(700, 24, seed=1)
    expected = nearest(queries, gallery, 50)
    for block_bytes, threads in ((1, 1), (4 * 700 * TILE * 2, 3), (10**9, 2)):
        found = nearest(queries, gallery, 50, block_bytes=block_bytes, threads=threads)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)
    some = nearest(queries[TILE:], gallery, 50)
    np.testing.assert_array_equal(some.scores, expected.scores[TILE:])


def test_metrics_of_the_whole_ranking_agree():
    gallery, labels = units(120, 6), np.arange(120) % 20
    found = nearest(gallery, gallery, 120, own=np.arange(120))
    hits = labels[found.rows] == labels[:, None]
    metrics = evaluate(gallery, labels, bootstrap=0).metrics
    assert hits[:, 0].mean() == pytest.approx(metrics["recall_at_1"])
    assert hits[:, :10].any(axis=1).mean() == pytest.approx(metrics["recall_at_10"])
    assert hits[:, :5].sum(axis=1).mean() / 5 == pytest.approx(metrics["r_precision"])


def test_nothing_to_find_is_said():
    one = units(1, 4)
    with pytest.raises(UserError, match="k=0 of 1 items"):
        nearest(one, one, 0)
    with pytest.raises(UserError, match="k=5 of 0 items"):
        nearest(one, one, 5, own=np.array([0]))

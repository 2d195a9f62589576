"""The challenge's measure by hand and by loops; what a ranking costs."""

import numpy as np
import pytest

from tests.retrieval.rerank.test_neighbours import units
from trainer.config import UserError
from trainer.retrieval.metrics import evaluate
from trainer.retrieval.rerank.cost import measure, measure_here
from trainer.retrieval.rerank.neighbours import nearest
from trainer.retrieval.rerank.options import METHODS, rank
from trainer.retrieval.rerank.quality import quality


def test_by_hand():
    gallery = np.array(["mug", "mug", "hat", "mug", "hat", "cup"])
    queries = np.array(["mug", "hat", "pan"])
    # mug: hits at ranks 1 and 3 of the three that are ranked, three in the gallery.
    # hat: a hit at rank 2, two in the gallery. pan: none there.
    rows = np.array([[0, 2, 1], [0, 2, 5], [0, 1, 2]])
    found = quality(rows, queries, gallery)
    assert found.truncated_map == pytest.approx(((1 + 2 / 3) / 3 + (1 / 2) / 2) / 2)
    assert (found.recall_at_1, found.recall_at_10) == (0.5, 1.0)
    assert (found.queries, found.skipped) == (2, 1)
    # Asked by items 0 and 2 themselves, one fewer is relevant.
    found = quality(rows[:2], queries[:2], gallery, own=np.array([3, 4]))
    assert found.truncated_map == pytest.approx(((1 + 2 / 3) / 2 + (1 / 2) / 1) / 2)


def test_of_whole_rankings_it_is_that_of_the_metrics():
    gallery, labels = units(90, 6), np.arange(90) % 13
    own = np.arange(90)
    found = quality(nearest(gallery, gallery, 90, own=own).rows, labels, labels, own=own)
    expected = evaluate(gallery, labels, bootstrap=0).metrics
    assert found.truncated_map == pytest.approx(expected["truncated_map"])
    assert found.recall_at_1 == pytest.approx(expected["recall_at_1"])
    assert found.recall_at_10 == pytest.approx(expected["recall_at_10"])


def test_labels_that_cannot_match_are_refused():
    rows = np.zeros((1, 1), np.int64)
    with pytest.raises(UserError, match="no query has an item of its label"):
        quality(rows, np.array([1]), np.array([2]))
    with pytest.raises(UserError, match="two kinds"):
        quality(rows, np.array([1]), np.array(["1"]))


def test_cost_of_a_ranking_in_a_process_of_its_own():
    queries, gallery = units(100, 32), units(4000, 32, seed=1)
    cost = measure(queries, gallery, 50, METHODS["none"])
    expected = rank(queries, gallery, 50)
    np.testing.assert_array_equal(cost.rows, expected.rows)
    assert 0 < cost.seconds < 60
    assert 0 < cost.cpu_seconds < 60
    # 1.6 MB of similarities, and 0.6 MB of copies that are scaled.
    assert cost.peak_bytes is None or 1e6 < cost.peak_bytes < 50e6


def test_the_cost_does_not_know_of_proc(monkeypatch):
    from pathlib import Path

    def missing(*words, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(Path, "write_text", missing)
    cost = measure_here(units(5, 4), units(9, 4), 3, METHODS["challenge"])
    assert cost.peak_bytes is None
    assert cost.rows.shape == (5, 3)

"""The hardest failures against a slow count over every pair."""

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.failures import hardest_failures


def slow_failures(embeddings, labels, queries, items, neighbours):
    """Every failing query by plain loops in float64: (query, rank, right, wrong rows)."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = []
    for query in queries:
        others = [item for item in items if item != query]
        scores = {item: float(unit[query].astype(np.float64) @ unit[item]) for item in others}
        order = sorted(others, key=lambda item: (-scores[item], item))
        right = [item for item in order if labels[item] == labels[query]]
        if not right or order[0] == right[0]:
            continue
        wrong = [item for item in order if labels[item] != labels[query]]
        rank = order.index(right[0]) + 1
        found.append(
            (-rank, -scores[wrong[0]], query, right[0], wrong[: min(neighbours, rank - 1)])
        )
    return [(query, -rank, right, wrong) for rank, _, query, right, wrong in sorted(found)]


def plain(failures):
    return [(f.query, f.rank, f.right, list(f.wrong)) for f in failures.hardest]


@pytest.mark.parametrize("domains", [False, True])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_failures_are_those_of_a_slow_count(domains, count):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 12, 90)
    embeddings = (rng.normal(size=(12, 6))[labels] + rng.normal(size=(90, 6))).astype(np.float32)
    is_query = rng.random(90) < 0.5 if domains else None
    is_gallery = ~is_query if domains else None
    queries = np.arange(90) if is_query is None else np.flatnonzero(is_query)
    items = np.arange(90) if is_gallery is None else np.flatnonzero(is_gallery)
    expected = slow_failures(embeddings, labels, queries.tolist(), items.tolist(), 4)
    found = hardest_failures(
        embeddings, labels, count, is_query=is_query, is_gallery=is_gallery, neighbours=4
    )
    assert found.failed == len(expected) > 10
    assert plain(found) == expected[:count]
    for failure in found.hardest:
        assert failure.wrong_scores == tuple(sorted(failure.wrong_scores, reverse=True))
        assert failure.wrong_scores[0] >= failure.right_score - 1e-6


def test_a_mask_of_queries_alone_searches_the_other_rows():
    embeddings = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1]], np.float32)
    labels = np.array(["a", "b", "a", "b"])
    is_query = np.array([True, True, False, False])
    one = hardest_failures(embeddings, labels, 9, is_query=is_query)
    two = hardest_failures(embeddings, labels, 9, is_query=is_query, is_gallery=~is_query)
    assert plain(one) == plain(two) == [(0, 2, 2, [3])]


def test_a_perfect_search_has_no_failures_and_none_may_be_asked_for():
    labels = np.repeat(np.arange(4), 3)
    perfect = hardest_failures(np.eye(4, dtype=np.float32)[labels], labels, 5)
    assert (perfect.hardest, perfect.failed, perfect.queries) == ((), 0, 12)
    noise = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    none = hardest_failures(noise, labels, 0)
    assert none.hardest == ()
    assert none.failed > 0


def test_labels_without_a_second_image_are_refused():
    with pytest.raises(UserError, match="another image of its label"):
        hardest_failures(np.eye(3, dtype=np.float32), np.arange(3), 2)

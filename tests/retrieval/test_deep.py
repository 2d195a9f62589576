"""Deep evaluation against plain float64 loops over every pair."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval import deep
from trainer.retrieval.deep import Similarities, deep_evaluate
from trainer.retrieval.metrics import evaluate
from trainer.retrieval.ranking import Ranking

ROWS, CLASSES, DIM = 130, 22, 6


def clusters(seed=0, rows=ROWS):
    """Embeddings with some structure, labels of which a few occur once, and categories."""
    rng = np.random.default_rng(seed)
    labels = np.r_[rng.integers(0, CLASSES, rows - 4), CLASSES + np.arange(4)]
    centres = rng.normal(size=(CLASSES + 4, DIM))
    embeddings = (centres[labels] + rng.normal(size=(rows, DIM))).astype(np.float32)
    categories = np.array(["mug", "hat", "shoe", ""])[labels % 4]
    return embeddings, labels, categories


def masks(kind, rows=ROWS):
    """(is_query, is_gallery): none, two domains, or a part of the rows in both."""
    if kind == "all":
        return None, None
    street = np.random.default_rng(5).random(rows) < 0.4
    return (street, ~street) if kind == "domains" else (street, np.ones(rows, bool))


def slow_rankings(embeddings, is_query, is_gallery):
    """(query, [(similarity, row), ...] nearest first) of every query, by plain loops."""
    unit = embeddings.astype(np.float64)
    unit = [row / np.sqrt(sum(x * x for x in row)) if row.any() else row for row in unit]
    rows = range(len(unit))
    for query in rows:
        if is_query is not None and not is_query[query]:
            continue
        found = [
            (-float(unit[query] @ unit[item]), item)
            for item in rows
            if item != query and (is_gallery is None or is_gallery[item])
        ]
        yield query, [(-score, item) for score, item in sorted(found)]


KINDS = ["all", "domains", "mixed"]


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    """What was found block by block, a few queries each, and the slow rankings."""
    embeddings, labels, categories = clusters()
    is_query, is_gallery = masks(request.param)
    options = {"is_query": is_query, "is_gallery": is_gallery, "bootstrap": 0}
    found = deep_evaluate(
        embeddings, labels, categories=categories, neighbours=7, block_bytes=9 * 4 * ROWS, **options
    )
    rankings = list(slow_rankings(embeddings, is_query, is_gallery))
    return found, rankings, labels, categories


def test_curves_are_those_of_a_slow_count(case):
    found, rankings, labels, _ = case
    sums = np.zeros((4, deep.DEPTH))
    used = 0
    for query, ranking in rankings:
        right = [labels[item] == labels[query] for _, item in ranking]
        total = sum(right)
        used += total > 0
        for k in range(1, deep.DEPTH + 1):
            hits = sum(right[:k])
            if total:
                values = (hits > 0, hits / total, hits / k, min(total, k) / k)
                sums[:, k - 1] += values
    assert 0 < used < len(rankings)  # some have nothing to find
    curves = found.curves
    for values, name in zip(sums / used, ("recall", "found", "precision", "ceiling"), strict=True):
        np.testing.assert_allclose(getattr(curves, name), values, rtol=1e-12, err_msg=name)
    assert found.evaluation.metrics["recall_at_1"] == pytest.approx(curves.recall[0], abs=1e-12)
    assert found.evaluation.metrics["recall_at_10"] == pytest.approx(curves.recall[9], abs=1e-12)
    assert found.evaluation.metrics["precision_at_5"] == pytest.approx(curves.precision[4])


def test_pairs_are_counted_as_numpy_counts_the_full_matrix(case):
    found, rankings, labels, _ = case
    pairs = found.similarities
    assert np.diff(pairs.edges) == pytest.approx(0.001)
    for counts, same in ((pairs.same, True), (pairs.other, False)):
        values = np.array(
            [
                score
                for query, ranking in rankings
                for score, item in ranking
                if (labels[item] == labels[query]) == same
            ]
        )
        expected, _ = np.histogram(values, bins=2000, range=(-1, 1))
        assert counts.sum() == expected.sum() == len(values) > 50
        # float32 may put what lies on an edge to the other side of it, nothing else.
        at_edges = np.abs(values[:, None] - pairs.edges).min(axis=1) < 1e-6
        assert np.abs(counts - expected).sum() <= 2 * at_edges.sum() < 0.02 * len(values)


def test_confusions_are_those_of_a_slow_count(case):
    found, rankings, labels, categories = case
    for confusion, classes in ((found.labels, labels.astype(str)), (found.categories, categories)):
        expected, skipped = {}, 0
        for query, ranking in rankings:
            if classes[query] == "":
                continue
            if not any(classes[item] == classes[query] for _, item in ranking):
                skipped += 1
                continue
            pair = str(classes[query]), str(classes[ranking[0][1]])
            expected[pair] = expected.get(pair, 0) + 1
        names = confusion.names
        matrix = confusion.matrix()
        assert {
            (names[i], names[j]): int(matrix[i, j]) for i, j in zip(*matrix.nonzero(), strict=True)
        } == expected
        assert confusion.skipped == skipped
        assert confusion.queries == sum(expected.values())
        right = sum(count for (true, got), count in expected.items() if true == got)
        assert confusion.accuracy == pytest.approx(right / confusion.queries)
        worst = sorted((-count, pair) for pair, count in expected.items() if pair[0] != pair[1])
        told = confusion.mistakes(5)
        assert [count for _, _, count, _ in told] == [-count for count, _ in worst[:5]]
        for true, got, count, share in told:
            assert expected[true, got] == count
            whole = sum(n for (one, _), n in expected.items() if one == true)
            assert share == pytest.approx(count / whole)
    assert found.labels.accuracy == pytest.approx(found.evaluation.metrics["recall_at_1"])
    assert found.labels.skipped == found.evaluation.skipped > 0


def test_queries_come_from_the_easiest_to_the_hardest(case):
    found, rankings, labels, _ = case
    expected = {}
    for query, ranking in rankings:
        right = [(score, item) for score, item in ranking if labels[item] == labels[query]]
        wrong = [score for score, item in ranking if labels[item] != labels[query]]
        if right:
            items = [item for _, item in ranking]
            rank = items.index(right[0][1]) + 1
            expected[query] = right[0][0] - wrong[0], rank, *right[0], ranking[:7]
    got = found.retrieved
    order = sorted(expected, key=lambda query: (-expected[query][0], query))
    assert got.queries.tolist() == order
    assert (np.diff(got.margins) <= 0).all()
    assert got.margins[0] > 0 > got.margins[-1]
    for place, query in enumerate(order):
        margin, rank, score, item, first = expected[query]
        assert got.margins[place] == pytest.approx(margin, abs=1e-6)
        assert (got.ranks[place], got.right[place]) == (rank, item)
        assert (rank == 1) == (margin > 0)
        assert got.right_scores[place] == pytest.approx(score, abs=1e-6)
        assert got.neighbours[place].tolist() == [item for _, item in first]
        assert got.scores[place] == pytest.approx([score for score, _ in first], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_blocks_nor_threads_matter_and_metrics_are_those_of_evaluate(kind):
    embeddings, labels, categories = clusters(1)
    is_query, is_gallery = masks(kind)
    options = {"is_query": is_query, "is_gallery": is_gallery, "categories": categories}
    plain = evaluate(embeddings, labels, bootstrap=20, **options)
    whole = deep_evaluate(embeddings, labels, bootstrap=20, **options)
    for more in ({"block_bytes": 1}, {"block_bytes": 5 * 4 * ROWS, "threads": 1}):
        other = deep_evaluate(embeddings, labels, bootstrap=20, **options, **more)
        assert other.evaluation.to_dict() == whole.evaluation.to_dict()
        told, expected = other.to_dict()["deep"], whole.to_dict()["deep"]
        for part in ("curves", "first_neighbour", "confusion"):
            assert told[part] == expected[part]
        # BLAS rounds by the shape of the product: a pair on an edge may change sides.
        for part in ("same", "other"):
            moved = getattr(other.similarities, part) - getattr(whole.similarities, part)
            assert moved.sum() == 0
            assert np.abs(moved).sum() <= 8
        for name, values in vars(whole.retrieved).items():
            np.testing.assert_allclose(getattr(other.retrieved, name), values, atol=1e-6)
    assert whole.evaluation.to_dict() == plain.to_dict()


def test_blocks_hold_no_more_than_they_are_given(monkeypatch):
    embeddings, labels, _ = clusters()
    seen = []
    rank = Ranking._rank

    def spy(self, similarities, *rest):
        seen.append(similarities.nbytes)
        return rank(self, similarities, *rest)

    monkeypatch.setattr(Ranking, "_rank", spy)
    deep_evaluate(embeddings, labels, bootstrap=0, block_bytes=10_000)
    assert max(seen) <= 10_000
    assert len(seen) == -(-ROWS // (10_000 // (4 * ROWS)))


def test_equal_similarities_go_by_row_also_at_the_end_of_the_list(monkeypatch):
    # Whole numbers: every product is exact, and most of them tie.
    monkeypatch.setattr(deep, "DEPTH", 5)
    rng = np.random.default_rng(2)
    embeddings = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 60)]
    labels = rng.integers(0, 5, 60)
    found = deep_evaluate(embeddings, labels, neighbours=3, bootstrap=0)
    rankings = dict(slow_rankings(embeddings, None, None))
    margins = []
    for query, items in zip(found.retrieved.queries, found.retrieved.neighbours, strict=True):
        assert items.tolist() == [item for _, item in rankings[query]][:3]
        right = max(s for s, item in rankings[query] if labels[item] == labels[query])
        wrong = max(s for s, item in rankings[query] if labels[item] != labels[query])
        margins.append((-(right - wrong), query))
    assert margins == sorted(margins)
    assert found.retrieved.margins.tolist() == [-margin for margin, _ in margins]
    # All pairs are at 0 or at 1, where bins begin and end.
    assert found.similarities.other[[1000, -1]].sum() == found.similarities.other.sum()


def test_a_gallery_smaller_than_the_curves_ends_them():
    embeddings, labels, _ = clusters(rows=12)
    labels = labels % 3
    short = deep_evaluate(embeddings, labels, neighbours=30, bootstrap=0)
    assert len(short.curves.recall) == 11
    assert short.curves.recall[-1] == short.curves.found[-1] == 1
    assert short.retrieved.neighbours.shape == (12, 12)
    assert (short.retrieved.neighbours[:, -1] == -1).all()
    assert (short.retrieved.neighbours[:, :-1] >= 0).all()


def test_areas_and_equal_error_are_those_of_all_pairs(case):
    found, rankings, labels, _ = case
    same, other = (
        np.array(
            [
                score
                for query, ranking in rankings
                for score, item in ranking
                if (labels[item] == labels[query]) == wanted
            ]
        )
        for wanted in (True, False)
    )
    above = sum(float((score > other).mean()) for score in same) / len(same)
    area, error = found.similarities.auc()
    assert abs(area - above) <= error + 1e-4
    assert error < 1e-3
    threshold, rate = found.similarities.equal_error()
    for near in (threshold - 0.002, threshold + 0.002):
        # The two errors cross between the two.
        assert ((same < near).mean() > (other >= near).mean()) == (near > threshold)
    assert abs((same < threshold).mean() - rate) < 0.02
    assert found.similarities.medians() == pytest.approx(
        (np.median(same), np.median(other)), abs=0.01
    )


def test_densities_cover_what_occurs_and_have_an_area_of_one(case):
    pairs = case[0].similarities
    for bars in (7, 80, 5000):
        edges, same, other = pairs.densities(bars)
        assert len(same) == len(other) == len(edges) - 1 <= bars + 1
        for density in (same, other):
            assert float((density * np.diff(edges)).sum()) == pytest.approx(1)
    counts = [int(pairs.same[(pairs.edges[:-1] >= low - 1e-9)].sum()) for low in edges]
    assert counts[0] == pairs.same.sum()


def test_similarities_that_tell_nothing_or_all():
    edges = np.linspace(-1, 1, 5)
    alike = Similarities(edges, np.array([0, 0, 0, 3]), np.array([0, 0, 0, 9]))
    assert alike.auc() == (0.5, 0.5)
    assert alike.equal_error() == (0.75, 0.5)
    apart = Similarities(edges, np.array([0, 0, 0, 3]), np.array([4, 0, 0, 0]))
    assert apart.auc() == (1.0, 0.0)
    assert apart.equal_error()[1] == 0
    assert [part.tolist() for part in alike.densities(80)] == [[0.5, 1.0], [2.0], [2.0]]


def test_zero_rows_and_integer_labels_with_names():
    embeddings = np.array([[1, 0], [1, 0], [0, 0], [0, 1], [0, 1]], np.float32)
    found = deep_evaluate(embeddings, [7, 7, 3, 3, 3], label_names=list("abcdefgh"), bootstrap=0)
    assert found.labels.names == ("d", "h")
    assert found.labels.matrix().tolist() == [[2, 1], [0, 2]]
    assert found.categories is None
    assert found.retrieved.queries.tolist() == [0, 1, 3, 4, 2]
    assert json.loads(json.dumps(found.to_dict()))["deep"]["confusion"] is None


def test_what_cannot_be_measured_is_refused():
    embeddings = np.eye(4, dtype=np.float32)
    with pytest.raises(UserError, match="all 4 images of the gallery have one label"):
        deep_evaluate(embeddings, [1, 1, 1, 1], bootstrap=0)
    with pytest.raises(UserError, match="two or more images"):
        deep_evaluate(embeddings, [1, 2, 3, 4], bootstrap=0)
    with pytest.raises(UserError, match="NaN or infinity"):
        deep_evaluate(np.full((4, 2), np.nan), [1, 1, 2, 2])
    with pytest.raises(UserError, match="labels have shape"):
        deep_evaluate(embeddings, [1, 1, 2])


def test_categories_that_cannot_be_found_leave_no_confusion():
    embeddings, labels, _ = clusters()
    none = deep_evaluate(embeddings, labels, categories=np.full(ROWS, ""), bootstrap=0)
    assert none.categories is None

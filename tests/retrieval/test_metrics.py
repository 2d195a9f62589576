"""Metrics against slow float64 loops over the whole ranking, hand-worked cases, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.metrics import evaluate
from trainer.retrieval.ranking import Ranking
from trainer.retrieval.tiles import TILE, tile_ranks


def full_ranking(similarities, query, gallery):
    """Gallery rows from nearest to farthest for one query row, itself left out."""
    others = [row for row in gallery if row != query]
    return sorted(others, key=lambda row: (-similarities[query][row], row))


def metrics(similarities, labels, queries, gallery, ks):
    """Mean of each metric by its definition, and the number of queries without relevant items."""
    sums: dict[str, float] = {}
    used = skipped = 0
    for query in queries:
        order = full_ranking(similarities, query, gallery)
        relevant = [labels[row] == labels[query] for row in order]
        total = sum(relevant)
        if total == 0:
            skipped += 1
            continue
        used += 1
        values = one_query(relevant, total, ks)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / used for name, value in sums.items()}, used, skipped


def one_query(relevant, total, ks):
    """All metrics of one ranking, given as True for each relevant neighbour in order."""

    def average_precision(cut, divisor):
        hits, result = 0, 0.0
        for place, hit in enumerate(relevant[:cut], start=1):
            if hit:
                hits += 1
                result += hits / place
        return result / divisor

    first = relevant.index(True) + 1
    values = {}
    for k in ks:
        values[f"recall_at_{k}"] = float(any(relevant[:k]))
        values[f"precision_at_{k}"] = sum(relevant[:k]) / k
        values[f"map_at_{k}"] = average_precision(k, min(total, k))
    values["r_precision"] = sum(relevant[:total]) / total
    values["map_at_r"] = average_precision(total, total)
    values["map"] = average_precision(len(relevant), total)
    values["mrr"] = 1 / first
    values["shifted_reciprocal_rank"] = 1 / (first + 1) if first <= 1000 else 0.0
    values["truncated_map"] = average_precision(1000, total)
    return values


def grid(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Small whole numbers: every dot product is exact, so float32 and float64 agree on ties."""
    return rng.integers(-2, 3, size=(rows, dim)).astype(np.float32)


def check(embeddings, labels, ks=(1, 2, 3, 7), queries=None, gallery=None, **options):
    """Compare `evaluate` with the loops, every metric and the counts."""
    count = len(labels)
    found = evaluate(embeddings, labels, ks=ks, bootstrap=0, **options)
    # Each pair of distinct vectors once, so that copies of a vector tie in the loops too.
    exact, which = np.unique(np.asarray(embeddings, np.float64), axis=0, return_inverse=True)
    if options.get("similarity", "cosine") == "cosine":
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)
        exact = exact / np.where(lengths == 0, 1, lengths)
    similarities = exact @ exact.T
    if options.get("similarity") == "euclidean":
        similarities = -np.square(exact[:, None] - exact[None]).sum(-1)
    similarities = similarities[which][:, which].tolist()
    expected, used, skipped = metrics(
        similarities,
        list(labels),
        range(count) if queries is None else queries,
        range(count) if gallery is None else gallery,
        ks,
    )
    assert set(found.metrics) == set(expected)
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-12), name
    assert (found.queries, found.skipped) == (used, skipped)
    return found


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("classes", [2, 9, 60])
def test_equal_to_the_loops(similarity, classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(classes, size=90)
    embeddings = rng.standard_normal((90, 8)).astype(np.float32)
    check(embeddings, labels, similarity=similarity, ks=(1, 5, 50, 500))


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_by_row(seed):
    # Two dimensions of five values: most neighbours tie, exactly.
    rng = np.random.default_rng(seed)
    check(grid(rng, 70, 2), rng.integers(6, size=70), similarity="dot")


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_identical_pictures_tie_wherever_they_lie(similarity):
    # Each row is one of 40 vectors; labels disagree, so the order among equals decides.
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 33)).astype(np.float32)
    which = rng.integers(40, size=301)
    labels = rng.integers(7, size=301)
    vectors[0, 0], vectors[1] = 0.0, vectors[0]
    vectors[1, 0] = -0.0  # still the same vector
    check(vectors[which], labels, similarity=similarity)


def test_worked_example_of_the_guide():
    # One query (row 0, label a) and five gallery items whose ranks are easy to see:
    # relevant at ranks 1, 3 and 4, so R = 3.
    similarity = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    embeddings = np.stack([np.r_[1.0, similarity], np.r_[0.0, np.sqrt(1 - similarity**2)]], axis=1)
    found = evaluate(
        embeddings,
        ["a", "a", "b", "a", "a", "b"],
        is_query=np.arange(6) == 0,
        ks=(1, 2, 3),
        bootstrap=0,
    )
    expected = {
        "recall_at_1": 1,
        "recall_at_2": 1,
        "recall_at_3": 1,
        "precision_at_1": 1,
        "precision_at_2": 1 / 2,
        "precision_at_3": 2 / 3,
        "r_precision": 2 / 3,
        "map_at_r": (1 + 2 / 3) / 3,
        "map": (1 + 2 / 3 + 3 / 4) / 3,
        "map_at_1": 1,
        "map_at_2": 1 / 2,
        "map_at_3": (1 + 2 / 3) / 3,
        "mrr": 1,
        "shifted_reciprocal_rank": 1 / 2,
        "truncated_map": (1 + 2 / 3 + 3 / 4) / 3,
    }
    assert found.metrics == pytest.approx(expected)
    assert (found.queries, found.gallery, found.skipped) == (1, 5, 0)


def test_query_mask_alone_searches_the_others():
    rng = np.random.default_rng(3)
    labels, embeddings = rng.integers(8, size=80), rng.standard_normal((80, 5))
    is_query = rng.random(80) < 0.4
    queries, gallery = np.flatnonzero(is_query), np.flatnonzero(~is_query)
    a = check(embeddings, labels, queries=queries, gallery=gallery, is_query=is_query)
    b = check(embeddings, labels, queries=queries, gallery=gallery, is_gallery=~is_query)
    assert a.to_dict() == b.to_dict()
    np.testing.assert_array_equal(a.rows, [q for q in queries if labels[q] in labels[gallery]])


def test_overlapping_masks_leave_the_row_itself_out():
    rng = np.random.default_rng(4)
    labels, embeddings = rng.integers(8, size=80), rng.standard_normal((80, 5))
    is_query, is_gallery = rng.random(80) < 0.6, rng.random(80) < 0.6
    assert (is_query & is_gallery).any()
    found = check(
        embeddings,
        labels,
        queries=np.flatnonzero(is_query),
        gallery=np.flatnonzero(is_gallery),
        is_query=is_query,
        is_gallery=is_gallery,
    )
    assert found.gallery == is_gallery.sum()


def test_blocks_and_threads_change_nothing():
    rng = np.random.default_rng(5)
    labels, embeddings = rng.integers(30, size=700), grid(rng, 700, 16)
    whole = evaluate(embeddings, labels, bootstrap=0, similarity="dot", threads=1)
    for options in ({"block_bytes": 1}, {"block_bytes": 4 * 700 * 128, "threads": 3}):
        parts = evaluate(embeddings, labels, bootstrap=0, similarity="dot", **options)
        assert parts.to_dict() == whole.to_dict()


def all_ranks(embeddings, codes, **options):
    rows = np.arange(len(codes))
    ranking = Ranking(embeddings, codes, rows, rows, similarity="dot", **options)
    blocks = list(ranking.blocks())
    np.testing.assert_array_equal(np.concatenate([block.queries for block in blocks]), ranking.used)
    for block in blocks:
        np.testing.assert_array_equal(block.starts, np.cumsum(block.counts) - block.counts)
    return np.concatenate([block.ranks for block in blocks])


PATHS = {
    "counted": {"tiled": False, "sort_from": 10**9},
    "sorted": {"tiled": False, "sort_from": 1},
    "tiled": {"tiled": True},
}


@pytest.mark.parametrize("values", ["floats", "some copies", "whole numbers", "all the same"])
@pytest.mark.parametrize("path", ["sorted", "tiled"])
def test_every_way_of_ranking_agrees(path, values):
    rng = np.random.default_rng(6)
    codes = np.r_[rng.integers(5, size=380), rng.integers(5, 200, size=20)]
    embeddings = {
        "floats": rng.standard_normal((400, 6)).astype(np.float32),
        "some copies": rng.standard_normal((400, 65)).astype(np.float32),
        "whole numbers": grid(rng, 400, 3),
        "all the same": np.ones((400, 3), np.float32),
    }[values]
    if values == "some copies":  # fewer ties than the sorted path ranks again from scratch
        embeddings[50:65] = embeddings[200:215]
    counted = all_ranks(embeddings, codes, **PATHS["counted"])
    np.testing.assert_array_equal(all_ranks(embeddings, codes, **PATHS[path]), counted)
    assert counted.min() == 1
    assert counted.max() > 380


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("each", [3, 60])
def test_many_tiles(each, threads):
    # Whole numbers up to 200: similarities are exact, and some of them are equal.
    rng = np.random.default_rng(each)
    count = 2 * TILE + 300
    codes = rng.permutation(np.minimum(np.arange(count) // each, count // each - 7))
    embeddings = rng.integers(-200, 201, size=(count, 24)).astype(np.float32)
    options = {"threads": threads, "block_bytes": 4 * count * 512}
    found = all_ranks(embeddings, codes, **PATHS["tiled"], **options)
    np.testing.assert_array_equal(found, all_ranks(embeddings, codes, **PATHS["sorted"], **options))


def test_copies_tie_across_tiles():
    # Every relevant item has one copy, in another class: BLAS gives the two the same similarity
    # mostly, not always.
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((1400, 65)).astype(np.float32)
    which = np.tile(np.arange(1400), 2)
    codes = rng.permutation(np.arange(2800) // 2)
    found = all_ranks(vectors[which], codes, **PATHS["tiled"])
    np.testing.assert_array_equal(found, all_ranks(vectors[which], codes, **PATHS["counted"]))


def test_tiles_settle_most_ranks_themselves():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(900), 5)[:4400]
    embeddings = rng.integers(-200, 201, size=(4400, 24)).astype(np.float32)
    ranks, tied = tile_ranks(embeddings, np.bincount(codes)[codes], 1)
    assert 0 < tied.mean() < 0.3
    similarities = (embeddings @ embeddings.T).astype(np.float64)
    np.fill_diagonal(similarities, -np.inf)
    starts = np.cumsum(np.bincount(codes)[codes] - 1)
    for row in range(0, 4400, 97):
        relevant = np.flatnonzero((codes == codes[row]) & (np.arange(4400) != row))
        expected = [1 + (similarities[row] > similarities[row, item]).sum() for item in relevant]
        assert ranks[starts[row] - len(relevant) : starts[row]].tolist() == expected
        equal = [(similarities[row] == similarities[row, item]).sum() > 1 for item in relevant]
        assert tied[row] == any(equal)


def test_tiles_are_what_all_against_all_uses(monkeypatch):
    calls = []

    def spy(vectors, sizes, threads):
        calls.append(len(vectors))
        return tile_ranks(vectors, sizes, threads)

    monkeypatch.setattr("trainer.retrieval.ranking.tile_ranks", spy)
    rng = np.random.default_rng(0)
    labels, embeddings = np.arange(300) // 3, rng.standard_normal((300, 128))
    check(embeddings, labels)
    assert calls == [300]
    evaluate(embeddings, labels, similarity="euclidean", bootstrap=0)
    evaluate(embeddings, labels, is_query=labels % 2 == 0, is_gallery=labels >= 0, bootstrap=0)
    evaluate(embeddings, labels // 40, bootstrap=0)
    assert calls == [300]


def test_labels_keep_every_digit():
    # 2**53 and 2**53 + 1 are one number in float64, 2**24 and 2**24 + 1 in float32.
    embeddings = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]])
    for base in (2**24, 2**53, 2**62):
        labels = np.array([base, base + 1, base, base + 1])
        assert evaluate(embeddings, labels, bootstrap=0).metrics["recall_at_1"] == 0
    numbers = evaluate(embeddings, [7, 8, 7, 8], bootstrap=0)
    strings = evaluate(embeddings, ["a", "a ", "a", "a "], bootstrap=0)
    objects = evaluate(embeddings, np.array(["x", "yy", "x", "yy"], object), bootstrap=0)
    assert numbers.to_dict() == strings.to_dict() == objects.to_dict()


def test_breakdowns_are_means_over_their_queries():
    rng = np.random.default_rng(8)
    labels, embeddings = rng.integers(12, size=100), rng.standard_normal((100, 4))
    labels[-1] = 99  # alone: skipped, in no group
    category = np.where(labels % 2, "shoes", "bags")
    domain = np.where(rng.random(100) < 0.5, "street", "shop")
    found = evaluate(embeddings, labels, categories=category, domains=domain, bootstrap=0)
    assert found.skipped == 1
    assert set(found.by_category) == {"shoes", "bags"}
    for groups, names in ((found.by_category, category), (found.by_domain, domain)):
        assert sum(group["queries"] for group in groups.values()) == found.queries == 99
        for name, group in groups.items():
            mine = names[found.rows] == name
            assert group["queries"] == mine.sum()
            for metric, values in found.per_query.items():
                assert group[metric] == pytest.approx(values[mine].mean())


def test_intervals_are_seeded_and_cover_the_mean():
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(200), 2)
    centres = rng.standard_normal((200, 6))
    embeddings = centres[labels] + 0.3 * rng.standard_normal((400, 6))
    a, b = (evaluate(embeddings, labels, ks=(1,), seed=s) for s in (1, 1))
    assert a.intervals == b.intervals
    assert a.intervals != evaluate(embeddings, labels, ks=(1,), seed=2).intervals
    for name, (low, high) in a.intervals.items():
        assert low <= a.metrics[name] <= high
    # For a share p of n queries the normal interval is p +- 1.96 sqrt(p (1 - p) / n).
    share = a.metrics["recall_at_1"]
    low, high = a.intervals["recall_at_1"]
    width = 2 * 1.96 * np.sqrt(share * (1 - share) / 400)
    assert 0.1 < share < 0.9
    assert high - low == pytest.approx(width, rel=0.1)
    narrow = evaluate(embeddings, labels, ks=(1,), seed=1, confidence=0.5).intervals["recall_at_1"]
    assert low < narrow[0] < narrow[1] < high


def test_to_dict_is_json():
    found = evaluate(np.eye(4), [0, 0, 1, 1], categories=["a", "a", "b", "b"], ks=(1, 2))
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again == found.to_dict()
    assert again["by_category"]["a"]["queries"] == 2


def test_a_zero_embedding_is_equally_far_from_all():
    # Row 0 is zero: its neighbours tie at similarity 0 and come in row order.
    embeddings = [[0, 0], [1, 0], [0, 1], [-1, 0]]
    found = evaluate(embeddings, [0, 1, 0, 1], is_query=np.arange(4) == 0, ks=(1, 2), bootstrap=0)
    assert found.metrics["mrr"] == 1 / 2


EYE = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("embeddings", "labels", "options", "message"),
    [
        (np.full((4, 2), np.nan), [0, 0, 1, 1], {}, "row 0 holds NaN"),
        (np.where(np.arange(8).reshape(4, 2) == 5, np.inf, 1), [0, 0, 1, 1], {}, "row 2 holds NaN"),
        (np.full((4, 2), 1e60), [0, 0, 1, 1], {}, "row 0 holds NaN or infinity"),
        (np.full((4, 2), 1e25), [0, 0, 1, 1], {"similarity": "dot"}, "too large"),
        (np.ones(4), [0, 0, 1, 1], {}, r"shape \(4,\)"),
        (np.array([["a", "b"]]), [0], {}, "<U1"),
        (np.ones((0, 3)), [], {}, "empty"),
        (np.ones((3, 0)), [0, 0, 1], {}, "empty"),
        (EYE, [0, 0, 1], {}, "labels have shape"),
        (EYE, [0.0, 0.0, 1.0, 1.0], {}, "labels are float64"),
        (EYE, np.array([0, "a", 1, 1], object), {}, "labels are object"),
        (EYE, [0, 1, 2, 3], {}, "none of the 4 queries"),
        (EYE[:1], [0], {}, "none of the 1 queries"),
        (EYE, [0, 0, 1, 1], {"ks": (0,)}, "cut-offs"),
        (EYE, [0, 0, 1, 1], {"ks": (1.5,)}, "cut-offs"),
        (EYE, [0, 0, 1, 1], {"ks": ()}, "cut-offs"),
        (EYE, [0, 0, 1, 1], {"similarity": "l1"}, "not one of cosine"),
        (EYE, [0, 0, 1, 1], {"is_query": np.zeros(4, bool)}, "no row is a query"),
        (EYE, [0, 0, 1, 1], {"is_query": np.ones(4, bool)}, "no row is a gallery"),
        (EYE, [0, 0, 1, 1], {"is_query": np.ones(3, bool)}, "is_query is bool of shape"),
        (EYE, [0, 0, 1, 1], {"is_gallery": np.arange(4)}, "is_gallery is int64"),
        (EYE, [0, 0, 1, 1], {"categories": ["a"]}, "categories have shape"),
        (EYE, [0, 0, 1, 1], {"confidence": 1.0}, "confidence"),
        (EYE, [0, 0, 1, 1], {"bootstrap": -1}, "bootstrap"),
    ],
)
def test_bad_input_is_one_clear_line(embeddings, labels, options, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluate(embeddings, labels, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["all", "split"])
@pytest.mark.parametrize("name", ["large", "small"])
def test_equal_to_other_libraries(name, split):
    # Made by tests/reference/make_retrieval_goldens.py with pytorch-metric-learning, scikit-learn.
    path = Path(__file__).parents[1] / "reference" / "retrieval_goldens.npz"
    with np.load(path, allow_pickle=False) as golden:
        is_query = golden[f"{name}_is_query"] if split == "split" else None
        found = evaluate(
            golden[f"{name}_embeddings"],
            golden[f"{name}_labels"],
            is_query=is_query,
            ks=(1,),
            bootstrap=0,
        )
        theirs = dict(zip(golden["names"].tolist(), golden[f"{name}_{split}"], strict=True))
    assert (found.skipped > 0) == (name == "small")
    ours = {
        "precision_at_1": "precision_at_1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map_at_r",
        "mean_average_precision": "map",
        "mean_reciprocal_rank": "mrr",
        "sklearn_average_precision": "map",
    }
    for their_name, our_name in ours.items():
        assert found.metrics[our_name] == pytest.approx(theirs[their_name], abs=1e-6), their_name


def ranked(relevant_ranks, gallery):
    """Metrics of one query whose relevant items have these ranks in a gallery of so many."""
    angles = np.linspace(0.1, 1.5, gallery)
    embeddings = np.concatenate([[[1, 0]], np.stack([np.cos(angles), np.sin(angles)], axis=1)])
    labels = np.zeros(gallery + 1, int)
    labels[[0, *relevant_ranks]] = 1
    is_query = np.arange(gallery + 1) == 0
    return evaluate(embeddings, labels, is_query=is_query, bootstrap=0, ks=(1000,)).metrics


def test_truncated_map_counts_hits_up_to_rank_1000_and_divides_by_all_positives():
    found = ranked([2, 1000, 1001], 1100)
    assert found["truncated_map"] == pytest.approx((1 / 2 + 2 / 1000) / 3)
    assert found["map"] == pytest.approx((1 / 2 + 2 / 1000 + 3 / 1001) / 3)
    assert found["map_at_1000"] == pytest.approx(found["truncated_map"])
    # Of 1,050 positives, at ranks 1 to 999 and after 1,000, the first 999 count.
    many = ranked([*range(1, 1000), *range(1001, 1052)], 1100)
    assert many["truncated_map"] == pytest.approx(999 / 1050)
    assert many["map_at_1000"] == pytest.approx(999 / 1000)


@pytest.mark.parametrize(("rank", "value"), [(1, 1 / 2), (2, 1 / 3), (1000, 1 / 1001), (1001, 0)])
def test_shifted_reciprocal_rank_ends_after_rank_1000(rank, value):
    assert ranked([rank, 1100], 1100)["shifted_reciprocal_rank"] == pytest.approx(value)

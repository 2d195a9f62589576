"""Summaries of a batch against loops over its pairs written out."""

import numpy as np
import pytest
from PIL import Image

from trainer.data.table import ItemTable
from trainer.training.summaries import PICTURE, SHOWN, Summaries, summarize
from trainer.training.trackers import Tracker, Trackers


def batch(seed, labels, dim=6):
    random = np.random.default_rng(seed)
    return np.asarray(labels), random.normal(size=(len(labels), dim)) + 0.3


def by_loops(labels, embeddings, rows, margin):
    """The numbers and (near - far, anchor, positive, negative) of all pairs, in float64."""
    vectors = embeddings / np.sqrt((embeddings**2).sum(1, keepdims=True))
    count = len(labels)
    pairs, away = [], {}
    for a in range(count):
        if rows > 1 and a % rows:
            continue
        if rows == 1:
            positives = [p for p in range(count) if p != a and labels[p] == labels[a]]
        else:
            positives = [a + 1]
        negatives = [a + 2] if rows == 3 else [n for n in range(count) if labels[n] != labels[a]]
        for p in positives:
            if negatives:
                far, n = max((float(vectors[a] @ vectors[n]), n) for n in negatives)
                pairs.append((float(vectors[a] @ vectors[p]), far, a, p, n))
                away[a] = [float(vectors[a] @ vectors[n]) for n in negatives]
    numbers = {
        "positive_similarity": np.mean([near for near, *_ in pairs]),
        "negative_similarity": np.mean([s for values in away.values() for s in values]),
        "violations": np.mean([far + margin > near for near, far, *_ in pairs]),
        "hard": np.mean([far > near for near, far, *_ in pairs]),
    }
    return numbers, pairs


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (np.repeat(np.arange(5), 4), 1),
        ([0, 0, 0, 1, 2, 2, 3], 1),
        (np.repeat(np.arange(8), 2), 2),
        ([0, 0, 1, 1, 0, 0, 2, 2], 2),
        (np.zeros(21, int), 3),
    ],
)
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_numbers_and_the_hardest_triplets_are_those_of_all_pairs(labels, rows, margin):
    labels, embeddings = batch(1, labels)
    found = summarize(labels, embeddings, rows, margin)
    numbers, pairs = by_loops(labels, embeddings, rows, margin)
    assert found.numbers == pytest.approx(numbers, abs=1e-6)
    assert 0 < numbers["violations"] < 1 or margin
    worst = {}
    for near, far, *triplet in sorted(pairs, key=lambda pair: pair[0] - pair[1]):
        worst.setdefault(triplet[0], (triplet, [near, far]))
    expected = list(worst.values())[:SHOWN]
    assert found.triplets.tolist() == [triplet for triplet, _ in expected]
    np.testing.assert_allclose(found.similarities, [s for _, s in expected], atol=1e-6)


@pytest.mark.parametrize(("labels", "rows"), [([3, 3, 3], 1), ([1, 2, 3], 1), ([1, 1, 1, 1], 2)])
def test_a_batch_without_a_pair_or_a_negative_has_no_numbers(labels, rows):
    found = summarize(*batch(2, labels), rows)
    assert found.numbers == {}
    assert len(found.triplets) == len(found.similarities) == 0


def test_a_negative_that_is_exactly_as_near_violates_a_margin_but_is_not_hard():
    labels = np.array([0, 0, 1, 1])
    embeddings = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    found = summarize(labels, embeddings, 2, 0.1).numbers
    # Query 0 has its positive at 0 and item 1's positive at 1; query 2 the same the other way.
    assert found == {
        "positive_similarity": 0,
        "negative_similarity": pytest.approx(0.5),
        "violations": 1,
        "hard": 1,
    }
    same = summarize(labels, np.ones((4, 2)), 2, 0.1).numbers
    assert (same["violations"], same["hard"]) == (1, 0)


def test_the_hardest_triplets_are_drawn_into_the_run_and_shown_to_trackers(tmp_path):
    paths = []
    for number in range(6):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(paths[-1])
    table = ItemTable.from_rows(
        [{"path": p, "label": f"item {i // 2}"} for i, p in enumerate(paths)]
    )
    shown = []

    class Spy(Tracker):
        def picture(self, step, name, path):
            shown.append((step, name, path, Image.open(path).size))

    labels, embeddings = batch(3, table.label)
    summaries = Summaries(table, str(tmp_path / "run"), example_rows=1, margin=0.1)
    (tmp_path / "run").mkdir()

    class Tensor:
        def __init__(self, value):
            self.numpy = lambda: value

    content = {"label": labels, "row": np.arange(6), "embedding": embeddings}
    numbers = summaries(7, {k: Tensor(v) for k, v in content.items()}, Trackers([Spy()]))
    assert numbers == summarize(labels, embeddings, 1, 0.1).numbers
    ((step, name, path, size),) = shown
    assert (step, name, path) == (7, "summaries/hardest_triplets", str(tmp_path / "run" / PICTURE))
    assert np.all(np.array(size) > 3 * 160)

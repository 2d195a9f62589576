"""The draws that both ways of making triplets share."""

import numpy as np
import pytest

from trainer.retrieval.triplets.draw import Drawing, outside


@pytest.mark.parametrize(
    ("low", "high", "holes"),
    [
        (0, 6, []),
        (2, 7, [(0, 3), (4, 5)]),
        (0, 9, [(0, 2), (2, 4), (8, 9)]),
        (3, 6, [(0, 1), (7, 9)]),
        (0, 4, [(1, 1)]),
    ],
)
def test_every_free_place_comes_up_about_as_often(low, high, holes):
    free = [p for p in range(low, high) if not any(a <= p < b for a, b in holes)]
    random = np.random.default_rng(0)
    drawn = [outside(random, low, high, holes) for _ in range(2000)]
    places, times = np.unique(drawn, return_counts=True)
    assert places.tolist() == free
    assert times.min() > 0.75 * 2000 / len(free)


def test_no_free_place_is_none():
    assert outside(np.random.default_rng(0), 2, 5, [(0, 3), (3, 9)]) is None
    assert outside(np.random.default_rng(0), 4, 4, []) is None


@pytest.mark.parametrize(("per_anchor", "share"), [(1, 0.3), (3, 0.5), (4, 0.25), (5, 0), (2, 1)])
def test_shares_are_kept_as_closely_as_whole_numbers_allow(per_anchor, share):
    drawing = Drawing(per_anchor, share, seed=1)
    for anchor in range(1000):
        random = drawing.random(anchor)
        drawing.add(random, anchor, [5000], lambda p, _, r=random: int(r.integers(10**9)))
    triplets = drawing.triplets()
    assert len(triplets) == 1000 * per_anchor
    assert triplets.in_class.mean() == pytest.approx(share, abs=0.04)
    per = np.bincount(triplets.rows[triplets.in_class, 0], minlength=1000)
    assert set(per) <= {int(np.floor(share * per_anchor)), int(np.ceil(share * per_anchor))}
    assert (triplets.skipped, triplets.replaced, triplets.anchors) == (0, 0, 1000)


def test_positives_take_turns_and_no_triplet_comes_twice():
    drawing = Drawing(6, 0.5, seed=0)
    random = drawing.random(7)
    # One negative of each kind: 2 positives x 2 negatives are all there is.
    drawing.add(random, 7, [1, 2], lambda _, in_class: 10 if in_class else 20)
    rows = drawing.triplets().rows
    assert sorted(map(tuple, rows.tolist())) == [(7, 1, 10), (7, 1, 20), (7, 2, 10), (7, 2, 20)]


def test_what_cannot_be_had_is_replaced_or_skipped_and_counted():
    drawing = Drawing(2, 1.0, seed=0)
    drawing.add(drawing.random(0), 0, [1], lambda _, in_class: None if in_class else 3)
    drawing.add(drawing.random(1), 1, [], lambda *_: 3)
    drawing.add(drawing.random(2), 2, [1], lambda *_: None)
    triplets = drawing.triplets()
    assert triplets.rows.tolist() == [[0, 1, 3]]
    assert triplets.in_class.tolist() == [False]
    assert (triplets.anchors, triplets.skipped, triplets.replaced) == (3, 2, 1)

"""Triplets from likeness, against the recipe written as slow loops."""

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.triplets.from_likeness import Depths, from_likeness, held_out
from trainer.retrieval.triplets.lists import whole_numbers

DEPTHS = Depths(near=3, agree=2, low=6, high=15)


def scene(count=90, groups=15, seed=0, blur=1.0):
    """Three scorers that each see something of the groups that rows belong to."""
    random = np.random.default_rng(seed)
    group = random.permutation(np.arange(count) % groups)
    scorers = {}
    for name, noise in (("a", 0.6), ("b", 0.8), ("c", 1.2)):
        centres = random.normal(size=(groups, 6))
        scorers[name] = whole_numbers(
            centres[group] + blur * noise * random.normal(size=(count, 6))
        )
    return scorers, group


def oracle(scorers, anchor, gallery, depths):
    """Positives in order, in-class negatives, and what is beyond all lists."""
    similar = {
        name: {row: sum(int(x) * int(y) for x, y in zip(t[anchor], t[row], strict=True))
               for row in gallery if row != anchor}
        for name, t in scorers.items()
    }  # fmt: skip
    place = {
        name: {row: n for n, row in enumerate(sorted(s, key=lambda r, s=s: (-s[r], r)), start=1)}
        for name, s in similar.items()
    }
    end = depths.high + 1
    rows = sorted(next(iter(similar.values())))
    positives = []
    for row in rows:
        at = [place[name][row] for name in scorers]
        votes = sum(p <= depths.near for p in at)
        if votes >= depths.agree:
            positives.append((-votes, sum(min(p, end) for p in at), row))
    best = {row: min(place[name][row] for name in scorers) for row in rows}
    inside = {row for row in rows if depths.low < best[row] <= depths.high}
    beyond = set()
    if len(rows) >= depths.high:
        last = {name: sorted(s.values(), reverse=True)[depths.high - 1]
                for name, s in similar.items()}  # fmt: skip
        beyond = {row for row in rows if all(similar[n][row] < last[n] for n in scorers)}
    return [row for *_, row in sorted(positives)], inside, beyond


def check(triplets, scorers, galleries, elsewhere, depths, per_anchor):
    """Every triplet is one that the oracle allows, positives best first; return their anchors."""
    by_anchor = {}
    for row, in_class in zip(triplets.rows.tolist(), triplets.in_class, strict=True):
        by_anchor.setdefault(row[0], []).append((row[1], row[2], in_class))
    for anchor, found in by_anchor.items():
        positives, inside, beyond = oracle(scorers, anchor, galleries(anchor), depths)
        assert {p for p, _, _ in found} <= set(positives[:per_anchor])
        assert positives[0] in {p for p, _, _ in found}
        for _, negative, in_class in found:
            outer = beyond if elsewhere is None else elsewhere(anchor)
            assert negative in (inside if in_class else outer)
    return by_anchor


def test_equal_to_the_recipe_by_hand():
    scorers, _ = scene()
    rows = np.arange(90)
    triplets = from_likeness(scorers, rows, rows, depths=DEPTHS, per_anchor=4)
    anchors = check(triplets, scorers, lambda _: range(90), None, DEPTHS, 4)
    able = {a for a in range(90) if oracle(scorers, a, range(90), DEPTHS)[0]}
    assert set(anchors) == able
    assert 0 < triplets.skipped == 90 - len(able)
    assert triplets.in_class.mean() == pytest.approx(0.5, abs=0.02)
    assert triplets.replaced == 0


def test_with_categories_lists_stay_inside_and_out_of_class_is_another():
    scorers, group = scene(120)
    categories = np.array([f"c{g % 3}" for g in group], object)
    rows = np.arange(120)
    triplets = from_likeness(scorers, rows, rows, categories=categories, depths=DEPTHS)
    inside = {c: np.flatnonzero(categories == c).tolist() for c in set(categories)}
    outside = {c: set(np.flatnonzero(categories != c).tolist()) for c in set(categories)}
    check(
        triplets,
        scorers,
        lambda a: inside[categories[a]],
        lambda a: outside[categories[a]],
        DEPTHS,
        2,
    )
    assert len(triplets) > 60


def test_anchors_of_one_part_find_the_other():
    scorers, _ = scene()
    queries, gallery = np.arange(0, 90, 3), np.setdiff1d(np.arange(90), np.arange(0, 90, 3))
    triplets = from_likeness(scorers, queries, gallery, depths=DEPTHS)
    assert set(triplets.rows[:, 0]) <= set(queries.tolist())
    check(triplets, scorers, lambda _: gallery.tolist(), None, DEPTHS, 2)


def test_the_seed_decides_and_threads_do_not():
    scorers, _ = scene()
    rows = np.arange(90)
    one, two, other = (
        from_likeness(scorers, np.flip(rows) if flip else rows, rows, depths=DEPTHS, seed=s,
                      threads=t)
        for flip, s, t in ((False, 0, 1), (True, 0, 3), (False, 1, 1))
    )  # fmt: skip
    assert np.array_equal(one.rows, two.rows)
    assert not np.array_equal(one.rows, other.rows)
    assert set(map(tuple, one.rows[:, :2].tolist())) == set(map(tuple, other.rows[:, :2].tolist()))


def test_agreement_is_right_more_often_than_any_scorer_alone():
    scorers, group = scene(600, 100)
    rows = np.arange(600)
    triplets = from_likeness(scorers, rows, rows, depths=Depths(3, 2, 20, 100), per_anchor=1)
    agreed = (group[triplets.rows[:, 0]] == group[triplets.rows[:, 1]]).mean()
    for table in scorers.values():
        similar = table @ table.T
        np.fill_diagonal(similar, -np.inf)
        alone = (group[similar.argmax(axis=1)] == group).mean()
        assert agreed > alone + 0.1
    assert (group[triplets.rows[:, 0]] == group[triplets.rows[:, 2]]).mean() < 0.05


def test_a_scorer_with_nothing_to_say_has_no_vote():
    scorers, _ = scene()
    scorers["c"][:] = 0
    rows = np.arange(90)
    triplets = from_likeness(scorers, rows, rows, depths=DEPTHS)
    both = {name: scorers[name] for name in "ab"}
    assert np.array_equal(triplets.rows, from_likeness(both, rows, rows, depths=DEPTHS).rows)
    scorers["a"][:] = 0
    assert len(from_likeness(scorers, rows, rows, depths=DEPTHS)) == 0


def test_a_catalogue_shorter_than_the_lists_has_nothing_elsewhere():
    scorers, _ = scene(14, 3)
    rows = np.arange(14)
    triplets = from_likeness(scorers, rows, rows, depths=DEPTHS)
    assert triplets.in_class.all()
    assert triplets.replaced > 0


def test_pictures_are_held_out_with_their_positives():
    scorers, group = scene(600, 100, blur=0.5)
    rows = np.arange(600)
    depths = Depths(3, 2, 20, 100)
    chosen = held_out(scorers, rows, rows, share=0.2, depths=depths)
    assert 120 <= len(chosen) <= 130
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.array_equal(chosen, held_out(scorers, rows, rows, share=0.2, depths=depths))
    other = held_out(scorers, rows, rows, share=0.2, depths=depths, seed=1)
    assert not np.array_equal(chosen, other)
    # Two pictures of a group meet there more often than if drawn one by one.
    together = np.mean([(group[chosen] == group[row]).sum() - 1 for row in chosen])
    assert together > 2 * 0.2 * 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"agree": 0}, "agree=0"),
        ({"near": 0}, "first 0 neighbours"),
        ({"near": 30}, "have to ascend"),
        ({"low": 100}, "from 100 to 100"),
    ],
)
def test_depths_out_of_order_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Depths(**values)


def test_more_agreement_than_scorers_is_refused():
    scorers, _ = scene()
    rows = np.arange(90)
    with pytest.raises(UserError, match=r"4 scorers have to agree, and there are 3 \(a, b, c\)"):
        from_likeness(scorers, rows, rows, depths=Depths(agree=4))


def test_a_part_is_judged_by_the_lists_of_the_whole():
    scorers, group = scene(120, blur=0.5)
    rows, part = np.arange(120), np.arange(0, 120, 3)
    triplets = from_likeness(scorers, part, rows, members=part, depths=DEPTHS)
    assert len(triplets) > 10
    assert set(triplets.rows.ravel()) <= set(part.tolist())
    for (anchor, positive, negative), in_class in zip(
        triplets.rows.tolist(), triplets.in_class, strict=True
    ):
        positives, inside, beyond = oracle(scorers, anchor, range(120), DEPTHS)
        assert positive in positives
        assert negative in (inside if in_class else beyond)
    categories = np.array([f"c{g % 3}" for g in group], object)
    triplets = from_likeness(
        scorers, part, rows, members=part, categories=categories, depths=DEPTHS
    )
    assert set(triplets.rows.ravel()) <= set(part.tolist())
    kinds = categories[triplets.rows]
    assert ((kinds[:, 0] == kinds[:, 2]) == triplets.in_class).all()
    assert (kinds[:, 0] == kinds[:, 1]).all()

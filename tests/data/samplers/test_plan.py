"""Batches within a category: what holds for every one of them, and how often they come."""

import logging
import math

import numpy as np
import pytest

from trainer.config import UserError
from trainer.data import ItemTable
from trainer.data.samplers.classes_per_batch import ClassesPerBatch
from trainer.data.samplers.pairs import Pairs
from trainer.data.samplers.plan import ClassBatches, nth_appearance


def table(*sizes: int, images: int = 2) -> ItemTable:
    """So many classes in the categories a, b, ...; a class is named by its category."""
    names = [f"{chr(97 + k)}{n:04d}" for k, size in enumerate(sizes) for n in range(size)]
    labels = np.random.default_rng(0).permutation(np.repeat(names, images))
    return ItemTable.from_columns(
        [f"{i}.jpg" for i in range(len(labels))], labels, category=[label[0] for label in labels]
    )


def plans(data, per_batch, batches, share, by="batch", *, epochs, seed=0):
    """Category numbers and classes (epochs, batches, per_batch) of so many epochs."""
    dealer = ClassBatches(data, data.classes, per_batch, batches, share, by)
    random = np.random.default_rng(seed)
    chosen = np.stack([dealer.draw(random) for _ in range(epochs)])
    letters = np.array([name[0] for name in data.label_names])
    return letters[chosen], chosen


def is_near(count, trials, share):
    """Whether a count is within 4.5 standard deviations of what a share of trials gives."""
    return abs(count - trials * share) <= 4.5 * np.sqrt(trials * share * (1 - share)) + 1e-9


def is_even(counts):
    """Whether counts are not farther from their mean than those of independent draws."""
    statistic = np.sum((counts - counts.mean()) ** 2) / counts.mean()
    freedom = len(counts) - 1
    return statistic < freedom + 4.5 * np.sqrt(2 * freedom)


SIZES = (6, 50, 11, 23, 7)


@pytest.mark.parametrize("by", ["batch", "epoch"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_batches_are_of_one_category_as_often_as_asked_and_classes_equally_often(share, by):
    epochs, batches, per_batch = 300, 12, 6
    category, chosen = plans(table(*SIZES), per_batch, batches, share, by, epochs=epochs)
    ordered = np.sort(chosen, axis=2)
    assert (ordered[..., 1:] > ordered[..., :-1]).all(), "a class is in a batch twice"
    within = (category == category[..., :1]).all(axis=2)
    # A batch of all classes may be of one category too, by chance.
    chance = sum(math.comb(size, per_batch) for size in SIZES) / math.comb(sum(SIZES), per_batch)
    if by == "epoch":
        whole = within.all(axis=1)
        assert is_near(whole.sum(), epochs, share)
        assert within[~whole].mean() < 0.05 if share < 1 else whole.all()
    else:
        share = share + (1 - share) * chance
        assert is_near(within.sum(), within.size, share)
        assert is_near((within[:, 1:] & within[:, :-1]).sum(), epochs * (batches - 1), share**2)
    counts = np.bincount(chosen.ravel(), minlength=sum(SIZES))
    assert is_even(counts), counts
    order = np.array(list("abcde"))
    of_category = (category[within][:, :1] == order).sum(axis=0)
    if share == 1:
        expected = len(category[within]) * np.array(SIZES) / sum(SIZES)
        # Whole batches, rounded at random once an epoch.
        np.testing.assert_allclose(of_category, expected, atol=4.5 * np.sqrt(epochs) / 2)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_over_one_epoch_classes_come_about_equally_often(share):
    _, chosen = plans(table(*SIZES), 6, 60, share, epochs=50)
    for epoch in chosen:
        counts = np.bincount(epoch.ravel(), minlength=sum(SIZES))
        # Two apart by each kind of batch, and one more where the batches of a category round up.
        assert counts.max() - counts.min() <= 2 + 2 + 2, counts


def test_categories_too_small_for_a_batch_are_taken_together(caplog):
    with caplog.at_level(logging.WARNING):
        category, chosen = plans(table(10, 3, 20, 1, 4), 6, 38, 1.0, epochs=60)
    assert "3 of 5 categories have fewer than the 6 classes of a batch, 8 classes" in caplog.text
    together = {"".join(sorted(set(batch))) for batch in category.reshape(-1, 6)}
    assert {"a", "c"} <= together
    assert all(set(found) <= set("bde") for found in together - {"a", "c"})
    assert is_even(np.bincount(chosen.ravel(), minlength=38))


def test_drawn_by_weight_categories_share_batches_by_their_weight():
    data = table(6, 20, 9)
    weight = np.where(np.arange(35) < 6, 40, np.arange(35) % 7 + 1)
    dealer = ClassBatches(data, data.classes, 4, 30, 1.0, "batch", weight)
    random = np.random.default_rng(0)
    chosen = np.stack([dealer.draw(random) for _ in range(200)]).reshape(-1, 4)
    category = np.repeat([0, 1, 2], (6, 20, 9))[chosen]
    assert (category == category[:, :1]).all()
    assert all(len(set(batch)) == 4 for batch in chosen.tolist())
    of_category = np.bincount(category[:, 0])
    shares = [weight[:6].sum(), weight[6:26].sum(), weight[26:].sum()]
    expected = len(chosen) * np.array(shares) / sum(shares)
    # Whole batches, rounded at random once an epoch.
    np.testing.assert_allclose(of_category, expected, atol=4.5 * np.sqrt(200) / 2)
    # Of the first category all weigh the same.
    assert is_even(np.bincount(chosen[category[:, 0] == 0].ravel()))


def test_a_rest_too_small_for_a_batch_joins_the_smallest_category():
    category, chosen = plans(table(10, 3, 20), 6, 33, 1.0, epochs=60)
    found = {"".join(sorted(set(batch))) for batch in category.reshape(-1, 6)}
    assert found <= {"a", "ab", "c"}
    assert {"ab", "c"} <= found
    assert is_even(np.bincount(chosen.ravel(), minlength=33))


def test_a_class_is_of_the_category_that_most_of_its_images_have():
    data = ItemTable.from_columns(
        [f"{i}.jpg" for i in range(14)],
        [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4],
        category=[*"yxx", *"xx", *"xyyy", *"yyz", *"yx"],
    )
    dealer = ClassBatches(data, data.classes, 2, 50, 1.0, "batch")
    batches = dealer.draw(np.random.default_rng(0))
    # Class 4 has one image of each: x is first by name.
    assert {tuple(sorted(batch)) for batch in batches.tolist()} == {(0, 1), (0, 4), (1, 4), (2, 3)}


def test_what_cannot_work_is_said_in_one_line():
    bare = ItemTable.from_columns([f"{i}.jpg" for i in range(6)], [0, 0, 1, 1, 2, 2])
    part = ItemTable.from_columns(bare.path, bare.label, category=["x", "", "x", "", "x", "x"])
    for data, message in (
        (bare, "category of every image, and 6 of 6 have none; .*category_share=0"),
        (part, "category of every image, and 2 of 6 have none"),
        (table(3, 5, 4), r"a batch holds 6 classes, and no category .* \('b' has 5\)"),
    ):
        with pytest.raises(UserError, match=message) as error:
            ClassBatches(data, data.classes, min(6, len(data.classes)), 4, 0.5, "batch")
        assert "\n" not in str(error.value)
    for share, by, message in ((1.1, "batch", "=1.1: a prob"), (-0.1, "epoch", "=-0.1"),
                               (0.5, "day", "'day'")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ClassBatches(bare, bare.classes, 2, 4, share, by)
    # Without a share, nothing is asked of categories.
    ClassBatches(bare, bare.classes, 3, 4, 0.0, "batch")


@pytest.mark.parametrize("by", ["batch", "epoch"])
@pytest.mark.parametrize("sampler", [Pairs, ClassesPerBatch])
def test_a_batch_depends_on_seed_and_step_only(sampler, by):
    data = table(*SIZES, images=4)
    options = {"category_share": 0.6, "category_by": by}
    one, again, other = (sampler(data, 12, seed, **options) for seed in (7, 7, 8))
    steps = np.random.default_rng(1).permutation(4 * one.steps_per_epoch).tolist()
    found = {step: one.batch(step) for step in steps}
    for step in sorted(steps):
        np.testing.assert_array_equal(again.batch(step), found[step])
    # Started again in the middle of a later epoch.
    late = 3 * one.steps_per_epoch + 1
    np.testing.assert_array_equal(sampler(data, 12, 7, **options).batch(late), found[late])
    assert any((other.batch(step) != found[step]).any() for step in range(5))


def test_the_samplers_keep_their_batches_within_categories():
    data = table(*SIZES, images=4)
    for sampler, per_class in ((Pairs(data, 6, 0, category_share=1.0), 2),
                               (ClassesPerBatch(data, 24, 0, category_share=1.0), 4)):  # fmt: skip
        for step in range(3 * sampler.steps_per_epoch):
            rows = sampler.batch(step)
            assert len(set(data.category[rows])) == 1
            assert len(set(data.label[rows])) == len(rows) // per_class == 6


def test_nth_appearance():
    np.testing.assert_array_equal(
        nth_appearance(np.array([2, 0, 2, 2, 1, 0]), 4), [0, 0, 1, 2, 0, 1]
    )

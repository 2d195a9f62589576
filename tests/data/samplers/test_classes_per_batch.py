import itertools
import logging
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from trainer.config import UserError
from trainer.data import ItemTable
from trainer.data.samplers.classes_per_batch import ClassesPerBatch


def table(*sizes: int) -> ItemTable:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return ItemTable.from_columns([f"{i}.jpg" for i in range(len(labels))], labels)


def epoch(sampler, number: int = 0) -> np.ndarray:
    steps = range(number * sampler.steps_per_epoch, (number + 1) * sampler.steps_per_epoch)
    return np.stack([sampler.batch(step) for step in steps])


@pytest.mark.parametrize(
    ("sizes", "batch_size", "per_class"),
    [
        ((40,) * 5, 12, 4),
        ((40,) * 6, 12, 4),
        ((5, 17, 90, 2, 3, 33, 8), 16, 4),
        ((2, 3), 6, 3),
        ((7, 7, 7), 4, 2),
        ((300, 2, 2, 2), 8, 4),
    ],
)
def test_every_batch_has_p_classes_of_k_images(sizes, batch_size, per_class):
    data = table(*sizes)
    sampler = ClassesPerBatch(data, batch_size, seed=3, images_per_class=per_class)
    assert sampler.steps_per_epoch == max(1, len(data) // batch_size)
    for number in range(3):
        uses = Counter()
        for batch in epoch(sampler, number):
            assert batch.shape == (batch_size,)
            assert batch.dtype == np.int64
            groups = data.label[batch].reshape(-1, per_class)
            assert (groups == groups[:, :1]).all()
            assert len(set(groups[:, 0].tolist())) == batch_size // per_class
            uses.update(groups[:, 0].tolist())
            for images in batch.reshape(-1, per_class):
                size = sizes[data.label[images[0]]]
                counts = Counter(images.tolist())
                # Repeated only if necessary, and then evenly.
                assert len(counts) == min(per_class, size)
                assert max(counts.values()) == -(-per_class // size)
        times = [uses[code] for code in range(len(sizes))]
        assert max(times) - min(times) <= 2, times


def test_images_of_a_class_are_dealt_before_any_comes_again():
    data = table(12, 12)
    sampler = ClassesPerBatch(data, 8, seed=0, images_per_class=4)
    assert sorted(epoch(sampler).ravel().tolist()) == list(range(24))


def test_over_many_epochs_every_image_comes_equally_often():
    data = table(7, 7, 7)
    sampler = ClassesPerBatch(data, 6, seed=1, images_per_class=3)
    rows = np.concatenate([epoch(sampler, number).ravel() for number in range(800)])
    counts = np.bincount(rows, minlength=21)
    assert np.abs(counts - counts.mean()).max() < 4.5 * np.sqrt(counts.mean()), counts


def test_companions_vary():
    sampler = ClassesPerBatch(table(*[4] * 20), 8, seed=0, images_per_class=4)
    data = table(*[4] * 20)
    pairs = {
        tuple(sorted(data.label[batch[::4]])) for n in range(20) for batch in epoch(sampler, n)
    }
    assert len(pairs) > 100


def test_a_batch_depends_on_seed_and_step_only():
    data = table(9, 4, 30, 6)
    one, two, other = (ClassesPerBatch(data, 8, seed=s, images_per_class=2) for s in (7, 7, 8))
    for step in (50, 1, 12, 0):
        np.testing.assert_array_equal(one.batch(step), two.batch(step))
    assert (epoch(one) != epoch(other)).any()
    assert (epoch(one, 0) != epoch(one, 1)).any()


def chances_of_sets(sizes, per_batch):
    """The chance of each set of classes, drawn one after another by size, by trying all orders."""
    chances = Counter()
    for order in itertools.permutations(range(len(sizes)), per_batch):
        chance, left = 1.0, sum(sizes)
        for code in order:
            chance *= sizes[code] / left
            left -= sizes[code]
        chances[tuple(sorted(order))] += chance
    return chances


@pytest.mark.parametrize("per_batch", [2, 3])
def test_classes_are_drawn_by_their_size(per_batch):
    sizes = (4, 40, 9, 7, 14, 26)
    data = table(*sizes)
    sampler = ClassesPerBatch(data, 2 * per_batch, seed=4, images_per_class=2, class_weight="size")
    assert sampler.steps_per_epoch == len(data) // (2 * per_batch)
    batches = [epoch(sampler, number) for number in range(300)]
    groups = data.label[np.concatenate(batches)].reshape(-1, per_batch, 2)
    assert (groups[..., 0] == groups[..., 1]).all()
    seen = Counter(map(tuple, np.sort(groups[..., 0], axis=1).tolist()))
    assert all(len(set(classes)) == per_batch for classes in seen)
    chances = chances_of_sets(sizes, per_batch)
    assert sum(chances.values()) == pytest.approx(1)
    expected = np.array(list(chances.values())) * len(groups)
    assert expected.min() > 5
    observed = [seen[classes] for classes in chances]
    assert chisquare(observed, expected).pvalue > 1e-3
    # Every class alike would have been noticed.
    assert chisquare(observed).pvalue < 1e-9


def test_drawn_by_size_each_image_comes_equally_often():
    data = table(*range(2, 60))
    sizes = np.bincount(data.label)
    sampler = ClassesPerBatch(data, 4, seed=9, images_per_class=2, class_weight="size")
    rows = np.concatenate([epoch(sampler, number).ravel() for number in range(60)])
    by_class = np.bincount(data.label[rows], minlength=len(sizes)) / sizes
    # The small classes come seldom, so their counts scatter.
    np.testing.assert_allclose(by_class[sizes > 12], len(rows) / len(data), rtol=0.2)
    assert np.bincount(rows, minlength=len(data)).min() > 20


def test_drawn_by_size_a_batch_depends_on_seed_and_step_only():
    data = table(9, 4, 30, 6, 2)
    options = {"images_per_class": 2, "class_weight": "size"}
    one, two, other = (ClassesPerBatch(data, 6, seed, **options) for seed in (7, 7, 8))
    for step in (50, 1, 12, 0):
        np.testing.assert_array_equal(one.batch(step), two.batch(step))
    assert (epoch(one) != epoch(other)).any()
    assert (epoch(one, 0) != epoch(one, 1)).any()
    everything = ClassesPerBatch(data, 10, 0, **options)
    assert all(set(data.label[batch]) == set(range(5)) for batch in epoch(everything))
    with pytest.raises(ValueError, match="class_weight='even': must be equal or size"):
        ClassesPerBatch(data, 6, 0, class_weight="even", images_per_class=2)


def test_classes_of_one_image_are_left_out_and_named(caplog):
    data = table(1, 5, 1, 5, 5)
    with caplog.at_level(logging.WARNING):
        sampler = ClassesPerBatch(data, 4, seed=0, images_per_class=2)
    assert "2 of 5 classes" in caplog.text
    assert "'0', '2'" in caplog.text
    assert set(data.label[epoch(sampler)].ravel().tolist()) == {1, 3, 4}


@pytest.mark.parametrize(
    ("sizes", "batch_size", "message"),
    [
        ((5, 5, 5), 10, "batch_size=10 .*images_per_class=4.*multiple of 4"),
        ((5, 5, 5), 4, "from 8 on"),
        ((5, 5, 5), 0, "from 8 on"),
        ((5, 5), 12, "needs 3 classes.*has 2;"),
        ((5, 5, 1, 1), 12, "has 2, and 2 with one: '2', '3'"),
        ((1,) * 9, 8, "has 0, and 9 with one: '0', '1', '2', ..."),
        ((), 8, "has 0;"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(sizes, batch_size, message):
    with pytest.raises(UserError, match=message) as error:
        ClassesPerBatch(table(*sizes), batch_size, 0)
    assert "\n" not in str(error.value)


def test_one_image_of_a_class_forms_no_pair():
    with pytest.raises(ValueError, match="images_per_class=1"):
        ClassesPerBatch(table(5, 5), 8, 0, images_per_class=1)

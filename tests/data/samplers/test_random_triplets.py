import logging
from collections import Counter

import numpy as np
import pytest

from trainer.config import UserError
from trainer.data import ItemTable
from trainer.data.samplers.random_triplets import RandomTriplets


def table(*sizes: int) -> ItemTable:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return ItemTable.from_columns([f"{i}.jpg" for i in range(len(labels))], labels)


def epoch(sampler, number: int = 0) -> np.ndarray:
    steps = sampler.steps_per_epoch
    return np.concatenate([sampler.batch(number * steps + step) for step in range(steps)]).reshape(
        -1, 3
    )


def test_every_triplet_is_valid_and_every_class_has_its_share():
    data = table(2, 3, 9, 30)
    sampler = RandomTriplets(data, 2, seed=1, per_class=6)
    assert (sampler.rows_per_batch, sampler.steps_per_epoch) == (6, 12)
    for number in range(5):
        triplets = epoch(sampler, number)
        labels = data.label[triplets]
        assert (labels[:, 0] == labels[:, 1]).all()
        assert (labels[:, 0] != labels[:, 2]).all()
        assert (triplets[:, 0] != triplets[:, 1]).all()
        assert Counter(labels[:, 0].tolist()) == {0: 6, 1: 6, 2: 6, 3: 6}
        for code, size in ((2, 6), (3, 6), (1, 3), (0, 2)):
            assert len(set(triplets[labels[:, 0] == code, 0].tolist())) == size


def test_positives_and_negatives_are_uniform():
    data = table(4, 3, 2)
    sampler = RandomTriplets(data, 1, seed=2, per_class=4)
    drawn = np.concatenate([epoch(sampler, number) for number in range(1500)])
    of_first = drawn[data.label[drawn[:, 0]] == 0]
    for column, expected in ((0, 4), (1, 4), (2, 5)):
        counts = np.array(list(Counter(of_first[:, column].tolist()).values()))
        assert len(counts) == expected
        share = len(of_first) / expected
        assert np.abs(counts - share).max() < 4.5 * np.sqrt(share), counts


def test_epochs_differ_and_batches_repeat():
    data = table(5, 5, 5)
    one, two, other = (RandomTriplets(data, 4, seed=s) for s in (0, 0, 1))
    assert (epoch(one, 0) != epoch(one, 1)).any()
    for step in (30, 3, 0, 17):
        np.testing.assert_array_equal(one.batch(step), two.batch(step))
    assert (epoch(one) != epoch(other)).any()


def test_a_class_of_one_image_gives_negatives_only(caplog):
    data = table(1, 4, 4)
    with caplog.at_level(logging.WARNING):
        sampler = RandomTriplets(data, 1, seed=0, per_class=50)
    assert "1 of 3 classes" in caplog.text
    assert "'0'" in caplog.text
    labels = data.label[epoch(sampler)]
    assert 0 not in labels[:, :2]
    assert 0 in labels[:, 2]


@pytest.mark.parametrize(
    ("sizes", "batch_size", "message"),
    [
        ((9,), 1, "2 classes or more.*has 1: '0'"),
        ((), 1, "has 0: no images"),
        ((1, 1, 1), 1, "all 3 classes"),
        ((4, 4), 11, "batch_size=11 triplets.*1 to 10"),
        ((4, 4), 0, "batch_size=0"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(sizes, batch_size, message):
    with pytest.raises(UserError, match=message) as error:
        RandomTriplets(table(*sizes), batch_size, 0)
    assert "\n" not in str(error.value)


def test_per_class_is_at_least_one():
    with pytest.raises(ValueError, match="per_class=0"):
        RandomTriplets(table(3, 3), 1, 0, per_class=0)

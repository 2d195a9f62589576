import numpy as np
import pytest

from trainer.config import UserError
from trainer.data import ItemTable
from trainer.data.samplers.shuffled import Shuffled


def table(count: int) -> ItemTable:
    return ItemTable.from_columns([f"{i}.jpg" for i in range(count)], range(count))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 20])
def test_an_epoch_shows_every_image_once(batch_size):
    sampler = Shuffled(table(20), batch_size, seed=1)
    assert sampler.steps_per_epoch == 20 // batch_size
    assert sampler.rows_per_batch == batch_size
    orders = []
    for epoch in range(3):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        rows = np.concatenate([sampler.batch(step) for step in steps])
        assert rows.dtype == np.int64
        assert sorted(rows.tolist()) == list(range(20))
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_what_is_left_of_an_epoch_goes_into_the_first_batch_of_the_next():
    sampler = Shuffled(table(10), 4, seed=0)
    assert sampler.steps_per_epoch == 2
    rows = np.concatenate([sampler.batch(step) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))


def test_a_batch_depends_on_seed_and_step_only():
    one, again, other = (Shuffled(table(30), 7, seed) for seed in (3, 3, 4))
    for step in (40, 2, 0, 17):
        np.testing.assert_array_equal(one.batch(step), again.batch(step))
    assert any((one.batch(step) != other.batch(step)).any() for step in range(4))


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_larger_than_the_split_is_refused(batch_size):
    with pytest.raises(UserError, match=f"batch_size={batch_size} images, .* gives 5 of them"):
        Shuffled(table(5), batch_size, 0)

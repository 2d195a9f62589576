import numpy as np
import pytest

from trainer.config import UserError, get
from trainer.data import ItemTable
from trainer.data.samplers.triplets import Triplets


def table(triplets) -> ItemTable:
    rows = 1 + max((max(t) for t in triplets), default=0)
    return ItemTable.from_columns(
        [f"{i}.jpg" for i in range(rows)],
        range(rows),
        triplets=np.array(triplets, int).reshape(-1, 3),
    )


LISTED = [(3 * i, 3 * i + 1, 3 * i + 2) for i in range(7)]


def test_file_order_goes_on_into_the_next_epoch_without_leaving_any_out():
    sampler = Triplets(table(LISTED), 3, seed=0)
    assert (sampler.rows_per_batch, sampler.steps_per_epoch) == (9, 2)
    seen = np.concatenate([sampler.batch(step) for step in range(7)])
    assert seen.dtype == np.int64
    np.testing.assert_array_equal(seen, np.arange(21).tolist() * 3)


def test_shuffled_epochs_hold_every_triplet_once_in_another_order():
    sampler = Triplets(table(LISTED), 1, seed=4, shuffle=True)
    epochs = [
        [tuple(sampler.batch(7 * epoch + step).tolist()) for step in range(7)] for epoch in range(3)
    ]
    assert all(sorted(epoch) == LISTED for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_depends_on_seed_and_step_only():
    one, two, other = (Triplets(table(LISTED), 3, seed=s, shuffle=True) for s in (5, 5, 6))
    steps = [40, 0, 13, 2, 40]
    np.testing.assert_array_equal([one.batch(s) for s in steps], [two.batch(s) for s in steps])
    assert any((one.batch(s) != other.batch(s)).any() for s in steps)
    np.testing.assert_array_equal(
        Triplets(table(LISTED), 3, 5, shuffle=True).batch(13), one.batch(13)
    )


def test_no_listed_triplets_names_the_samplers_that_need_none():
    with pytest.raises(UserError, match="random_triplets"):
        Triplets(table([]), 1, 0)


@pytest.mark.parametrize("batch_size", [0, -3, 8])
def test_a_batch_size_that_cannot_be_filled_is_refused(batch_size):
    with pytest.raises(UserError, match=rf"batch_size={batch_size} triplets.*1 to 7"):
        Triplets(table(LISTED), batch_size, 0)


def test_the_config_knows_it():
    assert get("sampler", "triplets").tags == {"gives": "triplets"}
    assert get("sampler", "triplets").check({"shuffle": "yes"}) == {"shuffle": True}


def test_batches_across_epochs_leave_none_out_and_repeat_none():
    sampler = Triplets(table(LISTED), 3, seed=1, shuffle=True)
    stream = np.concatenate([sampler.batch(step).reshape(-1, 3) for step in range(7)])
    for begin in (0, 7, 14):
        assert sorted(map(tuple, stream[begin : begin + 7].tolist())) == LISTED

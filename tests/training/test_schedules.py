"""Learning-rate schedules against the formulas written out."""

import math

import keras
import numpy as np
import pytest

from trainer.config import components
from trainer.training import schedules

LR, TOTAL, EPOCH = 0.1, 100, 10


def rates(schedule, steps=range(TOTAL)):
    return [float(schedule(step)) for step in steps]


def test_constant_holds_after_a_linear_warm_up():
    found = rates(schedules.constant(LR, TOTAL, EPOCH, warmup_steps=4))
    assert found[:4] == pytest.approx([LR / 4, LR / 2, 3 * LR / 4, LR])
    assert found[4:] == pytest.approx([LR] * 96)


def test_step_changes_at_shares_and_at_step_numbers():
    by_share = rates(schedules.step(LR, TOTAL, EPOCH, boundaries=(0.5, 0.75), factor=0.1))
    by_number = rates(schedules.step(LR, TOTAL, EPOCH, boundaries=(50.0, 75.0), factor=0.1))
    expected = [LR] * 50 + [LR / 10] * 25 + [LR / 100] * 25
    assert by_share == pytest.approx(expected)
    assert by_number == pytest.approx(expected)


def test_step_boundaries_count_from_the_end_of_the_warm_up():
    found = rates(schedules.step(LR, TOTAL, EPOCH, boundaries=(20.0,), warmup_steps=10))
    assert found[29] == pytest.approx(LR)
    assert found[30] == pytest.approx(LR / 10)


def test_exponential_is_a_power_of_the_steps():
    found = rates(schedules.exponential(LR, TOTAL, EPOCH, rate=0.5))
    assert found == pytest.approx([LR * 0.5 ** (step / EPOCH) for step in range(TOTAL)], rel=1e-5)
    stairs = rates(schedules.exponential(LR, TOTAL, EPOCH, rate=0.5, every=20, staircase=True))
    assert stairs == pytest.approx([LR * 0.5 ** (step // 20) for step in range(TOTAL)], rel=1e-5)


def test_cosine_reaches_the_final_rate_with_the_last_step():
    found = rates(schedules.cosine(LR, TOTAL, EPOCH, final_lr=0.01, warmup_steps=10), range(101))
    after = [0.01 + 0.09 * (1 + math.cos(math.pi * s / 90)) / 2 for s in range(91)]
    assert found[10:] == pytest.approx(after, rel=1e-5)
    assert found[100] == pytest.approx(0.01)


def test_cosine_by_epoch_changes_only_between_epochs():
    found = rates(schedules.cosine(LR, TOTAL, EPOCH, by_epoch=True))
    for epoch in range(TOTAL // EPOCH):
        same = found[epoch * EPOCH : (epoch + 1) * EPOCH]
        assert same == pytest.approx([LR * (1 + math.cos(math.pi * epoch / 10)) / 2] * EPOCH)


def test_cosine_by_epoch_is_that_of_pytorch():
    # torch.optim.lr_scheduler.CosineAnnealingLR(T_max=15, eta_min=1e-8) from 1e-4, PyTorch 2.13
    expected = [
        1e-4, 9.890748929868662e-05, 9.567770515484182e-05, 9.04518046337755e-05,
        8.345818466491112e-05, 7.50025e-05, 6.545430463377551e-05, 5.523090052106636e-05,
        4.477909947893369e-05, 3.455569536622452e-05, 2.5007500000000018e-05,
        1.6551815335088904e-05, 9.55819536622451e-06, 4.332294845158165e-06, 1.1025107013133848e-06,
    ]  # fmt: skip
    schedule = schedules.cosine(1e-4, 15 * EPOCH, EPOCH, final_lr=1e-8, by_epoch=True)
    steps = [step for epoch in range(15) for step in (epoch * EPOCH, epoch * EPOCH + EPOCH - 1)]
    assert rates(schedule, steps) == pytest.approx(np.repeat(expected, 2), rel=1e-4)


def test_a_scaled_schedule_is_the_same_curve_times_the_factor():
    schedule = schedules.cosine(LR, TOTAL, EPOCH, warmup_steps=5)
    assert rates(schedule.scaled(0.01)) == pytest.approx([r * 0.01 for r in rates(schedule)])


@pytest.mark.parametrize("name", sorted(set(components("schedule")) - {"custom"}))
def test_every_schedule_survives_serialization(name):
    schedule = components("schedule")[name].build(LR, TOTAL, EPOCH, warmup_steps=7)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert rates(again) == rates(schedule)
    assert all(rate >= 0 for rate in rates(schedule))


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (schedules.step, {"boundaries": (0.7, 0.5)}),
        (schedules.step, {"factor": 0.0}),
        (schedules.exponential, {"rate": -1.0}),
        (schedules.exponential, {"every": 0}),
        (schedules.cosine, {"final_lr": 1.0}),
        (schedules.constant, {"warmup_steps": -1}),
    ],
)
def test_values_out_of_range_are_refused(build, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        build(LR, TOTAL, EPOCH, **parameters)


def test_step_takes_rates_one_by_one():
    found = rates(schedules.step(LR, TOTAL, EPOCH, boundaries=(20.0, 60.0), values=(0.3, 0.0, 2.0)))
    assert found == pytest.approx([0.3] * 20 + [0.0] * 40 + [2.0] * 40)
    for values in ((0.3, 0.1), (0.3, 0.1, -0.1)):
        with pytest.raises(ValueError, match="one more than the 2 boundaries"):
            schedules.step(LR, TOTAL, EPOCH, boundaries=(20.0, 60.0), values=values)


@pytest.fixture
def own_rates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_rates.py").write_text(
        "from keras import ops\n\n"
        "def saw(step):\n"
        "    if step < 30:\n"
        "        return 0.5\n"
        "    return 1.0 / ops.cast(step, 'float32')\n\n"
        "def negative(step):\n    return -1.0\n\n"
        "def broken(step):\n    raise RuntimeError('no rate today')\n"
    )


def test_a_function_of_ones_own_gives_the_rate(own_rates):
    schedule = schedules.custom(LR, TOTAL, EPOCH, function="own_rates.saw", warmup_steps=10)
    found = rates(schedule)
    after = [0.5] * 30 + [1 / step for step in range(30, 90)]
    assert found[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert found[10:] == pytest.approx(after)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert rates(again.scaled(2.0)) == pytest.approx([2 * rate for rate in found])


@pytest.mark.parametrize(
    ("name", "message"),
    [("negative", "gives -1 for step 0"), ("broken", "RuntimeError: .*no rate today")],
)
def test_a_function_that_gives_no_rate_is_refused_at_once(own_rates, name, message):
    with pytest.raises(ValueError, match=f"function=own_rates.{name}:? {message}"):
        schedules.custom(LR, TOTAL, EPOCH, function=f"own_rates.{name}")

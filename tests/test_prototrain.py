"""The guide for who comes from Prototrain names every key of its tables, and none that is not."""

import re
from pathlib import Path

import pytest

from trainer.config import JobConfig

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "prototrain.md"

BASE = {"model_id": "mildnet_mobilenet", "loss": "triplet_semihard"}

#: Every key of the tables in Prototrain's README -> what a config here sets in its place.
KEYS = {
    "trainer.experiment_base_dir": {"job_dir": "elsewhere"},
    "trainer.experiment_name": {"name": "exp-hn-evergreen-01"},
    "trainer.validation_step_interval": {"train.validate_every": 500},
    "trainer.summary_save_interval": {"train.summary_every": 100},
    "trainer.print_interval": {"train.log_every": 10},
    "trainer.checkpoint_save_interval": {"train.checkpoint_every": 1000},
    "trainer.max_checkpoints_to_keep": {"train.keep": 5},
    "trainer.random_seed": {"seed": 7},
    "model.weights_load_path": {"init_from": "runs/before", "init_match": "matching"},
    "model.batch_size": {"batch_size": 64},
    "model.num_steps": {"steps": 250000},
    "model.trainable_variables.filter_fn": {"train.trainable_function": "levers.head"},
    "model.trainable_variables.filter_regex": {"train.trainable": "^project/"},
    "model.weight_decay.filter_fn": {"train.decay_function": "levers.matrices"},
    "model.weight_decay.filter_regex": {"train.decay_only": "kernel"},
    "model.clip_gradients": {"train.clip_value": 1.0},
    "model.clip_gradients.minval": {"train.clip_range": (-1.0, 2.0)},
    "model.clip_gradients.maxval": {"train.clip_range": (-1.0, 2.0)},
    "model.optimizer.method": {"optimizer": "rms"},
    "model.optimizer.msgd.momentum": {"optimizer": "mo", "optimizer.momentum": 0.8},
    "model.optimizer.msgd.use_nesterov": {"optimizer": "mo", "optimizer.nesterov": False},
    "model.optimizer.adam.beta1": {"optimizer": "adam", "optimizer.beta_1": 0.8},
    "model.optimizer.adam.beta2": {"optimizer": "adam", "optimizer.beta_2": 0.99},
    "model.optimizer.adam.epsilon": {"optimizer": "adam", "optimizer.epsilon": 1e-4},
    "model.optimizer.rmsprop.decay": {"optimizer": "rms", "optimizer.rho": 0.8},
    "model.optimizer.rmsprop.momentum": {"optimizer": "rms", "optimizer.momentum": 0.5},
    "model.optimizer.rmsprop.epsilon": {"optimizer": "rms", "optimizer.epsilon": 1e-3},
    "model.lr_schedule.method": {"schedule": "exponential"},
    "model.lr_schedule.step.boundaries": {"schedule": "step", "schedule.boundaries": (5e4, 9e4)},
    "model.lr_schedule.step.values": {"schedule": "step", "schedule.values": (1e-2, 1e-3, 1e-4)},
    "model.lr_schedule.constant.value": {"schedule": "constant", "lr": 0.002},
    "model.lr_schedule.exp.value": {"schedule": "exponential", "lr": 0.003},
    "model.lr_schedule.exp.decay_rate": {"schedule": "exponential", "schedule.rate": 0.9},
    "model.lr_schedule.exp.decay_steps": {"schedule": "exponential", "schedule.every": 1000},
    "model.lr_schedule.custom.fn": {"schedule": "custom", "schedule.function": "levers.rate"},
}


def rows():
    """The guide's tables: old key -> the new keys named beside it."""
    found = {}
    for line in GUIDE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 3 and re.match(r"`(trainer|model)\.", cells[0]):
            old = cells[0].strip("`")
            assert old not in found, f"{old} has two rows"
            found[old] = (re.findall(r"`([^`]+)`", cells[1]), cells[2])
    return found


def test_the_tables_have_a_row_for_every_key_and_no_other():
    assert list(rows()) == sorted(KEYS, key=list(rows()).index)
    assert set(rows()) == set(KEYS)


@pytest.mark.parametrize("old", KEYS)
def test_the_key_that_a_row_names_takes_the_value(old):
    wanted = KEYS[old]
    ((named,), remark) = rows()[old]
    assert named in wanted
    # A second key is part of the row, but for the choice of the component that has the first.
    for key in set(wanted) - {named, "optimizer", "schedule"}:
        assert f"`{key}={wanted[key]}`" in remark
    config = JobConfig.from_mapping({**BASE, **wanted}).to_dict()
    for key, value in wanted.items():
        assert config[key] == (list(value) if isinstance(value, tuple) else value)


def test_names_of_optimizers_and_schedules_are_told():
    optimizer, schedule = (rows()[f"model.{key}.method"][1] for key in ("optimizer", "lr_schedule"))
    for old, new in (("msgd", "mo"), ("rmsprop", "rms"), ("sgd", "sgd"), ("adam", "adam")):
        assert f"`{old}`" in optimizer
        JobConfig.from_mapping({**BASE, "optimizer": new})
    for old in ("exp", "step", "constant", "custom"):
        assert f"`{old}`" in schedule

"""The table of variables: what is trained, what decays, and how long tables are put together."""

import csv
import io
import re

import keras
import pytest
from rich.console import Console

from trainer.config.train_options import TrainOptions
from trainer.launch.run_folder import RunFolder
from trainer.launch.variables import (
    MOST_ROWS,
    Variable,
    list_variables,
    show_variables,
    write_variables,
)
from trainer.losses.proxy_anchor import ProxyAnchor
from trainer.training.groups import parameter_groups
from trainer.training.strategy import get_strategy


def net(width=4):
    numbers = keras.Input((3,))
    x = keras.layers.Dense(width, name="trunk_dense")(numbers)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(numbers, keras.layers.Dense(2, name="head")(x))


def rows(model, loss=None, optimizer=None, l2_penalty=0.0, **options):
    def build(scale):
        return (optimizer or keras.optimizers.AdamW)(0.1 * scale)

    trunk = {"trunk_dense/kernel", "trunk_dense/bias"}
    groups = parameter_groups(model, loss, build, TrainOptions(**options), trunk=trunk)
    found = list_variables(model, loss, groups, l2_penalty=l2_penalty)
    return {v.path: (v.shape, v.trained, v.decays) for v in found}


def test_the_table_tells_what_the_optimizers_do():
    assert rows(net()) == {
        "trunk_dense/kernel": ((3, 4), True, True),
        "trunk_dense/bias": ((4,), True, False),
        "norm/gamma": ((4,), True, False),
        "norm/beta": ((4,), True, False),
        "norm/moving_mean": ((4,), False, False),
        "norm/moving_variance": ((4,), False, False),
        "head/kernel": ((4, 2), True, True),
        "head/bias": ((2,), True, False),
    }


@pytest.mark.parametrize(
    ("options", "trained", "decays"),
    [
        ({"trainable": "head"}, {"head/kernel", "head/bias"}, {"head/kernel"}),
        (
            {"trainable": "head", "decay_exclude": "ker"},
            {"head/kernel", "head/bias"},
            {"head/bias"},
        ),
        ({"trunk_lr_scale": 0.0, "trainable": "kernel"}, {"head/kernel"}, {"head/kernel"}),
        (
            {"trunk_lr_scale": 0.1, "trainable": "kernel"},
            {"head/kernel", "trunk_dense/kernel"},
            {"head/kernel", "trunk_dense/kernel"},
        ),
    ],
)
def test_it_follows_the_options(options, trained, decays):
    found = rows(net(), **options)
    assert {path for path, row in found.items() if row[1]} == trained
    assert {path for path, row in found.items() if row[2]} == decays


def test_what_moves_decays_as_the_table_says():
    """The oracle: one update with no gradient moves exactly the weights that decay."""
    model = net()
    model.set_weights([weight + 1 for weight in model.get_weights()])
    groups = parameter_groups(model, None, lambda scale: keras.optimizers.AdamW(0.1 * scale))
    told = {v.path for v in list_variables(model, None, groups) if v.decays}
    before = {w.path: w.numpy().copy() for w in model.weights}
    for optimizer, weights in groups:
        optimizer.build(weights)
        optimizer.apply([keras.ops.zeros_like(weight) for weight in weights], weights)
    moved = {w.path for w in model.weights if (w.numpy() != before[w.path]).any()}
    assert moved == told == {"trunk_dense/kernel", "head/kernel"}


def test_without_decay_nothing_decays_but_by_the_gradient():
    assert not any(row[2] for row in rows(net(), optimizer=keras.optimizers.SGD).values())
    found = rows(net(), optimizer=keras.optimizers.SGD, l2_penalty=0.1)
    assert {path for path, row in found.items() if row[2]} == {"trunk_dense/kernel", "head/kernel"}


def test_weights_of_the_loss_are_in_it():
    loss = ProxyAnchor()
    loss.prepare([3, 5, 7], 2)
    found = rows(net(), loss)
    (path,) = [path for path in found if path.startswith("loss/")]
    assert found[path][:2] == ((3, 2), True)
    assert not rows(net(), loss, loss_lr_scale=0.0)[path][1]


def test_a_copy_on_each_replica_names_its_device():
    with get_strategy("mirrored", 2).scope():
        model = net()
    assert {v.device for v in list_variables(model, None, [])} == {"CPU:0 CPU:1"}
    assert {v.device for v in list_variables(net(), None, [])} == {"CPU:0"}


def many(blocks):
    made = [
        Variable(f"stage{s}_block{b}_{layer}/{name}", (2, 3), s > 0, name == "kernel", "GPU:0")
        for s in range(2)
        for b in range(blocks)
        for layer in ("conv", "dense")
        for name in ("kernel", "bias")
    ]
    return [*made, Variable("scale", (), True, False, "GPU:0")]


def printed(variables):
    console = Console(file=io.StringIO(), width=200)
    show_variables(variables, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_short_table_has_a_row_for_each_variable():
    header, *lines = printed(many(2))
    assert header.split() == ["variable", "shape", "parameters", "trained", "decays", "device"]
    assert lines[0].split() == [
        "stage0_block0_conv/kernel", "2", "x", "3", "6", "no", "yes", "GPU:0",
    ]  # fmt: skip
    assert lines[16].split() == ["scale", "()", "1", "yes", "no", "GPU:0"]
    assert lines[17] == (
        "97 parameters in 17 variables: 49 trained (in 9), 48 that decay (in 8), "
        "48 not trained (in 8)"
    )


def test_a_long_table_puts_like_names_together_and_loses_no_parameter(tmp_path):
    variables = many(19)
    lines = printed(variables)[1:]
    assert len(lines) == 39 + 2
    assert re.split("  +", lines[0]) == [
        "stage0_block0_...", "4 variables", "24", "no", "2 of 4", "GPU:0",
    ]  # fmt: skip
    assert lines[38].split()[0] == "scale"
    assert sum(int(line.split("variables")[-1].split()[0]) for line in lines[:38]) == 2 * 19 * 24
    assert lines[-1] == "each variable has its row in variables.csv of the run folder"
    write_variables(variables, RunFolder(str(tmp_path)))
    with open(tmp_path / "variables.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["variable"] for row in table] == [v.path for v in variables]
    assert table[0] == {
        "variable": "stage0_block0_conv/kernel", "shape": "2 x 3", "parameters": "6",
        "trained": "no", "decays": "yes", "device": "GPU:0",
    }  # fmt: skip


def test_the_longest_tables_stay_short():
    assert len(printed(many(300))) - 3 <= MOST_ROWS

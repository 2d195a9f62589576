"""Optimizers against one or two updates worked by hand."""

import keras
import numpy as np
import pytest

from trainer.config import components, get


def updates(name, gradients, start=1.0, lr=0.1, **parameters):
    optimizer = get("optimizer", name).build(lr, **parameters)
    weight = keras.Variable(np.array([start], np.float32))
    optimizer.build([weight])
    values = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.array([gradient], np.float32))], [weight])
        values.append(float(keras.ops.convert_to_numpy(weight)[0]))
    return values


def test_mo_is_nesterov_momentum():
    # v = 0.9 v - lr g;  w += 0.9 v - lr g
    assert updates("mo", [1.0, 1.0]) == pytest.approx([0.81, 0.539])


def test_sgd_is_plain():
    assert updates("sgd", [1.0, 2.0]) == pytest.approx([0.9, 0.7])


def test_rms_divides_by_the_root_mean_square():
    # mean = 0.1 g^2, then 0.9 * 0.1 + 0.1
    expected = [1 - 0.1 / 0.1**0.5, 1 - 0.1 / 0.1**0.5 - 0.1 / 0.19**0.5]
    assert updates("rms", [1.0, 1.0]) == pytest.approx(expected, rel=1e-4)


def test_adam_takes_steps_of_the_learning_rate_under_a_constant_gradient():
    assert updates("adam", [3.0, 3.0]) == pytest.approx([0.9, 0.8], rel=1e-4)


def test_adamw_shrinks_the_weight_first():
    # 1 - 0.1 * 0.01 from decay, then the step of Adam
    assert updates("adamw", [3.0]) == pytest.approx([0.999 - 0.1], rel=1e-4)


@pytest.mark.parametrize("name", components("optimizer"))
def test_weight_decay_is_decoupled_everywhere(name):
    plain = updates(name, [1.0], weight_decay=0.0)[0]
    decayed = updates(name, [1.0], weight_decay=0.5)[0]
    assert plain - decayed == pytest.approx(0.1 * 0.5 * 1.0, rel=1e-4)


@pytest.mark.parametrize("name", components("optimizer"))
def test_a_negative_weight_decay_is_refused(name):
    with pytest.raises(ValueError, match="weight_decay"):
        get("optimizer", name).build(0.1, weight_decay=-1.0)

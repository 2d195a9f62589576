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


#: Gradients that grow, shrink and change their sign; the small ones are of the size of epsilon.
LARGE = [1e-2, -3e-1, 2e-8, 1e-3, -1e-9]
TINY = [2e-8, 1e-8, -5e-9, 1e-7, 2e-9]


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        # torch.optim.AdamW([1.0], lr=0.1, eps=1e-8, weight_decay=0.01, amsgrad=True), PyTorch 2.13
        (LARGE, [0.8990001, 0.97024234, 1.02500959, 1.06942491, 1.10674371]),
        (TINY, [0.93233333, 0.87430141, 0.84133158, 0.78445856, 0.73635664]),
    ],
    ids=["large", "tiny"],
)
def test_adamw_with_the_published_epsilon_is_that_of_pytorch(gradients, expected):
    found = updates("adamw", gradients, amsgrad=True, published_epsilon=True)
    assert found == pytest.approx(expected, rel=1e-5)
    # By hand: the largest second moment is kept before it is corrected.
    weight, first, second, largest = 1.0, 0.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        weight *= 1 - 0.1 * 0.01
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        largest = max(largest, second)
        root = (largest / (1 - 0.999**step)) ** 0.5
        weight -= 0.1 * first / (1 - 0.9**step) / (root + 1e-8)
        assert weight == pytest.approx(expected[step - 1], abs=1e-8)


def test_the_epsilon_of_keras_holds_back_tiny_gradients_only():
    large = [updates("adamw", LARGE, amsgrad=True, published_epsilon=p) for p in (False, True)]
    tiny = [updates("adamw", TINY, amsgrad=True, published_epsilon=p) for p in (False, True)]
    assert large[0] == pytest.approx(large[1], abs=1e-5)
    assert tiny[0][0] == pytest.approx(0.99305, abs=1e-5)
    assert tiny[1][0] == pytest.approx(0.93233, abs=1e-5)


@pytest.mark.parametrize("name", components("optimizer"))
def test_weight_decay_is_decoupled_everywhere(name):
    plain = updates(name, [1.0], weight_decay=0.0)[0]
    decayed = updates(name, [1.0], weight_decay=0.5)[0]
    assert plain - decayed == pytest.approx(0.1 * 0.5 * 1.0, rel=1e-4)


@pytest.mark.parametrize("name", components("optimizer"))
def test_a_negative_weight_decay_is_refused(name):
    with pytest.raises(ValueError, match="weight_decay"):
        get("optimizer", name).build(0.1, weight_decay=-1.0)

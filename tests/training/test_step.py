"""One step against plain gradients computed beside it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import losses
from trainer.config import TrainOptions, UserError
from trainer.training.averaging import WeightAverage
from trainer.training.groups import DEFAULTS, decays, parameter_groups
from trainer.training.loop import fit
from trainer.training.step import TrainStep
from trainer.training.strategy import get_strategy, replica_slices

from . import tasks

LR = 0.1


def plain_gradients(model, loss, numbers):
    """Gradients of the mean loss over batches, straight from a tape."""
    with tf.GradientTape() as tape:
        values = []
        for number in numbers:
            images, labels = tasks.batch_arrays(number)
            values.append(loss(labels, model(images, training=True)))
        mean = tf.add_n(values) / len(values)
    return float(mean), tape.gradient(mean, [v.value for v in model.trainable_variables])


def step_with_sgd(numbers=(0,), loss=None, chosen=DEFAULTS, **options):
    """Run one step of plain SGD; return model before and after, reported numbers, gradients."""
    keras.utils.set_random_seed(5)
    model = tasks.small_model(norm=False)
    loss = loss or losses.get("triplet_semihard", margin=0.2)
    mean, gradients = plain_gradients(model, loss, numbers)
    before = [np.array(v.numpy()) for v in model.trainable_variables]
    groups = parameter_groups(model, loss, lambda scale: keras.optimizers.SGD(LR * scale), chosen)
    step = TrainStep(model, loss, groups=groups, accumulate=len(numbers), **options)
    batches = iter(tasks.batches(tf.distribute.get_strategy(), numbers[0], numbers[-1] + 1))
    numbers = step.run(batches)
    found = {name: float(numbers[name]) for name in ("loss", "gradient_norm")}
    after = [np.array(v.numpy()) for v in model.trainable_variables]
    return (
        mean,
        [np.array(g) for g in gradients],
        [b - a for a, b in zip(after, before, strict=True)],
        found,
    )


def norm_of(gradients):
    return float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients)))


def assert_moved(moved, expected):
    for change, gradient in zip(moved, expected, strict=True):
        np.testing.assert_allclose(change, LR * gradient, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"xla": True}, {"numbers": (0, 1, 2)}], ids=str)
def test_a_step_follows_the_gradient_of_the_mean_loss(options):
    mean, gradients, moved, found = step_with_sgd(**options)
    assert found["loss"] == pytest.approx(mean, rel=1e-5)
    assert found["gradient_norm"] == pytest.approx(norm_of(gradients), rel=1e-4)
    assert norm_of(gradients) > 0.01
    assert_moved(moved, gradients)


def test_clip_norm_shortens_the_whole_gradient():
    _, gradients, moved, found = step_with_sgd(clip_norm=0.01)
    norm = norm_of(gradients)
    assert found["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert_moved(moved, [g * 0.01 / norm for g in gradients])


def test_clip_value_bounds_each_entry():
    _, gradients, moved, _ = step_with_sgd(clip_range=(-0.001, 0.001))
    assert max(np.abs(g).max() for g in gradients) > 0.001
    assert_moved(moved, [np.clip(g, -0.001, 0.001) for g in gradients])


def test_penalties_of_layers_are_part_of_the_gradient():
    model = keras.Sequential(
        [
            keras.Input((tasks.SIDE, tasks.SIDE, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.5), use_bias=False),
            keras.layers.UnitNormalization(),
        ]
    )

    class Zero(keras.losses.Loss):
        def __call__(self, labels, embeddings, sample_weight=None):
            return 0.0 * tf.reduce_sum(embeddings)

    before = np.array(model.trainable_variables[0].numpy())
    groups = parameter_groups(model, Zero(), lambda scale: keras.optimizers.SGD(LR))
    step = TrainStep(model, Zero(), groups=groups)
    step.run(iter(tasks.batches(tf.distribute.get_strategy(), 0, 1)))
    after = np.array(model.trainable_variables[0].numpy())
    np.testing.assert_allclose(after, before * (1 - LR * 2 * 0.5), rtol=1e-5)


@pytest.mark.parametrize(("rows", "count"), [(2, 6), (3, 4)])
def test_pairs_and_triplets_reach_the_loss_with_a_label_each(rows, count):
    seen = []
    images, labels = tasks.batch_arrays(0)
    first = labels[:12]

    class Spy(keras.losses.Loss):
        def __call__(self, labels, embeddings, sample_weight=None):
            seen.append((tuple(labels.shape), tuple(embeddings.shape)))
            tf.debugging.assert_equal(labels, first[::rows])
            return tf.reduce_sum(embeddings[:, 0] * embeddings[:, 1])

    model = tasks.small_model(norm=False)
    groups = parameter_groups(model, Spy(), lambda scale: keras.optimizers.SGD(LR))
    step = TrainStep(model, Spy(), example_rows=rows, groups=groups)
    batch = {"image": images[:12], "label": first}
    step.run(iter(tf.data.Dataset.from_tensors(batch)))
    assert seen == [((count,), (count, rows, 8))]


def test_an_overflow_in_float16_halves_the_scale_and_changes_no_weight():
    model = tasks.small_model(norm=False)
    loss = losses.get("triplet_semihard", margin=0.2)
    groups = parameter_groups(model, loss, lambda scale: keras.optimizers.SGD(LR))
    step = TrainStep(model, loss, groups=groups, scale_loss=True)
    start = float(step.scale.numpy())
    before = [np.array(v.numpy()) for v in model.trainable_variables]
    images, labels = tasks.batch_arrays(0)
    bad = {"image": np.full_like(images, np.inf), "label": labels}
    step.run(iter(tf.data.Dataset.from_tensors(bad)))
    assert float(step.scale.numpy()) == start / 2
    for value, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    step.run(iter(tf.data.Dataset.from_tensors({"image": images, "label": labels})))
    assert any(
        not np.array_equal(value, variable.numpy())
        for value, variable in zip(before, model.trainable_variables, strict=True)
    )


def test_the_average_follows_the_weights():
    model = tasks.small_model(norm=False)
    average = WeightAverage(model.trainable_variables, 0.75)
    start = np.array(average.shadows[0].numpy())
    model.trainable_variables[0].assign(start + 1)
    average.update()
    np.testing.assert_allclose(average.shadows[0].numpy(), start + 0.25, atol=1e-6)
    with average.in_place():
        np.testing.assert_allclose(model.trainable_variables[0].numpy(), start + 0.25, atol=1e-6)
    np.testing.assert_allclose(model.trainable_variables[0].numpy(), start + 1, atol=1e-6)
    with pytest.raises(ValueError, match="ema is 1"):
        WeightAverage(model.trainable_variables, 1.0)


def test_groups_scale_the_trunk_and_keep_decay_off_what_is_excluded():
    model = tasks.small_model()
    trunk = {v.path for v in model.variables if v.path.startswith("conv")}
    groups = parameter_groups(
        model,
        None,
        lambda scale: keras.optimizers.SGD(LR * scale, weight_decay=0.5),
        TrainOptions(decay_exclude="bias|gamma|beta", trunk_lr_scale=0.1),
        trunk=trunk,
    )
    before = {v.path: np.array(v.numpy()) for v in model.trainable_variables}
    for optimizer, members in groups:
        optimizer.apply([tf.ones(v.shape) for v in members], members)
    for variable in model.trainable_variables:
        lr = LR * 0.1 if variable.path in trunk else LR
        decay = 0.5 if "kernel" in variable.path else 0.0
        expected = before[variable.path] * (1 - lr * decay) - lr
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6, err_msg=variable.path)


def deep_model():
    """A trunk of a stem, three blocks and a norm without a name of a block, and a head."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="stem")(inputs)
    for block in ("stage1_block1", "stage1_block2", "stage2_block1"):
        x = keras.layers.Dense(4, name=f"{block}_mlp_1")(x)
        x = keras.layers.Dense(4, name=f"{block}_mlp_2")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))


def updates(model, groups):
    """Return what a step with gradients of one takes from the weights, which are ones too."""
    for weight in model.weights:
        weight.assign(tf.ones(weight.shape))
    for optimizer, members in groups:
        optimizer.apply([tf.ones(v.shape) for v in members], members)
    return {v.path: float(1 - np.unique(v.numpy()).item()) for v in model.weights}


def test_rates_fall_from_block_to_block_of_the_trunk():
    model = deep_model()
    trunk = {v.path for v in model.variables if not v.path.startswith("head")}
    groups = parameter_groups(
        model,
        None,
        lambda scale: keras.optimizers.SGD(scale),
        TrainOptions(layer_lr_decay=0.5, trunk_lr_scale=0.1, head_lr_scale=0.8),
        trunk=trunk,
    )
    rates = {
        "stem": 0.0125, "stage1_block1": 0.025, "stage1_block2": 0.05, "stage2_block1": 0.1,
        "norm": 0.1, "head": 0.8,
    }  # fmt: skip
    for path, taken in updates(model, groups).items():
        (rate,) = (rate for name, rate in rates.items() if path.startswith(name))
        assert taken == pytest.approx(rate, abs=1e-6), path
    with pytest.raises(UserError, match=r"layer_blocks finds no blocks .* stem/kernel"):
        parameter_groups(
            model, None, keras.optimizers.SGD,
            TrainOptions(layer_lr_decay=0.5, layer_blocks="stage2"), trunk=trunk,
        )  # fmt: skip
    with pytest.raises(UserError, match="the model has no trunk"):
        parameter_groups(model, None, keras.optimizers.SGD, TrainOptions(layer_lr_decay=0.5))


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("stage1_block2_attention/query/kernel", "stage1_block2"),
        ("convnext_tiny_stage_0_block_2_depthwise_conv/bias", "stage_0_block_2"),
        ("conv2_block1_1_conv/kernel", "conv2_block1"),
        ("block1a_expand_conv/kernel", "block1a"),
        ("block5_conv3/kernel", "block5"),
        ("conv_dw_11/kernel", "conv_dw_11"),
    ],
)
def test_blocks_have_the_names_of_the_trunks(path, block):
    assert re.search(DEFAULTS.layer_blocks, path)[0] == block


def test_the_trunk_can_decay_less_and_weights_of_one_axis_not_at_all():
    model = deep_model()
    trunk = {v.path for v in model.variables if not v.path.startswith("head")}
    options = TrainOptions(decay_exclude="", decay_vectors=False, trunk_decay_scale=0.1)
    groups = parameter_groups(
        model, None, lambda scale: keras.optimizers.SGD(scale, weight_decay=0.5), options, trunk
    )
    for path, taken in updates(model, groups).items():
        decay = 0.0 if "kernel" not in path else 0.5 if path.startswith("head") else 0.05
        assert taken == pytest.approx(1 + decay, abs=1e-6), path


@pytest.mark.parametrize("part", ["trunk", "head"])
def test_a_part_whose_rate_is_zero_is_left_alone(part):
    model = deep_model()
    trunk = {v.path for v in model.variables if not v.path.startswith("head")}
    options = TrainOptions(**{f"{part}_lr_scale": 0.0})
    groups = parameter_groups(model, None, keras.optimizers.SGD, options, trunk)
    moved = {v.path for _, members in groups for v in members}
    assert moved == {v.path for v in model.weights if (v.path in trunk) == (part == "head")}
    with pytest.raises(UserError, match=r"trunk_lr_scale=0\.0 and train\.head_lr_scale=0\.0 leave"):
        parameter_groups(
            model, None, keras.optimizers.SGD,
            TrainOptions(trunk_lr_scale=0.0, head_lr_scale=0.0), trunk,
        )  # fmt: skip


def test_only_weights_that_the_expression_finds_are_trained():
    model = tasks.small_model()
    groups = parameter_groups(
        model, None, lambda scale: keras.optimizers.SGD(LR), TrainOptions(trainable="^embed/")
    )
    assert [v.path for v in groups[0][1]] == ["embed/kernel", "embed/bias"]
    with pytest.raises(UserError, match=r"train\.trainable='nothing'"):
        parameter_groups(
            model, None, lambda scale: keras.optimizers.SGD(LR), TrainOptions(trainable="nothing")
        )


def test_a_batch_that_the_replicas_cannot_share_is_refused():
    strategy = get_strategy("mirrored", 2)
    assert replica_slices(strategy, 16) == [(0, 8), (8, 16)]
    assert replica_slices(strategy, 12, 3) == [(0, 6), (6, 12)]
    with pytest.raises(UserError, match="15 images can't be divided evenly among 2 replicas"):
        replica_slices(strategy, 15)
    with pytest.raises(UserError, match=r"5 triplets .* multiple of 2"):
        replica_slices(strategy, 15, 3)


def test_xla_with_replicas_is_refused(tmp_path):
    strategy, task = tasks.make_task(tmp_path, replicas=2, xla=True)
    with strategy.scope(), pytest.raises(UserError, match=r"train\.xla"):
        fit(task)


@pytest.mark.parametrize(
    ("name", "devices", "message"),
    [("one", 2, "train.devices is 2"), ("mirrored", 64, "64"), ("multiworker", None, "TF_CONFIG")],
)
def test_devices_that_are_not_there_are_refused(monkeypatch, name, devices, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=message):
        get_strategy(name, devices)


def prepared_loss(name="proxy_anchor", **parameters):
    loss = losses.get(name, **parameters)
    loss.prepare(range(4), 8)
    return loss


@pytest.mark.parametrize("options", [{}, {"xla": True}, {"numbers": (0, 1)}], ids=str)
@pytest.mark.parametrize("name", ["proxy_anchor", "proxy_nca", "soft_triple"])
def test_a_step_moves_the_proxies_along_their_gradient(name, options):
    keras.utils.set_random_seed(5)
    loss, numbers = prepared_loss(name), options.get("numbers", (0,))
    before = loss.get_weights()[0]
    keras.utils.set_random_seed(5)
    model = tasks.small_model(norm=False)
    with tf.GradientTape() as tape:
        values = []
        for number in numbers:
            images, labels = tasks.batch_arrays(number)
            values.append(loss(labels, model(images, training=True)))
        value = tf.add_n(values) / len(values)
    gradient = tape.gradient(value, loss.proxies.value).numpy()
    assert np.abs(gradient).max() > 1e-3
    _, others, moved, found = step_with_sgd(loss=loss, **options)
    assert found["loss"] == pytest.approx(float(value), rel=1e-5)
    assert found["gradient_norm"] == pytest.approx(norm_of([*others, gradient]), rel=1e-4)
    np.testing.assert_allclose(before - loss.get_weights()[0], LR * gradient, atol=1e-5)
    assert_moved(moved, others)


@pytest.mark.parametrize(("loss_lr_scale", "sizes"), [(1.0, [7]), (100.0, [6, 1]), (0.0, [6])])
def test_groups_scale_the_weights_of_the_loss(loss_lr_scale, sizes):
    model, loss = tasks.small_model(), prepared_loss()
    groups = parameter_groups(
        model,
        loss,
        lambda scale: keras.optimizers.SGD(LR * scale),
        TrainOptions(loss_lr_scale=loss_lr_scale),
    )
    assert [len(members) for _, members in groups] == sizes
    before = [v.numpy() for v in (loss.proxies, *model.trainable_variables)]
    for optimizer, members in groups:
        optimizer.apply([tf.ones(v.shape) for v in members], members)
    after = [v.numpy() for v in (loss.proxies, *model.trainable_variables)]
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        scale = loss_lr_scale if number == 0 else 1.0
        np.testing.assert_allclose(one - other, LR * scale, rtol=1e-4)


def test_the_expression_of_weights_to_train_is_for_the_model():
    model, loss = tasks.small_model(), prepared_loss()

    def make(scale):
        return keras.optimizers.SGD(LR * scale)

    ((_, members),) = parameter_groups(model, loss, make, TrainOptions(trainable="^embed/"))
    assert [v.path for v in members] == ["embed/kernel", "embed/bias", "ProxyAnchor/proxies"]
    with pytest.raises(UserError, match=r"train\.trainable='proxies'"):
        parameter_groups(model, loss, make, TrainOptions(trainable="proxies"))


def test_clip_range_need_not_be_about_zero():
    _, gradients, moved, _ = step_with_sgd(clip_range=(-0.0005, 0.002))
    for gradient, change in zip(gradients, moved, strict=True):
        np.testing.assert_allclose(change, LR * np.clip(gradient, -0.0005, 0.002), atol=1e-6)


def test_the_l2_penalty_pulls_weights_that_decay_and_no_others():
    keras.utils.set_random_seed(5)
    weights = [np.array(v.numpy()) for v in tasks.small_model(norm=False).trainable_variables]
    plain = step_with_sgd()
    loss, gradients, moved, found = step_with_sgd(
        chosen=TrainOptions(decay_exclude="bias"), l2_penalty=0.3
    )
    assert [w.ndim > 1 for w in weights] == [True, False, True, False]
    for weight, gradient, change in zip(weights, gradients, moved, strict=True):
        expected = gradient + 0.3 * weight * (weight.ndim > 1)
        np.testing.assert_allclose(change, LR * expected, atol=1e-6)
    assert (loss, found["loss"]) == (plain[0], plain[3]["loss"])
    _, _, clipped, _ = step_with_sgd(l2_penalty=1e4, clip_norm=0.5)
    norm = np.sqrt(sum((change**2).sum() for change in clipped))
    assert norm == pytest.approx(LR * 0.5, rel=1e-5)


@pytest.fixture
def filters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_filters.py").write_text(
        "def matrices(weight):\n    return len(weight.shape) > 1\n\n"
        "def broken(weight):\n    return weight.no_such_thing\n"
    )


def test_functions_choose_weights_to_train_and_to_decay(filters):
    def groups(**options):
        found = parameter_groups(
            model, None, lambda scale: keras.optimizers.SGD(LR), TrainOptions(**options)
        )
        ((optimizer, members),) = found
        optimizer.build(members)
        return [v.path for v in members], [v.path for v in members if decays(optimizer, v)]

    model = tasks.small_model(norm=False)
    matrices, everything = ["conv/kernel", "embed/kernel"], [w.path for w in model.weights]
    assert groups(decay_exclude="") == (everything, everything)
    assert groups() == (everything, matrices)
    assert groups(trainable_function="own_filters.matrices") == (matrices, matrices)
    of_both = groups(trainable="^conv", trainable_function="own_filters.matrices")
    assert of_both == (["conv/kernel"], ["conv/kernel"])
    assert groups(decay_exclude="", decay_function="own_filters.matrices") == (everything, matrices)
    assert groups(decay_exclude="", decay_only="^embed")[1] == ["embed/kernel", "embed/bias"]
    with pytest.raises(
        UserError, match=r"^train.decay_function=own_filters.broken failed at conv/"
    ):
        groups(decay_function="own_filters.broken")
    with pytest.raises(UserError, match=r"train.trainable='bias' and train.trainable_function="):
        groups(trainable="bias", trainable_function="own_filters.matrices")

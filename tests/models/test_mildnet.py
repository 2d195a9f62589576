"""The MILDNet builder: its parts, and what it refuses. Its sizes: test_sizes.py."""

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import UserError


def small(**parameters) -> keras.Model:
    return models.build(
        "mildnet", image_size=32, **{"trunk": "convnet_small(widths=(4, 6, 8))"} | parameters
    )


def pictures(count: int = 3, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("uint8")


@pytest.mark.parametrize("pooling", ["gap", "gem"])
def test_joins_last_map_then_skips_in_the_given_order(pooling):
    model = small(
        pooling=pooling, skips="block2_relu, block1_relu", embedding_dim=None, normalize=False
    )
    trunk = model.get_layer("trunk")
    last, second, first = trunk(pictures() / np.float32(255))
    assert [t.shape[-1] for t in (last, second, first)] == [8, 6, 4]
    p = 1.0 if pooling == "gap" else 3.0
    floor = 0.0 if pooling == "gap" else 1e-6
    want = [
        (np.maximum(np.asarray(t, "float64"), floor) ** p).mean((1, 2)) ** (1 / p)
        for t in (last, second, first)
    ]
    np.testing.assert_allclose(model(pictures()), np.concatenate(want, 1), atol=1e-5)


def test_head_in_order():
    model = small(hidden=(16, 12), dropout=0.5, embedding_dim=10, embedding_activation="relu")
    names = [layer.name for layer in model.layers]
    assert names[names.index("joined") :] == [
        "joined",
        "hidden_1",
        "hidden_1_dropout",
        "hidden_2",
        "hidden_2_dropout",
        "project",
        "embedding",
    ]
    joined = keras.Model(model.input, model.get_layer("joined").output)(pictures())
    x = np.asarray(joined, "float64")
    for name in ("hidden_1", "hidden_2", "project"):
        kernel, bias = model.get_layer(name).get_weights()
        x = np.maximum(x @ kernel + bias, 0)
    np.testing.assert_allclose(model(pictures()), x / np.linalg.norm(x, axis=1)[:, None], atol=1e-5)


def test_without_pooling_dense_layers_see_each_place_and_height_is_normalised():
    model = small(pooling="none", skips="none", hidden=(7,), dropout=0.2, embedding_dim=5)
    features = np.asarray(model.get_layer("trunk")(pictures() / np.float32(255)), "float64")
    batch, height, width, _ = features.shape
    assert (height, width) == (4, 4)
    (k1, b1), (k2, b2) = (model.get_layer(name).get_weights() for name in ("hidden_1", "project"))
    want = np.zeros((batch, height, width, 5))
    for place in np.ndindex(batch, height, width):
        want[place] = np.maximum(features[place] @ k1 + b1, 0) @ k2 + b2
    for b, column, channel in np.ndindex(batch, width, 5):
        want[b, :, column, channel] /= np.linalg.norm(want[b, :, column, channel])
    np.testing.assert_allclose(model(pictures()), want.reshape(batch, -1), atol=1e-5)
    raw = small(pooling="none", skips="none", embedding_dim=None, normalize=False)
    features = raw.get_layer("trunk")(pictures() / np.float32(255))
    np.testing.assert_allclose(raw(pictures()), np.reshape(features, (batch, -1)), atol=1e-6)


def test_dropout_of_each_hidden_layer():
    model = small(hidden=(6, 7, 8), dropout=(0.5, 0.0, 0.25))
    found = {layer.name: layer.rate for layer in model.layers if layer.name.endswith("_dropout")}
    assert found == {"hidden_1_dropout": 0.5, "hidden_3_dropout": 0.25}


def test_dropout_of_the_embedding_is_for_training_alone_and_before_its_length():
    # Without statistics of the batch, which would be another difference.
    trunk = "convnet_small(widths=(4, 6), norm='group')"
    model = small(trunk=trunk, embedding_dim=16, embedding_dropout=0.5)
    plain = small(trunk=trunk, embedding_dim=16)
    plain.set_weights(model.get_weights())
    whole = plain(pictures()).numpy()
    np.testing.assert_array_equal(model(pictures()), whole)
    dropped = model(pictures(), training=True).numpy()
    kept = dropped != 0
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(np.linalg.norm(dropped, axis=1), 1, atol=1e-6)
    for row in range(3):
        rest = np.where(kept[row], whole[row], 0)
        np.testing.assert_allclose(dropped[row], rest / np.linalg.norm(rest), atol=1e-5)


def test_uint8_and_float_pictures_give_the_same():
    model = small()
    np.testing.assert_array_equal(model(pictures()), model(pictures().astype("float32")))


def test_native_preprocessing_is_the_trunks():
    model = models.build("mildnet", image_size=32, trunk="vgg16", preprocessing="native")
    assert model.get_layer("preprocess").mode == "caffe"
    assert small().get_layer("preprocess").mode == "rescale"


def test_trunk_and_head_are_told_apart():
    model = small(hidden=(5,), pooling="gem")
    trunk = models.trunk_variables(model)
    head = {variable.path for variable in model.variables} - trunk
    assert {path.split("/")[0] for path in trunk} == {
        f"block{n}_{part}" for n in (1, 2, 3) for part in ("conv", "norm")
    }
    assert {path.split("/")[0] for path in head} == {
        "pool", "pool_skip_1", "pool_skip_2", "hidden_1", "project",
    }  # fmt: skip
    assert models.trunk_variables(keras.Sequential([keras.layers.Dense(2)])) == set()


def test_variable_paths_do_not_depend_on_what_was_built_before():
    first = small(hidden=(5,), dropout=0.1)
    keras.layers.Dense(3), keras.random.SeedGenerator()
    second = small(hidden=(5,), dropout=0.1)
    paths = [variable.path for variable in first.variables]
    assert paths == [variable.path for variable in second.variables]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim must be above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"dropout": (0.1, 1.0), "hidden": (4, 4)}, "below 1"),
        ({"dropout": (0.1, 0.2), "hidden": (4,)}, "2 values for 1 hidden"),
        ({"pooling": "none"}, "neither skips nor shallow"),
        ({"pooling": "none", "skips": "none", "shallow": "visnet"}, "neither skips nor shallow"),
        ({"shallow": "visnet_lrn2d"}, "needs an image size of 64 or more: 32"),
        ({"shallow": "ranknet", "image_size": 31}, "needs an image size of 32 or more: 31"),
        ({"hidden": (0,)}, "above 0"),
        ({"skips": "block9_relu"}, "no layer 'block9_relu' .* block1_conv"),
        ({"frozen": 99}, "99 cannot be frozen"),
        ({"frozen": -1}, "-1 cannot be frozen"),
        ({"frozen": "block9_relu"}, "no layer 'block9_relu'"),
        ({"trunk": "vgg16", "image_size": 31}, "32 or more"),
        ({"trunk": "convnet_small(widths=())"}, "widths"),
        ({"weights": "imagenet"}, "no ImageNet weights"),
    ],
)
def test_values_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        models.build("mildnet", **{"image_size": 32} | parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"trunk": "mobilnet"}, "did you mean 'mobilenet'"),
        ({"trunk": "convnet_small(width=(4,))"}, "did you mean 'widths'"),
        ({"trunk": "convnet_small(widths=(4,)"}, "cannot be read"),
        ({"trunk": "convnet_small(widths=open('x'))"}, "cannot be read"),
        ({"trunk": "convnet_small(4)"}, "cannot be read"),
        ({"poolin": "gem"}, "did you mean 'pooling'"),
        ({"pooling": "max"}, "'max' is not one of gap, gem, none"),
    ],
)
def test_mistakes_in_configs(parameters, message):
    with pytest.raises(UserError, match=message):
        models.build("mildnet", image_size=32, **parameters)

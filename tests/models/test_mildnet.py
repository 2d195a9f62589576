"""The MILDNet builder: sizes, parts, and what it refuses."""

import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import UserError

# Hand sums behind the figures, in Keras' layers (kernel + bias):
#   VGG16   1,792 + 36,928 | 73,856 + 147,584 | 295,168 + 2 x 590,080
#           | 1,180,160 + 2 x 2,359,808 | 3 x 2,359,808                       = 14,714,688
#   VGG19   one convolution more in blocks 3 (590,080), 4 and 5 (2,359,808)   = 20,024,384
#   frozen  block1, block2 and the first three convolutions of block3         =  1,735,488
#   joined  512 + 64 + 128 + 256 + 512                                        =      1,472
#   head    1,472 x 2,048 + 2,048  +  2,048 x 2,048 + 2,048                   =  7,213,056
#   VGG16 14,714,688 + 7,213,056 = 21,927,744; less 1,735,488                 = 20,192,256
#   VGG19 20,024,384 + 7,213,056 = 27,237,440; less 1,735,488                 = 25,501,952
#   MobileNet                                                                 =  3,228,864
#           of which moving means and variances: 2 x 10,944                   =     21,888
#   joined  1,024 + 32 + 64 + 128 + 256 + 512                                 =      2,016
#   head    2,016 x 1,024 + 1,024  +  1,024 x 1,024 + 1,024                   =  3,115,008
#   MobileNet 3,228,864 + 3,115,008 = 6,343,872; less 21,888                  =  6,321,984
#   without skips: head 2 x 1,049,600; 5,328,064; less 21,888                 =  5,306,176
SIZES = [
    ("mildnet_vgg16", {"weights": "none"}, 21_927_744, 20_192_256, 2048),
    ("mildnet_vgg16", {"weights": "none", "frozen": 0}, 21_927_744, 21_927_744, 2048),
    (
        "mildnet_vgg16",
        {"weights": "none", "skips": "block[2-4]_pool"},
        21_796_672,
        20_061_184,
        2048,
    ),
    (
        "mildnet_vgg16",
        {"weights": "none", "hidden": (1024,), "embedding_dim": 512},
        16_747_840,
        15_012_352,
        512,
    ),
    ("mildnet_vgg19", {"weights": "none"}, 27_237_440, 25_501_952, 2048),
    ("mildnet_mobilenet", {}, 6_343_872, 6_321_984, 1024),
    ("mildnet_mobilenet", {"skips": "none"}, 5_328_064, 5_306_176, 1024),
]


def count(variables) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.mark.parametrize(("model_id", "parameters", "total", "trainable", "width"), SIZES)
def test_sizes_at_224_pixels(model_id, parameters, total, trainable, width):
    model = models.build(model_id, **parameters)
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, width)
    assert count(model.weights) == total
    assert count(model.trainable_weights) == trainable


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
        ({"pooling": "max"}, "'max' is not one of gap, gem"),
    ],
)
def test_mistakes_in_configs(parameters, message):
    with pytest.raises(UserError, match=message):
        models.build("mildnet", image_size=32, **parameters)

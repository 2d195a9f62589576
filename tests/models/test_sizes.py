"""Weights and outputs of MILDNet's models at full size, against a table and against arithmetic.

The table is that of the released builders, made with Keras' applications of the time. The
arithmetic below comes to the same figures from the description of each model alone: a convolution
has kernel x kernel x channels in / groups x channels out weights and a bias for each channel out, a
dense layer inputs x outputs and a bias for each output, a batch normalisation four values for each
channel, two of which are statistics. Poolings, paddings and joins have none; they decide how many
inputs a dense layer has.
"""

import itertools
import math

import numpy as np
import pytest

from trainer import models

# model id: weights, trainable weights, output. Released form; the last row is the corrected one.
TABLE = {
    "vanila_vgg16": (14_714_688, 14_714_688, (7, 7, 512)),
    "mildnet_without_skip": (16_289_600, 16_289_600, (7, 7, 1024)),
    "mildnet_without_skip_big": (19_961_664, 19_961_664, (7, 7, 2048)),
    "mildnet_vgg16": (21_927_744, 20_192_256, (2048,)),
    "mildnet_vgg16_big": (42_940_416, 41_204_928, (4096,)),
    "mildnet_mobilenet": (5_328_064, 5_306_176, (1024,)),
    "mildnet_1024_512": (16_747_840, 15_012_352, (512,)),
    "mildnet_512_512": (15_731_520, 13_996_032, (512,)),
    "mildnet_512_no_dropout": (15_731_520, 13_996_032, (512,)),
    "mildnet_vgg19": (27_237_440, 25_501_952, (2048,)),
    "mildnet_all_trainable": (21_927_744, 21_927_744, (2048,)),
    "mildnet_vgg16_skip_1": (21_796_672, 20_061_184, (2048,)),
    "mildnet_vgg16_skip_2": (21_534_528, 19_799_040, (2048,)),
    "mildnet_vgg16_skip_3": (21_010_240, 19_274_752, (2048,)),
    "mildnet_vgg16_skip_4": (19_961_664, 18_226_176, (7, 7, 2048)),
    "ranknet": (68_308_224, 68_308_224, (4096,)),
    "visnet_lrn2d_model": (66_537_472, 66_537_472, (4096,)),
    "visnet_model": (62_998_528, 62_998_528, (4096,)),
    "alexnet": (53_108_288, 53_108_288, (4096,)),
    "mildnet_mobilenet with skips": (6_343_872, 6_321_984, (1024,)),
}
#: What the corrected form of a map is: its channels, pooled.
POOLED = {name: row[2][-1] for name, row in TABLE.items() if len(row[2]) == 3}


def conv(kernel: int, *channels: int, groups: int = 1, bias: bool = True) -> int:
    """Weights of convolutions in a row, from the first channels to the last."""
    return sum(
        kernel * kernel * a // groups * b + bias * b for a, b in itertools.pairwise(channels)
    )


def dense(*widths: int) -> int:
    return conv(1, *widths)


def valid(size: int, window: int, stride: int) -> int:
    return (size - window) // stride + 1


def same(size: int, stride: int) -> int:
    return math.ceil(size / stride)


VGG16 = conv(3, 3, 64, 64) + conv(3, 64, 128, 128) + conv(3, 128, 256, 256, 256) + (
    conv(3, 256, 512, 512, 512) + conv(3, 512, 512, 512, 512)
)  # fmt: skip
VGG19 = VGG16 + conv(3, 256, 256) + 2 * conv(3, 512, 512)
#: Input, two convolutions and a pooling, the same again, three convolutions: ten layers.
FIRST_TEN = conv(3, 3, 64, 64) + conv(3, 64, 128, 128) + conv(3, 128, 256, 256, 256)
ALEXNET = (
    conv(11, 3, 96) + conv(5, 96, 256, groups=2) + conv(3, 256, 384)
    + conv(3, 384, 384, groups=2) + conv(3, 384, 256, groups=2)
)  # fmt: skip

_POINTWISE = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
_STEPS = list(itertools.pairwise(_POINTWISE))
_NORMS = 32 + sum(a + b for a, b in _STEPS)
MOBILENET = conv(3, 3, 32, bias=False) + sum(9 * a + a * b for a, b in _STEPS) + 4 * _NORMS

# The two shallow paths' values at 224 pixels: 96 of each place that is left.
VISNET = 96 * (same(same(224, 16), 4) ** 2 + same(same(224, 32), 2) ** 2)
LRN2D = 96 * (
    same(valid(224 // 4, 8, 4) + 6, 4) ** 2 + same(valid(224 // 8, 8, 4) + 2, 2) ** 2
)  # fmt: skip
RANKNET = 96 * (
    valid(valid(224 // 4 + 8, 8, 4) + 4, 7, 4) ** 2
    + valid(valid(224 // 8 + 8, 8, 4) + 2, 3, 2) ** 2
)
#: 227 // 4 and 227 // 8 are 224 // 4 and 224 // 8.
PATHS = 2 * conv(8, 3, 96)
SKIPS = (64, 128, 256, 512)
DEEP = dense(512, 4096, 4096) + PATHS

#: model id: weights, and how many of them are not trained.
COUNTED = {
    "vanila_vgg16": (VGG16, 0),
    "mildnet_without_skip": (VGG16 + dense(512, 1024, 1024), 0),
    "mildnet_without_skip_big": (VGG16 + dense(512, 2048, 2048), 0),
    "mildnet_vgg16": (VGG16 + dense(512 + sum(SKIPS), 2048, 2048), FIRST_TEN),
    "mildnet_vgg16_big": (
        VGG16 + dense(512 + sum(SKIPS), 2048, 2048) + PATHS + dense(2048 + VISNET, 4096),
        FIRST_TEN,
    ),
    "mildnet_mobilenet": (MOBILENET + dense(1024, 1024, 1024), 2 * _NORMS),
    "mildnet_1024_512": (VGG16 + dense(512 + sum(SKIPS), 1024, 512), FIRST_TEN),
    "mildnet_512_512": (VGG16 + dense(512 + sum(SKIPS), 512, 512), FIRST_TEN),
    "mildnet_512_no_dropout": (VGG16 + dense(512 + sum(SKIPS), 512, 512), FIRST_TEN),
    "mildnet_vgg19": (VGG19 + dense(512 + sum(SKIPS), 2048, 2048), FIRST_TEN),
    "mildnet_all_trainable": (VGG16 + dense(512 + sum(SKIPS), 2048, 2048), 0),
    **{
        f"mildnet_vgg16_skip_{n}": (VGG16 + dense(512 + sum(SKIPS[n:]), 2048, 2048), FIRST_TEN)
        for n in (1, 2, 3, 4)
    },
    "ranknet": (VGG19 + DEEP + dense(RANKNET + 4096, 4096), 0),
    "visnet_lrn2d_model": (VGG16 + DEEP + dense(LRN2D + 4096, 4096), 0),
    "visnet_model": (VGG16 + DEEP + dense(VISNET + 4096, 4096), 0),
    "alexnet": (
        ALEXNET + dense(256, 4096, 4096) + PATHS + dense(LRN2D + 4096, 4096),
        0,
    ),
    "mildnet_mobilenet with skips": (
        MOBILENET + dense(1024 + 32 + 64 + 128 + 256 + 512, 1024, 1024),
        2 * _NORMS,
    ),
}


def count(variables) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.mark.parametrize("name", TABLE)
def test_the_table_follows_from_the_descriptions(name):
    weights, frozen = COUNTED[name]
    assert (weights, weights - frozen) == TABLE[name][:2]


@pytest.mark.parametrize("name", TABLE)
def test_a_model_has_the_sizes_of_the_table(name):
    model_id = name.removesuffix(" with skips")
    weights, trainable, output = TABLE[name]
    model = models.build(
        model_id,
        weights="none",
        image_size=227 if model_id == "alexnet" else 224,
        fidelity="released" if model_id == name else "corrected",
    )
    assert count(model.weights) == weights
    assert count(model.trainable_weights) == trainable
    assert model.output_shape == (None, math.prod(output))


@pytest.mark.parametrize("name", POOLED)
def test_the_corrected_form_pools_and_has_the_same_weights(name):
    model = models.build(name, weights="none", image_size=64)
    assert count(model.weights) == TABLE[name][0]
    assert model.output_shape == (None, POOLED[name])

"""AutoAugment: pairs of operations that were searched for on ImageNet."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainer.config import register
from trainer.data.augment import Draws, flips
from trainer.data.operations import LOOKS, MOVES, Crops, apply_look, move

#: The ImageNet policy of the paper: 25 pairs of operation, probability, magnitude 0..9. Operations
#: without a magnitude have 0. That pairs come twice and one probability is 0 is as published.
POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
#: The largest magnitude there is: 30 degrees, a factor of 0.1 or 1.9, and so on.
LARGEST = 9

_NAMES = LOOKS + MOVES
_OPERATION = np.array([[_NAMES.index(name) for name, _, _ in pair] for pair in POLICY])
_PROBABILITY = np.array([[probability for _, probability, _ in pair] for pair in POLICY])
_AMOUNT = np.array([[magnitude / LARGEST for _, _, magnitude in pair] for pair in POLICY])


@register("augment", "autoaugment")
class AutoAugment:
    """Random resized crop, flips and AutoAugment with its ImageNet policy.

    Of 25 pairs of operations one is drawn uniformly; each of the two is applied with a probability
    and at a magnitude of its own; factors, rotation and shear go either way with equal chance.
    Cubuk et al.: AutoAugment: learning augmentation policies from data, 2019, arXiv 1805.09501.

    The moves (rotation, shear) join crop and flip in one interpolation, around the centre, with
    borders filled with the nearest pixel. So a move comes before the operation that changes values,
    also in the two pairs that are published the other way round (posterize or equalize, rotate).

    Args:
        crop_min_area: smallest share of the area, above 0 to 1; default 0.25; 1 keeps it whole.
        crop_max_stretch: largest factor on the aspect ratio and on its inverse, 1 or more;
            default 4/3; 1 keeps the picture's own.
        horizontal_flip: mirror left and right in half of the pictures; default True.
        vertical_flip: mirror top and bottom in half of the pictures; default False.

    Raises:
        ValueError: a value is out of its range.
    """

    crops = True

    def __init__(
        self,
        *,
        crop_min_area: float = 0.25,
        crop_max_stretch: float = 1.3333333,
        horizontal_flip: bool = True,
        vertical_flip: bool = False,
    ) -> None:
        self._crops = Crops(crop_min_area, crop_max_stretch)
        self._flip = np.array([horizontal_flip, vertical_flip])

    def draw(self, random: np.random.Generator, count: int) -> Draws:
        """Choose for `count` pictures."""
        affine = self._crops.draw(random, count)
        affine = affine @ flips(*((random.random((count, 2)) < 0.5) & self._flip).T)
        pair = random.integers(0, len(POLICY), count)
        applied = random.random((count, 2)) < _PROBABILITY[pair]
        operation = np.where(applied, _OPERATION[pair], LOOKS.index("identity"))
        amount = random.choice([-1.0, 1.0], (count, 2)) * _AMOUNT[pair]
        for first_or_second in range(2):
            moved = operation[:, first_or_second] - len(LOOKS)
            affine = affine @ move(moved, amount[:, first_or_second])
        looks = np.where(operation < len(LOOKS), operation, LOOKS.index("identity"))
        return Draws(
            affine[:, :2].astype(np.float32),
            np.concatenate([looks, amount], axis=1).astype(np.float32),
        )

    def look(self, image: tf.Tensor, choice: tf.Tensor) -> tf.Tensor:
        """Return image (S, S, 3) float32 0..255 changed as its row of `Draws.look` says."""
        for operation, amount in ((choice[0], choice[2]), (choice[1], choice[3])):
            image = apply_look(image, tf.cast(operation, tf.int32), amount)
        return image

"""The augmentation most image models are trained with today, each part of it optional."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainer.config import register
from trainer.data.augment import Draws, flips
from trainer.data.operations import (
    GREY,
    LOOKS,
    MOVES,
    Crops,
    apply_look,
    clip,
    move,
)

#: Operations of RandAugment that change values: all but the last, inversion.
RANDAUGMENT = LOOKS[:-1]

#: RGB to YIQ, where a change of hue is a turn of the last two axes.
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@register("augment", "standard")
class Standard:
    """Random resized crop, flips, colour jitter, RandAugment and random erasing.

    The crop is a share of the picture's area, drawn uniformly, whose aspect ratio is that of the
    picture times a factor; it is resized to the square. RandAugment applies `num_layers` of 14
    operations, drawn uniformly with replacement, at one magnitude and random sign (Cubuk et al.,
    RandAugment, https://arxiv.org/abs/1909.13719); those that move pixels join the crop in one
    interpolation, borders filled with the nearest pixel. Erasing paints a rectangle of 2% to 33%
    of the result in one random colour (Zhong et al., https://arxiv.org/abs/1708.04896).

    RandAugment alone, behind crop and flip: `brightness`, `contrast`, `saturation`, `hue` and
    `erasing` 0. AutoAugment is an augmentation of its own, `autoaugment`.

    Args:
        crop_min_area: smallest share of the area, above 0 to 1; default 0.25; 1 keeps it whole.
        crop_max_stretch: largest factor on the aspect ratio and on its inverse, 1 or more;
            default 4/3; 1 keeps the picture's own.
        horizontal_flip: mirror left and right in half of the pictures; default True.
        vertical_flip: mirror top and bottom in half of the pictures; default False.
        brightness: factor on values from 1 - b to 1 + b, 0 to 1; default 0.2; 0 is off.
        contrast: factor on the distance to the mean grey, likewise; default 0.2.
        saturation: factor on the distance to each pixel's grey, likewise; default 0.2.
        hue: turn of the colour circle, 0 to 0.5 of a full turn either way; default 0.02.
        num_layers: operations of RandAugment, 0 or more; default 2; 0 is off.
        magnitude: of RandAugment, 0 to 10; default 5. At 10: rotation 30 degrees, shear 0.3 of the
            side, translation 0.45 of the side, factors 0.1 or 1.9, 4 of 8 bits kept by posterize,
            all values inverted by solarize.
        erasing: probability that a rectangle is erased, 0 to 1; default 0.25; 0 is off.

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
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
        num_layers: int = 2,
        magnitude: float = 5.0,
        erasing: float = 0.25,
    ) -> None:
        jitter = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, value in {**jitter, "erasing": erasing}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: 0 to 1")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue={hue}: a share of a full turn, 0 to 0.5")
        if num_layers < 0:
            raise ValueError(f"num_layers={num_layers}: 0 or more")
        if not 0 <= magnitude <= 10:
            raise ValueError(f"magnitude={magnitude}: 0 to 10")
        self._crops = Crops(crop_min_area, crop_max_stretch)
        self._flip = np.array([horizontal_flip, vertical_flip])
        self._jitter = np.array([*jitter.values(), hue])
        self._layers, self._magnitude, self._erasing = num_layers, magnitude / 10, erasing

    def draw(self, random: np.random.Generator, count: int) -> Draws:
        """Choose for `count` pictures."""
        affine = self._crops.draw(random, count)
        affine = affine @ flips(*((random.random((count, 2)) < 0.5) & self._flip).T)
        look = [random.uniform(-1, 1, (count, 4)) * self._jitter + [1, 1, 1, 0]]
        for _ in range(self._layers):
            operation = random.integers(0, len(RANDAUGMENT) + len(MOVES), count)
            sign = random.choice([-1.0, 1.0], count)
            affine = affine @ move(operation - len(RANDAUGMENT), sign * self._magnitude)
            operation = np.where(operation < len(RANDAUGMENT), operation, 0)
            look.append(np.stack([operation, sign * self._magnitude], axis=1))
        look.append(self._draw_erased(random, count))
        return Draws(
            affine[:, :2].astype(np.float32), np.concatenate(look, axis=1).astype(np.float32)
        )

    def _draw_erased(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Return left, top, right, bottom from 0 to 1, and red, green, blue; nothing: no width."""
        erased = random.random(count) < self._erasing
        area = random.uniform(0.02, 0.33, count)
        aspect = np.exp(random.uniform(-1, 1, count) * np.log(1 / 0.3))
        side = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1)
        side = np.minimum(side, 1.0) * erased[:, np.newaxis]
        begin = random.random((count, 2)) * (1 - side)
        return np.concatenate([begin, begin + side, random.uniform(0, 255, (count, 3))], axis=1)

    def look(self, image: tf.Tensor, choice: tf.Tensor) -> tf.Tensor:
        """Return image (S, S, 3) float32 0..255 changed as its row of `Draws.look` says."""
        if self._jitter.any():
            image = jitter(image, choice[:4])
        for layer in range(self._layers):
            operation, amount = choice[4 + 2 * layer], choice[5 + 2 * layer]
            image = apply_look(image, tf.cast(operation, tf.int32), amount)
        if self._erasing:
            image = erase(image, choice[-7:-3], choice[-3:])
        return image


def jitter(image: tf.Tensor, choice: tf.Tensor) -> tf.Tensor:
    """Return `image` with other brightness, contrast, saturation (factors) and hue (turns)."""
    brightness, contrast, saturation, hue = tf.unstack(choice)
    # Saturation and hue are one linear map of the colours.
    angle = hue * (2 * np.pi)
    cos, sin = saturation * tf.cos(angle), saturation * tf.sin(angle)
    turn = tf.reshape(tf.stack([1.0, 0.0, 0.0, 0.0, cos, -sin, 0.0, sin, cos]), (3, 3))
    colours = tf.constant(np.linalg.inv(YIQ), tf.float32) @ turn @ tf.constant(YIQ, tf.float32)
    image = tf.linalg.matmul(image * brightness, colours, transpose_b=True)
    mean = tf.reduce_mean(tf.tensordot(image, tf.constant(GREY, tf.float32), 1))
    return clip(mean + (image - mean) * contrast)


def erase(image: tf.Tensor, box: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Return `image` with `box` (left, top, right, bottom, 0 to 1) painted in `colour`."""
    size = image.shape[0]
    place = (tf.range(size, dtype=tf.float32) + 0.5) / size
    across = (place >= box[0]) & (place < box[2])
    down = (place >= box[1]) & (place < box[3])
    return tf.where((down[:, tf.newaxis] & across)[..., tf.newaxis], colour, image)

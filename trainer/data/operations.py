"""What RandAugment and AutoAugment do to a picture, and random crops, which they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.data.augment import about_centre, unchanged

#: Operations that change values, by their number in `Draws.look`.
LOOKS = (
    "identity", "autocontrast", "equalize", "solarize", "posterize", "color", "contrast",
    "brightness", "sharpness", "invert",
)  # fmt: skip
#: Those that move pixels; they become part of the affine map.
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

#: Weights of red, green and blue in what the eye takes for brightness (ITU-R 601).
GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Crops:
    """Random crops: each a share of the picture's area, at a place drawn uniformly.

    Args:
        min_area: smallest share, above 0 to 1; shares are drawn uniformly from there to 1.
        max_stretch: largest factor on the picture's aspect ratio and on its inverse, 1 or more.

    Raises:
        ValueError: a value is out of its range.
    """

    min_area: float
    max_stretch: float

    def __post_init__(self) -> None:
        # Named as the parameters of augmentations that these values come from.
        if not 0 < self.min_area <= 1:
            raise ValueError(f"crop_min_area={self.min_area}: a share, above 0 to 1")
        if self.max_stretch < 1:
            raise ValueError(f"crop_max_stretch={self.max_stretch}: a factor, 1 or more")

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Return `count` affine maps, float64 (count, 3, 3), see `Draws.affine`."""
        area = random.uniform(self.min_area, 1.0, count)
        stretch = np.exp(random.uniform(-1, 1, count) * np.log(self.max_stretch))
        # A crop as wide as the picture cannot be stretched further at the same area.
        stretch = np.clip(stretch, area, 1 / area)
        side = np.stack([np.sqrt(area * stretch), np.sqrt(area / stretch)], axis=1)
        affine = unchanged(count)
        affine[:, [0, 1], [0, 1]] = side
        affine[:, :2, 2] = random.random((count, 2)) * (1 - side)
        return affine


def move(operation: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Return affine maps (n, 3, 3) of operations, around the centre of the picture.

    Args:
        operation: int (n,), numbered as in MOVES; negative numbers change nothing.
        amount: (n,), -1 to 1: magnitudes with their signs. At 1: rotation 30 degrees, shear 0.3 of
            the side, translation 0.45 of the side.
    """
    angle = np.where(operation == 0, amount * np.deg2rad(30), 0.0)
    linear = np.zeros((len(operation), 2, 2))
    linear[:, 0, 0] = linear[:, 1, 1] = np.cos(angle)
    linear[:, 0, 1] = -np.sin(angle) + np.where(operation == 1, amount * 0.3, 0.0)
    linear[:, 1, 0] = np.sin(angle) + np.where(operation == 2, amount * 0.3, 0.0)
    affine = about_centre(linear)
    affine[:, 0, 2] += np.where(operation == 3, amount * 0.45, 0.0)
    affine[:, 1, 2] += np.where(operation == 4, amount * 0.45, 0.0)
    return affine


# Traced once, for however many layers and data sets.
@tf.function(autograph=False)
def apply_look(image: tf.Tensor, operation: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Return `image` after the operation LOOKS[operation].

    Args:
        image: float32 (S, S, 3), 0..255.
        operation: int32 scalar.
        amount: float32 scalar, -1 to 1: the magnitude with its sign. At 1: factor 1.9 (color,
            contrast, brightness, sharpness; 0.1 at -1), 4 of 8 bits kept by posterize, all values
            inverted by solarize; the others have no magnitude.
    """
    factor = 1.0 + 0.9 * amount
    size = tf.abs(amount)

    def grey() -> tf.Tensor:
        return tf.tensordot(image, tf.constant(GREY, tf.float32), 1)[..., tf.newaxis]

    def blend(other: tf.Tensor) -> tf.Tensor:
        return clip(other + (image - other) * factor)

    def posterize() -> tf.Tensor:
        step = tf.pow(2.0, tf.round(4.0 * size))
        return tf.floor(image / step) * step

    branches = {
        "identity": lambda: image,
        "autocontrast": lambda: _autocontrast(image),
        "equalize": lambda: _equalize(image),
        "solarize": lambda: tf.where(image < 256.0 * (1.0 - size), image, 255.0 - image),
        "posterize": posterize,
        "color": lambda: blend(grey()),
        "contrast": lambda: blend(tf.reduce_mean(grey())),
        "brightness": lambda: blend(tf.constant(0.0)),
        "sharpness": lambda: blend(_smooth(image)),
        "invert": lambda: 255.0 - image,
    }
    return tf.switch_case(operation, [branches[name] for name in LOOKS])


def clip(image: tf.Tensor) -> tf.Tensor:
    """Return `image` with values below 0 and above 255 brought there."""
    return tf.clip_by_value(image, 0.0, 255.0)


def _autocontrast(image: tf.Tensor) -> tf.Tensor:
    low = tf.reduce_min(image, axis=(0, 1))
    high = tf.reduce_max(image, axis=(0, 1))
    scaled = (image - low) * (255.0 / tf.maximum(high - low, 1e-6))
    return tf.where(high > low, scaled, image)


def _equalize(image: tf.Tensor) -> tf.Tensor:
    values = tf.cast(tf.round(image), tf.int32)

    def channel(number: int) -> tf.Tensor:
        value = values[..., number]
        histogram = tf.math.bincount(tf.reshape(value, (-1,)), minlength=256, maxlength=256)
        last = tf.reduce_max(value)
        step = (tf.size(value) - histogram[last]) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
        return tf.cast(tf.gather(table, value), tf.float32)

    return tf.stack([channel(number) for number in range(3)], axis=-1)


def _smooth(image: tf.Tensor) -> tf.Tensor:
    """Return `image` with each inner pixel a weighted mean of its neighbourhood of 3 x 3."""
    kernel = np.ones((3, 3, 3, 1), np.float32)
    kernel[1, 1] = 5.0
    kernel = tf.constant(kernel / 13.0)
    inner = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, (1, 1, 1, 1), "VALID")[0]
    border = tf.pad(tf.ones_like(inner), ((1, 1), (1, 1), (0, 0)))
    return tf.where(border > 0, tf.pad(inner, ((1, 1), (1, 1), (0, 0))), image)

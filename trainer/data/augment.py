"""Random changes to training pictures: what an augmentation is, and the one MILDNet trains with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trainer.config import register


@dataclass(frozen=True)
class Draws:
    """Random choices for `n` pictures, made before any of them is read.

    Attributes:
        affine: float32 (n, 2, 3), where the result takes its pixels from: its point (x, y) comes
            from affine @ [x, y, 1] of the picture, both measured from 0 to 1 over width and
            height. Points outside the picture get the nearest pixel of its border.
        look: float32 (n, m), what `Augment.look` is to do to each picture; m may be 0.
    """

    affine: np.ndarray
    look: np.ndarray


class Augment(Protocol):
    """Random changes to training pictures.

    The geometry is one affine map, so that it can be applied in the same interpolation as the
    resize. `look` changes values in place, after that.

    Attributes:
        crops: whether the maps often show a part of the picture only, so that it pays to look
            which part a file is needed for before it is decoded.
    """

    crops: bool

    def draw(self, random: np.random.Generator, count: int) -> Draws:
        """Choose for `count` pictures; nothing else may decide what is chosen."""

    def look(self, image: Any, choice: Any) -> Any:
        """Return image (S, S, 3) float32 0..255 changed as its row of `Draws.look` says."""


def unchanged(count: int) -> np.ndarray:
    """Return float64 (count, 3, 3): affine maps that change nothing."""
    return np.tile(np.eye(3), (count, 1, 1))


def about_centre(linear: np.ndarray) -> np.ndarray:
    """Return float64 (n, 3, 3): the linear maps (n, 2, 2) applied around the picture's centre."""
    affine = unchanged(len(linear))
    affine[:, :2, :2] = linear
    affine[:, :2, 2] = 0.5 - linear.sum(axis=2) * 0.5
    return affine


def flips(horizontal: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    """Return float64 (n, 3, 3): mirrored left-right, top-bottom where the bool masks say so."""
    linear = np.zeros((len(horizontal), 2, 2))
    linear[:, 0, 0] = np.where(horizontal, -1.0, 1.0)
    linear[:, 1, 1] = np.where(vertical, -1.0, 1.0)
    return about_centre(linear)


@register("augment", "none")
class Plain:
    """No random change: pictures as in evaluation."""

    crops = False

    def draw(self, random: np.random.Generator, count: int) -> Draws:
        """Return maps that change nothing."""
        return Draws(unchanged(count)[:, :2].astype(np.float32), np.empty((count, 0), np.float32))

    def look(self, image: Any, choice: Any) -> Any:
        """Return the image as it is."""
        return image


@register("augment", "mildnet")
class Mildnet:
    """MILDNet's augmentation: flips, zoom, shear, rotation; borders filled with the nearest pixel.

    The choices are those of Keras' ImageDataGenerator, which the released code uses: each flip
    with probability 1/2; angles uniform in plus and minus the given value; width and height each
    multiplied by a factor of its own from 1 - zoom to 1 + zoom. All are applied around the centre
    of the picture after it was made square, as one map: flips after rotation x shear x zoom.

    Args:
        horizontal_flip: mirror left and right in half of the pictures; default True.
        vertical_flip: mirror top and bottom in half of the pictures; default True.
        zoom: 0 to below 1, a fraction of the side; default 0.2. A factor above 1 shows the picture
            smaller.
        shear: 0 to below 90, degrees; default 0.2, as released: Keras takes it for degrees, so
            that it hardly shows (0.2 radians would be 11.5).
        rotation: 0 to 180, degrees; default 30.

    Raises:
        ValueError: a value is out of its range.
    """

    crops = False

    def __init__(
        self,
        *,
        horizontal_flip: bool = True,
        vertical_flip: bool = True,
        zoom: float = 0.2,
        shear: float = 0.2,
        rotation: float = 30.0,
    ) -> None:
        if not 0 <= zoom < 1:
            raise ValueError(f"zoom={zoom}: a fraction of the side, 0 to below 1")
        if not 0 <= shear < 90:
            raise ValueError(f"shear={shear}: degrees, 0 to below 90")
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation={rotation}: degrees, 0 to 180")
        self._flip = np.array([horizontal_flip, vertical_flip])
        self._zoom = zoom
        self._angles = np.deg2rad([rotation, shear])

    def draw(self, random: np.random.Generator, count: int) -> Draws:
        """Choose flips, angles and factors for `count` pictures."""
        flipped = (random.random((count, 2)) < 0.5) & self._flip
        rotation, shear = (random.uniform(-1.0, 1.0, (count, 2)) * self._angles).T
        zoom = random.uniform(1 - self._zoom, 1 + self._zoom, (count, 2))
        cos, sin = np.cos(rotation), np.sin(rotation)
        rotate = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
        lean = np.zeros((count, 2, 2))
        lean[:, 0, 0], lean[:, 0, 1], lean[:, 1, 1] = 1.0, -np.sin(shear), np.cos(shear)
        warp = about_centre(rotate @ (lean * zoom[:, np.newaxis]))
        affine = warp @ flips(*flipped.T)
        return Draws(affine[:, :2].astype(np.float32), np.empty((count, 0), np.float32))

    def look(self, image: Any, choice: Any) -> Any:
        """Return the image as it is: colours stay."""
        return image

"""Test-time augmentation: several views of a picture, one embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from trainer.config import UserError
from trainer.models.layers import unit

#: Smallest share of the side that a view may show.
LEAST = 0.25


@dataclass(frozen=True)
class Views:
    """The views of a picture that are embedded: its middle at several sizes, each mirrored or not.

    Args:
        shares: of the side that views show, each once; 1.0 is the whole picture.
        flip: whether each of them is also mirrored left and right.
    """

    shares: tuple[float, ...] = (1.0,)
    flip: bool = False

    @classmethod
    def parse(cls, text: str) -> Views:
        """Read `none`, or what is to be added to the whole picture: `flip`, `0.8`, `flip+0.9+0.8`.

        Raises:
            UserError: anything else.
        """
        if text == "none":
            return cls()
        flip, shares = False, [1.0]
        for part in text.split("+"):
            try:
                share = 0.0 if part == "flip" else float(part)
            except ValueError:
                share = -1.0
            wrong = (flip if part == "flip" else not LEAST <= share < 1) or share in shares
            if wrong:
                raise UserError(
                    f"tta={text!r}: write none, flip, or shares of the side from {LEAST} to below "
                    "1, each once, joined by +: flip+0.9+0.8"
                )
            if part == "flip":
                flip = True
            else:
                shares.append(share)
        return cls(tuple(shares), flip)

    def __len__(self) -> int:
        return len(self.shares) * (1 + self.flip)

    def __str__(self) -> str:
        parts = ["flip"] * self.flip + [f"{share:g}" for share in self.shares[1:]]
        return "+".join(parts) or "none"

    def embed(self, model: Any, images: tf.Tensor) -> tf.Tensor:
        """Return one embedding of each picture: the mean of its views' at length 1, at length 1.

        Args:
            model: images (B, S, S, 3) -> embeddings (B, D).
            images: float32 (B, S, S, 3), 0..255.

        Returns:
            float32 (B, D); as the model gives it where the picture itself is the only view.
        """
        if len(self) == 1:
            return model(images)
        total = 0.0
        for share in self.shares:
            part = _middle(images, share)
            for view in [part, part[:, :, ::-1]][: 1 + self.flip]:
                total += unit(model(view))
        return unit(total / len(self))


def _middle(images: tf.Tensor, share: float) -> tf.Tensor:
    """Return the middle of pictures, `share` of their side, at their full size, bilinear."""
    if share == 1.0:
        return images
    size = images.shape[1]
    corner = (1.0 - share) / 2
    # From the middle of the first pixel that is shown to that of the last.
    low = (corner * size + share / 2 - 0.5) / (size - 1)
    box = tf.constant([[low, low, 1.0 - low, 1.0 - low]])
    count = tf.shape(images)[0]
    return tf.image.crop_and_resize(
        images, tf.repeat(box, count, axis=0), tf.range(count), (size, size)
    )

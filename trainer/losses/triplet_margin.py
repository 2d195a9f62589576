"""Triplet margin loss over explicit triplets."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import TripletLoss, at_least, mean_where


@register("loss", "triplet_margin", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class TripletMargin(TripletLoss):
    """Triplet margin loss over explicit triplets, with a choice of distance and the swap.

    With a measure d, over T triplets of anchor a, positive p and negative n:

        mean over triplets of max(0, d(a, p) - d(a, n) + margin)

    With the swap, d(a, n) gives way to d(p, n) where the negative is closer to the positive than
    to the anchor. With the Euclidean distance this is `torch.nn.TripletMarginLoss`, less the 1e-6
    that it adds to each coordinate of a difference.

    Args:
        margin: float, default 1.0, at least 0, in units of the distance.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does).
        swap: bool, default false: whether the negative is held against the closer of anchor and
            positive.

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, or none
        that violates the margin, 0 with zero gradients.

    Raises:
        ValueError: the margin is negative or there is no such distance.

    Paper: Balntas et al., "Learning local feature descriptors with triplets and shallow
    convolutional neural networks", BMVC 2016.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
        swap: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.distance = distances.get(distance).name
        self.swap = swap

    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the loss of the valid triplets."""
        distance = distances.get(self.distance)
        near = distance.away(distance.between(anchor, positive))
        far = distance.away(distance.between(anchor, negative))
        if self.swap:
            far = ops.minimum(far, distance.away(distance.between(positive, negative)))
        return mean_where(valid, ops.relu(near - far + self.margin))

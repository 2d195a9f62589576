"""Batch-hard triplet loss."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least, mean
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs, at, closest, farthest, has_both


@register("loss", "triplet_hard", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class TripletHard(MatrixLoss):
    """Batch-hard triplet loss: each item's farthest positive against its closest negative.

    With a measure d, over anchors a that have a positive and a negative in the batch:

        mean over anchors of max(0, max_p d(a, p) - min_n d(a, n) + margin)

    or, soft, of log(1 + exp(max_p d(a, p) - min_n d(a, n))), which has no margin.
    `tensorflow_addons.losses.TripletHardLoss` is the same where every item has a positive; it also
    counts items without one, as if their positive were themselves. Memory is O(B^2).

    Args:
        margin: float, default 1.0, at least 0, in units of the distance; unused when soft.
        soft: bool, default false: whether the hinge gives way to the softplus.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does).

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). Without an anchor
        that has both, 0 with zero gradients.

    Raises:
        ValueError: the margin is negative or there is no such distance.

    Paper: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    arXiv:1703.07737.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        soft: bool = False,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.soft = soft
        self.distance = distances.get(distance).name

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        away = self.measure.away(matrix)
        positive, negative = pairs.positive, pairs.negative
        # Without a positive or a negative, this reads some other pair, which is not counted.
        excess = at(away, farthest(away, positive)) - at(away, closest(away, negative))
        each = ops.softplus(excess) if self.soft else ops.relu(excess + self.margin)
        counts = ops.cast(has_both(positive, negative), away.dtype)
        return mean(ops.sum(each * counts), ops.sum(counts))

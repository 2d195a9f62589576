"""Batch-all triplet loss."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least, mean
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs, add_at, at


@register("loss", "batch_all", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class BatchAll(MatrixLoss):
    """Batch-all triplet loss: the mean over all triplets of a batch that violate the margin.

    With a measure d, over all triplets of anchor a, positive p and negative n in the batch:

        sum of max(0, d(a, p) - d(a, n) + margin) / number of triplets for which it is above 0

    Memory is O(B^2), however many triplets there are; time is O(B^2) for each positive of an item.

    Args:
        margin: float, default 0.2, at least 0, in units of the distance.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does).

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). With no triplet
        that violates the margin, 0 with zero gradients.

    Raises:
        ValueError: the margin is negative or there is no such distance.

    Paper: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    arXiv:1703.07737.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.distance = distances.get(distance).name

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        away = self.measure.away(matrix)
        weights, active = violation_weights(ops.stop_gradient(away), pairs, self.margin)
        return mean(ops.sum(weights * away) + self.margin * active, active)


def violation_weights(away: Any, pairs: Pairs, margin: float) -> tuple[Any, Any]:
    """Return weights (B, M) and the number of triplets above the margin.

    Each such triplet adds 1 to the weight of its positive and takes 1 from that of its negative, so
    that the hinges sum to sum(weights * away) + margin * number.
    """
    negatives = ops.where(pairs.negative, away, ops.full_like(away, float("inf")))

    def body(positive: Any, exists: Any, weights: Any, active: Any) -> tuple[Any, Any]:
        limit = ops.where(exists, at(away, positive) + margin, -float("inf"))
        above = ops.cast(negatives < limit, away.dtype)
        count = ops.sum(above, axis=1, keepdims=True)
        return add_at(weights - above, positive, count), active + ops.sum(count)

    none = ops.zeros((), dtype=away.dtype)
    weights, active = pairs.in_turn().fold(1, body, (ops.zeros_like(away), none))
    return weights, active

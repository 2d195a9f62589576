"""Contrastive loss over the pairs of a labelled batch."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import mean
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs


@register("loss", "contrastive", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class Contrastive(MatrixLoss):
    """Contrastive loss over all pairs: positives within one margin, negatives beyond another.

    With a distance d:

        mean of max(0, d(a, p) - pos_margin) over the positive pairs for which it is above 0
      + mean of max(0, neg_margin - d(a, n)) over the negative pairs for which it is above 0

    With the similarity "cosine" the differences turn round: s(a, p) should be above pos_margin and
    s(a, n) below neg_margin. Same semantics as pytorch-metric-learning's `ContrastiveLoss`, but
    embeddings are not normalised for the Euclidean distances.

    Args:
        pos_margin: float or none, default none, in units of the measure: positive pairs at least
            this close cost nothing; none means 0, and 1 for "cosine".
        neg_margin: float or none, default none, in units of the measure: negative pairs at least
            this far apart cost nothing; none means 1, and 0 for "cosine".
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (a similarity, -1..1).

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). With no pair that
        violates its margin, 0 with zero gradients.

    Raises:
        ValueError: there is no such distance.

    Paper: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006.
    """

    def __init__(
        self,
        *,
        pos_margin: float | None = None,
        neg_margin: float | None = None,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.distance = distances.get(distance).name
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        distance = self.measure
        close, far = (1.0, 0.0) if distance.larger_is_closer else (0.0, 1.0)
        close = close if self.pos_margin is None else self.pos_margin
        far = far if self.neg_margin is None else self.neg_margin
        away = distance.away(matrix)
        return _mean_violation(away - distance.away(close), pairs.positive) + _mean_violation(
            distance.away(far) - away, pairs.negative
        )


def _mean_violation(excess: Any, mask: Any) -> Any:
    violation = ops.where(mask, ops.relu(excess), 0.0)
    return mean(ops.sum(violation), ops.sum(ops.cast(violation > 0, excess.dtype)))

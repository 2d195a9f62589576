"""Lifted structured feature embedding loss."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least, mean_where
from trainer.losses.masked import log_add_exp, log_sum_exp
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs


@register("loss", "lifted_structure", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class LiftedStructure(MatrixLoss):
    """Lifted structure loss: each positive pair against all negatives of both its members.

    With a measure d, over the positive pairs (i, j) of the batch, N(i) being the negatives of i:

        mean over positive pairs of max(0, J(i, j))^2 / 2

        J(i, j) = log(sum over k in N(i) of exp(margin - d(i, k))
                    + sum over k in N(j) of exp(margin - d(j, k))) + d(i, j)

    the published loss, which bounds the hardest negative of either member smoothly. Its mean is
    over all positive pairs; pytorch-metric-learning's `LiftedStructureLoss` takes it over those
    above 0 (with its `MeanReducer` it is the same), and normalises embeddings. The 'generalised'
    form of arXiv:1703.07737, which sums over the positives of an anchor too, is another loss.
    Memory is O(B^2).

    Args:
        margin: float, default 1.0, at least 0, in units of the distance.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (a similarity, -1..1, which enters with its sign turned).

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). Without a positive
        pair or without a negative, 0 with zero gradients.

    Raises:
        ValueError: the margin is negative or there is no such distance.

    Paper: Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016,
    arXiv:1511.06452.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.distance = distances.get(distance).name

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        away = self.measure.away(matrix)
        near = self.margin - away
        both = log_add_exp(
            log_sum_exp(near, pairs.negative), log_sum_exp(near, pairs.negative, axis=0)
        )
        return mean_where(pairs.positive, ops.square(ops.relu(both + away)) / 2)

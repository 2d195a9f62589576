"""Multi-similarity loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import at_least, mean
from trainer.losses.masked import log_one_plus_sum_exp
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs


@register("loss", "multi_similarity", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class MultiSimilarity(MatrixLoss):
    """Multi-similarity loss, with its mining of pairs.

    With the cosine similarity s, over anchors a with kept positives P and kept negatives N:

        mean over all B anchors of
            log(1 + sum over P of exp(-alpha (s(a, p) - base))) / alpha
          + log(1 + sum over N of exp( beta (s(a, n) - base))) / beta

    A negative is kept if s(a, n) + epsilon is above the least similar positive of a, a positive if
    s(a, p) - epsilon is below the most similar negative; without mining all are kept. Mining has no
    gradient. With mining an anchor that lacks either kind adds 0.

    Args:
        alpha: float, default 2.0, above 0: sharpness over positives.
        beta: float, default 50.0, above 0: sharpness over negatives.
        base: float, default 0.5: the similarity (-1..1) about which pairs are weighted.
        epsilon: float or none, default 0.1, at least 0: slack of the mining, as a difference of
            similarities; none keeps every pair.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count. With no pair kept, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning", CVPR 2019, arXiv:1904.06627.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.alpha = at_least("alpha", alpha, 0, strictly=True)
        self.beta = at_least("beta", beta, 0, strictly=True)
        self.base = base
        self.epsilon = None if epsilon is None else at_least("epsilon", epsilon, 0)

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        positive, negative = pairs.positive, pairs.negative
        if self.epsilon is not None:
            mined = ops.stop_gradient(matrix)
            least = ops.min(ops.where(positive, mined, float("inf")), axis=1, keepdims=True)
            most = ops.max(ops.where(negative, mined, -float("inf")), axis=1, keepdims=True)
            positive = ops.logical_and(positive, mined - self.epsilon < most)
            negative = ops.logical_and(negative, mined + self.epsilon > least)
        shifted = matrix - self.base
        each = (
            log_one_plus_sum_exp(-self.alpha * shifted, positive) / self.alpha
            + log_one_plus_sum_exp(self.beta * shifted, negative) / self.beta
        )
        return mean(ops.sum(each), ops.shape(each)[0])

"""Circle loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import at_least, mean_where
from trainer.losses.masked import log_sum_exp
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs, has_both


@register("loss", "circle", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class Circle(MatrixLoss):
    """Circle loss: each pair is weighted by how far its similarity is from where it should be.

    With the cosine similarity s, margin m, and over anchors a that have a positive and a negative
    in the batch:

        mean over anchors of log(1 + sum over n of exp(gamma w(n) (s(a, n) - m))
                                   * sum over p of exp(-gamma w(p) (s(a, p) - 1 + m)))

        w(p) = max(0, 1 + m - s(a, p)),  w(n) = max(0, s(a, n) + m)

    The weights w have no gradient, as published. Same semantics as pytorch-metric-learning's
    `CircleLoss`, which leaves an anchor whose loss is too small for its number format out of the
    mean.

    Args:
        margin: float, default 0.4, at least 0, as a difference of cosines: m. The paper has 0.25
            for faces and persons, 0.4 for retrieval of fine classes.
        gamma: float, default 80.0, above 0: scale of the exponents; in the paper 256, 128 and 80.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count. Without an anchor that has both, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR
    2020, arXiv:2002.10857.
    """

    def __init__(self, *, margin: float = 0.4, gamma: float = 80.0, **options: Any) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.gamma = at_least("gamma", gamma, 0, strictly=True)

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        held = ops.stop_gradient(matrix)
        near = ops.relu(1.0 + self.margin - held) * (1.0 - self.margin - matrix)
        far = ops.relu(held + self.margin) * (matrix - self.margin)
        each = ops.softplus(
            log_sum_exp(self.gamma * near, pairs.positive)
            + log_sum_exp(self.gamma * far, pairs.negative)
        )
        return mean_where(has_both(pairs.positive, pairs.negative), each)

"""Supervised contrastive loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import at_least, mean_where
from trainer.losses.masked import log_sum_exp
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs


@register("loss", "supcon", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class SupCon(MatrixLoss):
    """Supervised contrastive loss: all positives of an anchor against all other items.

    With e(a, i) = exp(s(a, i) / t), s the cosine similarity and t the temperature, over the anchors
    a that have positives P(a) in the batch:

        mean over anchors of
            -mean over p in P(a) of log(e(a, p) / sum over all items i but a of e(a, i))

    the paper's L_out, in which the other positives are in the denominator (`ntxent` leaves them
    out). Same semantics as pytorch-metric-learning's `SupConLoss`; the authors' code multiplies by
    t over a base temperature, which is 1 by default. A batch of one class has no negative: no
    anchor counts.

    Args:
        temperature: float, default 0.1, above 0: similarities are divided by it.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count. Without a positive pair or without a negative, 0 with zero gradients.

    Raises:
        ValueError: the temperature is not above 0.

    Paper: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362.
    """

    def __init__(self, *, temperature: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = at_least("temperature", temperature, 0, strictly=True)

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        logits = matrix / self.temperature
        positive, negative = pairs.positive, pairs.negative
        positives = ops.sum(ops.cast(positive, logits.dtype), axis=1, keepdims=True)
        near = ops.sum(ops.where(positive, logits, 0.0), axis=1, keepdims=True)
        against = log_sum_exp(logits, ops.logical_or(positive, negative))
        each = against - near / ops.maximum(positives, 1.0)
        counts = ops.logical_and(positives > 0, ops.any(negative, axis=1, keepdims=True))
        return mean_where(counts, each)

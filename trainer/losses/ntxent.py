"""Normalised temperature-scaled cross-entropy (NT-Xent, InfoNCE) over a labelled batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import at_least, mean_where
from trainer.losses.masked import log_sum_exp
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs


@register("loss", "ntxent", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class NTXent(MatrixLoss):
    """NT-Xent: each positive pair must stand out among the anchor's negatives.

    With the cosine similarity s and temperature t:

        mean over pairs (a, p) of
            -log(exp(s(a, p) / t) / (exp(s(a, p) / t) + sum over n of exp(s(a, n) / t)))

    where n goes over the negatives of a: an anchor's other positives are not in the denominator.
    Same semantics as pytorch-metric-learning's `NTXentLoss`.

    Args:
        temperature: float, default 0.07, above 0: similarities are divided by it.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count. Without a positive pair or without a negative, 0 with zero gradients.

    Raises:
        ValueError: the temperature is not above 0.

    Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    2020, arXiv:2002.05709; Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss
    Objective", NIPS 2016.
    """

    def __init__(self, *, temperature: float = 0.07, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = at_least("temperature", temperature, 0, strictly=True)

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        logits = matrix / self.temperature
        some = ops.any(pairs.negative, axis=1, keepdims=True)
        counts = ops.logical_and(pairs.positive, some)
        against = log_sum_exp(logits, pairs.negative)
        return mean_where(counts, ops.softplus(against - logits))

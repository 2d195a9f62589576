"""Normalised temperature-scaled cross-entropy (NT-Xent, InfoNCE) over a labelled batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import LabelLoss, at_least, mean_where
from trainer.losses.masked import log_sum_exp
from trainer.losses.pairs import pair_masks


@register("loss", "ntxent", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class NTXent(LabelLoss):
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

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        logits = distances.get("cosine").pairwise(embeddings) / self.temperature
        positive, negative = pair_masks(labels)
        counts = ops.logical_and(positive, ops.any(negative, axis=1, keepdims=True))
        against = log_sum_exp(logits, negative)
        return mean_where(counts, ops.softplus(against - logits))

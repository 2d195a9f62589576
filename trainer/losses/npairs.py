"""Multi-class N-pair loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import LabelLoss, at_least, mean_where
from trainer.losses.masked import log_one_plus_sum_exp
from trainer.losses.pairs import pair_masks


@register("loss", "npairs", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class NPairs(LabelLoss):
    """Multi-class N-pair loss: each pair's positive must beat the positives of all other classes.

    The items of a class are paired in the order of the batch: the first with the second, the third
    with the fourth, ...; a last odd one is left out. With pairs (a, p), p+ going over the positives
    of the pairs of other classes, and temperature t:

        mean over pairs of log(1 + sum over p+ of exp((a.p+ - a.p) / t))
      + l2 * mean over the pairs' members of |x|^2

    For the batch of the paper, N classes with two items each, this is its N-pair-mc loss, and
    pytorch-metric-learning's `NPairsLoss` with `DotProductSimilarity(normalize_embeddings=False)`.
    Of larger classes, that one takes the first pair alone. Embeddings enter as they are: with those
    of unit length, which models here give, exponents are within 2 / t, and a temperature of 0.1 or
    so is needed for the loss to come near 0. The published loss has t = 1, embeddings of any length
    (`model.normalize=no`), and keeps these short by the second term.

    Args:
        temperature: float, default 1.0, above 0: inner products are divided by it.
        l2: float, default 0.0, at least 0: weight of the squared lengths.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). Without a pair, or
        with pairs of one class alone and l2 = 0, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016.
    """

    def __init__(self, *, temperature: float = 1.0, l2: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = at_least("temperature", temperature, 0, strictly=True)
        self.l2 = at_least("l2", l2, 0)

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        products = distances.gram(embeddings)
        positive, negative = pair_masks(labels)
        position = ops.arange(ops.shape(labels)[0], dtype="int32")
        before = ops.logical_and(positive, position[None, :] < position[:, None])
        place = ops.sum(ops.cast(before, "int32"), axis=1)
        second = place % 2 == 1
        # The partner of an anchor, one in a row that has one: its class's next item.
        partner = ops.logical_and(positive, place[None, :] == place[:, None] + 1)
        partner = ops.logical_and(partner, second[None, :])
        near = ops.sum(ops.where(partner, products, 0.0), axis=1, keepdims=True)
        others = ops.logical_and(negative, second[None, :])
        each = log_one_plus_sum_exp((products - near) / self.temperature, others)
        anchor = ops.any(partner, axis=1, keepdims=True)
        value = mean_where(anchor, each)
        if self.l2:
            member = ops.logical_or(anchor[:, 0], second)
            value = value + self.l2 * mean_where(member, ops.sum(ops.square(embeddings), axis=1))
        return value

"""The contrastive loss on similarities that cross-batch memories were published with."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import at_least, mean, one_of
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs

#: Released, a positive pair as similar as this is taken for an item with itself.
SELF = 1 - 1e-5


@register("loss", "contrastive_similarity", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class ContrastiveSimilarity(MatrixLoss):
    """Contrastive loss on cosine similarities, summed over the pairs of each anchor.

    With the cosine similarity s, over anchors a with positives P and negatives N:

        mean over all B anchors of
            sum over P of (1 - s(a, p)) + sum over those of N with s(a, n) > margin of s(a, n)

    the form that cross-batch memories were published with. A negative beyond the margin costs its
    whole similarity, not what it is too much, so that the loss jumps at the margin; and an anchor's
    pairs are summed, so that against a memory the loss grows with the positives that it holds.
    `contrastive` with `distance=cosine` takes means instead.

    The released code tells an item from its positives by their similarity: a pair of one class at
    or above 1 - 1e-5 does not count. Here an item is left out as a place in the batch, and whatever
    else shows the same picture counts. `fidelity="released"` leaves such pairs out as well.

    Args:
        margin: float, default 0.5, at least 0, a cosine: negatives at or below it cost nothing.
        fidelity: "corrected" (default) or "released", which reproduces the released arithmetic.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of
        any length: only directions count. With no pair that counts, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020, arXiv:1912.06798.
    """

    def __init__(
        self,
        *,
        margin: float = 0.5,
        fidelity: Literal["corrected", "released"] = "corrected",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.fidelity = one_of("fidelity", fidelity, ("corrected", "released"))

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        positive = pairs.positive
        if self.fidelity == "released":
            positive = ops.logical_and(positive, matrix < SELF)
        negative = ops.logical_and(pairs.negative, matrix > self.margin)
        # A pair is one or the other, or neither, so that one sum does.
        each = ops.where(positive, 1.0 - matrix, ops.where(negative, matrix, 0.0))
        return mean(ops.sum(each), ops.shape(matrix)[0])

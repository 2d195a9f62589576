"""Prototrain's loss of pairs: the positive must beat the hardest negative of the batch."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import PairLoss, at_least, mean_where, one_of


@register("loss", "ranker", takes="pairs")
@keras.saving.register_keras_serializable("mildnet")
class Ranker(PairLoss):
    """Prototrain's ranking loss: each positive must beat the hardest negative of the batch.

    Similarity is the inner product. With P pairs of a query q and a positive p, the negatives n of
    a pair being the positives and the queries of all pairs of other items:

        mean over pairs of max(0, max_n q.n - q.p + margin)

    The released code sets to 0 the similarities of a query to its own item, its own among them, and
    then takes the largest. So where all negatives are below 0 its hardest negative is that 0, which
    has no gradient: max(0, max(0, max_n q.n) - q.p + margin). `fidelity="released"` does so.

    Embeddings enter as they are; models here give those of unit length, of which the inner product
    is the cosine. Memory is O(P^2), that of the similarities among which the hardest is chosen.

    Args:
        margin: float, default 0.1, at least 0, in units of the similarity.
        negatives: "both" (default), or "positives", which leaves out the queries of other items:
            where queries are of one domain and positives of another, as street and shop, these
            are all that a query will be searched among.
        fidelity: "corrected" (default) or "released", which reproduces the released arithmetic.

    Returns:
        A scalar, at least 0. Labels (P,) of any integer type, embeddings (P, 2, D) in the order
        query, positive. In a batch of a single item no pair has a negative: 0 with zero gradients,
        unless released.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Dodds et al., "Learning Embeddings for Product Visual Search with Triplet Loss and
    Online Sampling", 2018, arXiv:1810.04652.
    """

    def __init__(
        self,
        *,
        margin: float = 0.1,
        negatives: Literal["both", "positives"] = "both",
        fidelity: Literal["corrected", "released"] = "corrected",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.negatives = one_of("negatives", negatives, ("both", "positives"))
        self.fidelity = one_of("fidelity", fidelity, ("corrected", "released"))

    def of_pairs(self, labels: Any, query: Any, positive: Any) -> Any:
        """Return the loss of the pairs."""
        other = labels[:, None] != labels[None, :]
        candidates = positive
        if self.negatives == "both":
            candidates = ops.concatenate([positive, query])
            other = ops.concatenate([other, other], axis=1)
        # The matrix says which negative is the hardest, and no gradient goes through it.
        similarity = ops.stop_gradient(ops.matmul(query, ops.transpose(candidates)))
        similarity = ops.where(other, similarity, -float("inf"))
        hardest = ops.take(candidates, ops.argmax(similarity, axis=1), axis=0)
        far = ops.sum(query * hardest, axis=1)
        near = ops.sum(query * positive, axis=1)
        has_negative = ops.any(other, axis=1)
        if self.fidelity == "released":
            far = ops.relu(ops.where(has_negative, far, 0.0))
            has_negative = ops.ones_like(has_negative)
        return mean_where(has_negative, ops.relu(far - near + self.margin))

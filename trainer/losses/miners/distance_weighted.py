"""Positive pairs with negatives drawn from all distances alike."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least
from trainer.losses.miners.base import Miner
from trainer.losses.pairs import pair_masks

#: What 1 - d^2 / 4 is taken for at least: at a distance of 2 the weight would be infinite.
LEAST = 1e-8


@register("miner", "distance_weighted")
@keras.saving.register_keras_serializable("mildnet")
class DistanceWeighted(Miner):
    """Positive pairs, each with a negative drawn so that all distances come about equally often.

    Of points spread evenly over the sphere in D dimensions, nearly all are at a distance of about
    1.4 from each other: q(d) ~ d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2). A negative drawn at random is
    therefore of little use, and the closest one has a noisy gradient. With d(a, n) the Euclidean
    distance of the embeddings scaled to length 1,

        P(n | a) ~ 1 / q(max(d(a, n), cutoff))   where d(a, n) < nonzero_loss_cutoff, else 0

    An anchor all of whose negatives are beyond the second cutoff gives no triplet.

    Args:
        seed: int, default 0: decides all draws.
        cutoff: float, default 0.5, above 0, a distance in 0..2: closer negatives are no likelier
            than those at this distance (the published bound lambda is 1 / q(cutoff)).
        nonzero_loss_cutoff: float, default 1.4, above `cutoff`, a distance in 0..2: negatives from
            here on are never drawn, as they are too far away to cost anything.
        positives: int, default 3, at least 1: of how many of its positives at most an anchor makes
            triplets, all of which are B times this many. Where it has more, as many are drawn at
            random, none of them twice.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, arXiv:1706.07567.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        positives: int = 3,
    ) -> None:
        super().__init__(seed)
        self.cutoff = at_least("cutoff", cutoff, 0, strictly=True)
        self.nonzero_loss_cutoff = at_least(
            "nonzero_loss_cutoff", nonzero_loss_cutoff, cutoff, strictly=True
        )
        self.positives = at_least("positives", positives, 1)

    def choose(self, labels: Any, embeddings: Any) -> tuple[Any, Any, Any]:
        """Return positives, and a negative drawn for each."""
        positive, exists = self.draw_positives(labels, self.positives)
        negative, drawn = self.draw(self.weights(labels, embeddings), positive.shape[1])
        return positive, negative, ops.logical_and(exists, drawn)

    def weights(self, labels: Any, embeddings: Any) -> Any:
        """Return how likely each item (B, B) is as negative of each anchor, the likeliest being 1.

        A row of zeros is an anchor without a negative that may be drawn.
        """
        _, negative = pair_masks(labels)
        away = distances.get("euclidean").pairwise(distances.unit(embeddings))
        away = ops.maximum(away, self.cutoff)
        allowed = ops.logical_and(negative, away < self.nonzero_loss_cutoff)
        size = ops.cast(ops.shape(embeddings)[1], away.dtype)
        density = (size - 2.0) * ops.log(away) + (size - 3.0) / 2 * ops.log(
            ops.maximum(1.0 - ops.square(away) / 4, LEAST)
        )
        # By its own likeliest negative: the weights of one anchor may be far below another's.
        likeliest = ops.min(ops.where(allowed, density, float("inf")), axis=1, keepdims=True)
        return ops.where(allowed, ops.exp(ops.where(allowed, likeliest - density, 0.0)), 0.0)

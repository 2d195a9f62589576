"""Positive pairs with semi-hard negatives."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least
from trainer.losses.miners.base import Miner
from trainer.losses.pairs import at, pair_masks
from trainer.losses.triplet_semihard import semihard


@register("miner", "semihard")
@keras.saving.register_keras_serializable("mildnet")
class Semihard(Miner):
    """Positive pairs, each with its closest negative beyond the positive, or else the farthest one.

    With the loss `triplet_margin` it is the loss `triplet_semihard`, where no item has more
    positives than are taken; other losses over triplets learn from the same ones.

    Args:
        seed: int, default 0: decides which positives are drawn where there are too many.
        positives: int, default 3, at least 1: of how many of its positives at most an anchor makes
            triplets, all of which are B times this many. Where it has more, as many are drawn at
            random, none of them twice.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does).

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", 2015,
    arXiv:1503.03832.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        positives: int = 3,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
    ) -> None:
        super().__init__(seed)
        self.positives = at_least("positives", positives, 1)
        self.distance = distances.get(distance).name

    def choose(self, labels: Any, embeddings: Any) -> tuple[Any, Any, Any]:
        """Return positives and their negatives."""
        away = distances.get(self.distance).pairwise_away(embeddings)
        _, negative = pair_masks(labels)
        positive, exists = self.draw_positives(labels, self.positives)
        chosen = semihard(away, negative, at(away, positive))
        return positive, chosen, ops.logical_and(exists, ops.any(negative, axis=1, keepdims=True))

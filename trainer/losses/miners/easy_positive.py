"""The closest positive of each anchor."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import one_of
from trainer.losses.miners.base import Miner
from trainer.losses.pairs import at, closest, farthest, has_both, pair_masks
from trainer.losses.triplet_semihard import semihard


@register("miner", "easy_positive")
@keras.saving.register_keras_serializable("mildnet")
class EasyPositive(Miner):
    """Each item's closest positive with a negative of the item: a triplet for each item.

    Pulling an item to its nearest classmate alone leaves a class free to be several clusters, such
    as views of a product that do not look alike, which carries over better to classes never seen.
    Items without a positive or a negative in the batch give none.

    Args:
        seed: int, default 0: decides the draws, if there are any.
        negatives: "semihard" (default): the closest negative farther than the positive; an item
            that has none gives no triplet. "hard": the closest negative. "easy": the farthest one.
            "random": any, all alike likely.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does): by what is far and what is close.

    Raises:
        ValueError: there is no such choice of negatives or no such distance.

    Paper: Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020,
    arXiv:1904.04370.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        negatives: Literal["semihard", "hard", "easy", "random"] = "semihard",
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
    ) -> None:
        super().__init__(seed)
        self.negatives = one_of("negatives", negatives, ("semihard", "hard", "easy", "random"))
        self.distance = distances.get(distance).name

    def choose(self, labels: Any, embeddings: Any) -> tuple[Any, Any, Any]:
        """Return one positive and one negative of each item."""
        away = distances.get(self.distance).pairwise_away(embeddings)
        positive, negative = pair_masks(labels)
        near, valid = closest(away, positive), has_both(positive, negative)
        if self.negatives == "hard":
            return near, closest(away, negative), valid
        if self.negatives == "easy":
            return near, farthest(away, negative), valid
        if self.negatives == "random":
            far, drawn = self.draw(ops.cast(negative, away.dtype), 1)
            return near, far, ops.logical_and(valid, drawn)
        far = semihard(away, negative, at(away, near))
        return near, far, ops.logical_and(valid, at(away, far) > at(away, near))

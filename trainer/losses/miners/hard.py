"""The hardest triplet of each anchor."""

from __future__ import annotations

from typing import Any, Literal

import keras

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.miners.base import Miner
from trainer.losses.pairs import closest, farthest, has_both, pair_masks


@register("miner", "hard")
@keras.saving.register_keras_serializable("mildnet")
class Hard(Miner):
    """Each item's farthest positive with its closest negative: a triplet for each item.

    Items without a positive or a negative in the batch give none. With the loss `triplet_margin` it
    is the loss `triplet_hard`; other losses over triplets learn from the same ones.

    Args:
        seed: int, not used: nothing is drawn.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does): by what is far and what is close.

    Raises:
        ValueError: there is no such distance.

    Paper: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    arXiv:1703.07737.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
    ) -> None:
        super().__init__(seed)
        self.distance = distances.get(distance).name

    def choose(self, labels: Any, embeddings: Any) -> tuple[Any, Any, Any]:
        """Return one positive and one negative of each item."""
        away = distances.get(self.distance).pairwise_away(embeddings)
        positive, negative = pair_masks(labels)
        chosen = farthest(away, positive), closest(away, negative)
        return *chosen, has_both(positive, negative)

"""CosFace loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from trainer.config.registry import register
from trainer.losses.base import at_least
from trainer.losses.class_softmax import ClassSoftmax


@register("loss", "cosface", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class CosFace(ClassSoftmax):
    """CosFace loss: a softmax over classes, whose own one must win by a difference of cosines.

    With c(j) the cosine of an item with the learnt center of class j, and y its class:

        mean over items of
            -log(exp(scale (c(y) - margin))
                 / (exp(scale (c(y) - margin)) + sum over j other than y of exp(scale c(j))))

    Same semantics as pytorch-metric-learning's `CosFaceLoss`. A layer: call
    `prepare(classes, embedding_dim)` before the first batch; a job does. An item of no class that
    was named there is left out.

    Args:
        scale: float, default 64.0, above 0: cosines are multiplied by it.
        margin: float, default 0.35, at least 0, as a difference of cosines.
        sampled_classes: int, default 0, at least 0: how many classes the softmax of a training step
            runs over, those of the batch and others drawn anew; 0 = all.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count, also of the centers. With no item of a known class, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range, or the loss is called before `prepare`.

    Paper: Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018,
    arXiv:1801.09414. Sampled classes: arXiv:2203.15565.
    """

    def __init__(
        self,
        *,
        scale: float = 64.0,
        margin: float = 0.35,
        sampled_classes: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(scale=scale, sampled_classes=sampled_classes, **options)
        self.margin = at_least("margin", margin, 0)

    def margins(self, counts: np.ndarray) -> Any:
        """Return the margin of all classes."""
        return self.margin

    def lowered(self, cosine: Any, margin: Any) -> Any:
        """Return the cosine (B, 1) of items with their own class, lowered by its margin."""
        return cosine - margin

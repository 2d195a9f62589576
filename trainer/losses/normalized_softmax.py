"""Normalized softmax loss."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config.registry import register
from trainer.losses.class_softmax import ClassSoftmax


@register("loss", "normalized_softmax", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class NormalizedSoftmax(ClassSoftmax):
    """Normalized softmax loss: a softmax over cosines with the learnt centers of the classes.

    With c(j) the cosine of an item with the center of class j, and y its class:

        mean over items of -log(exp(scale c(y)) / sum over all j of exp(scale c(j)))

    Same semantics as pytorch-metric-learning's `NormalizedSoftmaxLoss`, whose `temperature` is
    1 / scale. A layer: call `prepare(classes, embedding_dim)` before the first batch; a job does.
    An item of no class that was named there is left out.

    Args:
        scale: float, default 20.0, above 0: cosines are multiplied by it.
        sampled_classes: int, default 0, at least 0: how many classes the softmax of a training step
            runs over, those of the batch and others drawn anew; 0 = all.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count, also of the centers. With no item of a known class, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range, or the loss is called before `prepare`.

    Paper: Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019,
    arXiv:1811.12649. Sampled classes: arXiv:2203.15565.
    """

    def __init__(self, *, scale: float = 20.0, sampled_classes: int = 0, **options: Any) -> None:
        super().__init__(scale=scale, sampled_classes=sampled_classes, **options)

    def lowered(self, cosine: Any, margin: Any) -> Any:
        """Return the cosine (B, 1) of items with their own class, as it is."""
        return cosine

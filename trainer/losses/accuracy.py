"""Triplet accuracy: how often the positive is closer than the negative."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.losses import distances


def triplet_accuracy(embeddings: Any) -> Any:
    """Return the percentage of triplets with d(a, n) > d(a, p), d the Euclidean distance.

    Args:
        embeddings: (T, 3, D) in the order anchor, positive, negative.

    Returns:
        A float32 scalar, 0..100 in percent; 0 without a triplet.
    """
    correct = _correct(embeddings)
    return 100.0 * ops.sum(correct) / ops.maximum(ops.cast(ops.shape(correct)[0], "float32"), 1.0)


@keras.saving.register_keras_serializable("mildnet")
class TripletAccuracy(keras.metrics.Mean):
    """Percentage of triplets with d(a, n) > d(a, p), over all batches seen (0..100).

    Args:
        name: str, default "triplet_accuracy".
    """

    def __init__(self, name: str = "triplet_accuracy", **options: Any) -> None:
        super().__init__(name=name, **options)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch of embeddings (T, 3, D); labels `y_true` are ignored."""
        super().update_state(100.0 * _correct(y_pred), sample_weight)


def _correct(embeddings: Any) -> Any:
    embeddings = ops.cast(ops.convert_to_tensor(embeddings), "float32")
    squared = distances.get("squared_euclidean")
    anchor, positive, negative = embeddings[:, 0], embeddings[:, 1], embeddings[:, 2]
    closer = squared.between(anchor, negative) > squared.between(anchor, positive)
    return ops.cast(closer, "float32")

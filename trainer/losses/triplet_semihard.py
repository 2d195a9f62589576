"""Triplet loss with semi-hard negatives mined from a labelled batch."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import LabelLoss, at_least, mean
from trainer.losses.pairs import Classmates, pair_masks


@register("loss", "triplet_semihard", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class TripletSemihard(LabelLoss):
    """Triplet loss in which each positive pair meets its closest negative beyond the positive.

    For each pair of an anchor a and a positive p, the negative n is the closest to a of those
    strictly farther from it than p; where none is, the farthest negative of a. With a measure d:

        mean over pairs (a, p) of max(0, d(a, p) - d(a, n) + margin)

    Same semantics as `tensorflow_addons.losses.TripletSemiHardLoss`, except that pairs of an anchor
    without any negative are left out of the mean. Of negatives at exactly the same distance one is
    taken. Memory is O(B^2).

    Args:
        margin: float, default 1.0, at least 0, in units of the distance.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does).

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). With no positive
        pair whose anchor has a negative, 0 with zero gradients.

    Raises:
        ValueError: the margin is negative or there is no such distance.

    Paper: Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", 2015,
    arXiv:1503.03832.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: Literal["euclidean", "squared_euclidean", "angular", "cosine"] = "euclidean",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.distance = distances.get(distance).name

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        distance = distances.get(self.distance)
        away = distance.away(distance.pairwise(embeddings))
        weights, active, count = semihard_weights(ops.stop_gradient(away), labels, self.margin)
        return mean(ops.sum(weights * away) + self.margin * active, count)


def semihard_weights(away: Any, labels: Any, margin: float) -> tuple[Any, Any, Any]:
    """Return (B, B) weights w, and the numbers of pairs above the margin and of pairs.

    The sum of the hinges is sum(w * away) + margin * (pairs above the margin): each of those adds 1
    to its positive and -1 to its negative. The mining so happens outside the gradient, whose
    backward pass costs the same however many pairs there are.
    """
    _, negative = pair_masks(labels)
    rows = ops.arange(ops.shape(labels)[0], dtype="int32")
    size = ops.shape(labels)[0]
    infinite = ops.full_like(away, float("inf"))
    farthest = ops.cast(ops.argmax(ops.where(negative, away, -infinite), axis=1), "int32")
    candidates = ops.where(negative, away, -infinite)
    has_negative = ops.any(negative, axis=1)
    classmates = Classmates(labels)

    def column(positions: Any) -> Any:
        return ops.squeeze(ops.take_along_axis(away, positions[:, None], axis=1), axis=1)

    def body(k: Any, weights: Any, active: Any, count: Any) -> tuple[Any, ...]:
        mate, valid = classmates.at(k)
        mate = ops.cast(mate, "int32")
        valid = ops.logical_and(valid, has_negative)
        near = column(mate)
        beyond = ops.where(candidates > near[:, None], candidates, infinite)
        closest = ops.cast(ops.argmin(beyond, axis=1), "int32")
        found = ops.squeeze(ops.take_along_axis(beyond, closest[:, None], axis=1), axis=1)
        chosen = ops.where(ops.isfinite(found), closest, farthest)
        hit = ops.logical_and(valid, near - column(chosen) + margin > 0)
        hit = ops.cast(hit, away.dtype)
        update = ops.segment_sum(
            ops.concatenate([hit, -hit]),
            ops.concatenate([rows * size + mate, rows * size + chosen]),
            num_segments=size * size,
        )
        return (
            k + 1,
            weights + ops.reshape(update, ops.shape(weights)),
            active + ops.sum(hit),
            count + ops.sum(ops.cast(valid, away.dtype)),
        )

    zero = ops.zeros((), dtype=away.dtype)
    _, weights, active, count = ops.while_loop(
        lambda k, *_: k < classmates.rounds,
        body,
        (ops.zeros((), dtype="int32"), ops.zeros_like(away), zero, zero),
    )
    return ops.stop_gradient(weights), ops.stop_gradient(active), count

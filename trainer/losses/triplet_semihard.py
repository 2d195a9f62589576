"""Triplet loss with semi-hard negatives mined from a labelled batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least, mean
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs, add_at, at, closest, farthest, first_above

#: Up to this many positives an item, one pass over all negatives for each positive is cheaper than
#: sorting the negatives once. (1024 items, two CPU cores: equal at about 25, or at about 130 under
#: XLA, whose sort is slow on CPU.)
PASSES = 16

#: Positives looked up at a time in the sorted negatives.
LOOKUPS = 32


@register("loss", "triplet_semihard", takes="labels", memory="yes")
@keras.saving.register_keras_serializable("mildnet")
class TripletSemihard(MatrixLoss):
    """Triplet loss in which each positive pair meets its closest negative beyond the positive.

    For each pair of an anchor a and a positive p, the negative n is the closest to a of those
    strictly farther from it than p; where none is, the farthest negative of a. With a measure d:

        mean over pairs (a, p) of max(0, d(a, p) - d(a, n) + margin)

    Same semantics as `tensorflow_addons.losses.TripletSemiHardLoss`, save that a batch of a single
    class costs nothing. Of negatives at exactly the same distance, one is taken. Memory is O(B^2).

    Args:
        margin: float, default 1.0, at least 0, in units of the distance.
        distance: "euclidean" (default), "squared_euclidean", "angular" (1 - cosine, 0..2) or
            "cosine" (which gives what "angular" does).

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D). Without a positive
        pair or without a negative, 0 with zero gradients.

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

    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors against references."""
        away = self.measure.away(matrix)
        weights, active, count = semihard_weights(ops.stop_gradient(away), pairs, self.margin)
        return mean(ops.sum(weights * away) + self.margin * active, count)


def semihard_weights(away: Any, pairs: Pairs, margin: float) -> tuple[Any, Any, Any]:
    """Return weights (B, M), the number of pairs above the margin, and the number of pairs.

    Each pair above the margin adds 1 to the weight of its positive and takes 1 from that of its
    negative, so that the hinges sum to sum(weights * away) + margin * (pairs above the margin).
    Mining thus stays out of the gradient, which costs the same however many pairs there are.
    """
    positives, negative = pairs.in_turn(), pairs.negative
    has_negative = ops.any(negative, axis=1, keepdims=True)

    def weigh(select: Callable[[Any], Any], width: int) -> tuple[Any, Any, Any]:
        def body(positive: Any, exists: Any, weights: Any, active: Any, count: Any) -> Any:
            near = at(away, positive)
            chosen = select(near)
            counts = ops.logical_and(exists, has_negative)
            above = ops.logical_and(counts, near - at(away, chosen) + margin > 0)
            above = ops.cast(above, away.dtype)
            weights = add_at(
                weights,
                ops.concatenate([positive, chosen], axis=1),
                ops.concatenate([above, -above], axis=1),
            )
            count = count + ops.sum(ops.cast(counts, away.dtype))
            return weights, active + ops.sum(above), count

        none = ops.zeros((), dtype=away.dtype)
        return tuple(positives.fold(width, body, (ops.zeros_like(away), none, none)))

    return ops.cond(
        positives.most <= PASSES,
        lambda: weigh(by_passes(away, negative), 1),
        lambda: weigh(by_sorting(away, negative), LOOKUPS),
    )


def semihard(away: Any, negative: Any, near: Any) -> Any:
    """Return the column (B, C) of the semi-hard negative for each of the values `near` (B, C).

    C is known from the start; `negative` (B, M) says what is a negative.
    """
    if near.shape[1] > PASSES:
        return by_sorting(away, negative)(near)
    choose = by_passes(away, negative)
    passes = [choose(near[:, place : place + 1]) for place in range(near.shape[1])]
    return ops.concatenate(passes, axis=1)


def by_passes(away: Any, negative: Any) -> Callable[[Any], Any]:
    """Return the choice of semi-hard negatives that compares each positive with all negatives.

    The choice takes values (B, 1) and gives columns (B, 1): of the smallest negative above the
    value in its row, or of the largest negative where none is above.
    """
    candidates = ops.where(negative, away, -float("inf"))
    last = farthest(away, negative)

    def choose(near: Any) -> Any:
        beyond = candidates > near
        first = closest(candidates, beyond)
        return ops.where(at(beyond, first), first, last)

    return choose


def by_sorting(away: Any, negative: Any) -> Callable[[Any], Any]:
    """Return the choice that `by_passes` makes, by binary search in sorted negatives.

    Takes values (B, C) and gives columns (B, C).
    """
    size = ops.shape(away)[1]
    # A comparison that NaN fails keeps NaN out of the sort, which may otherwise not end well.
    known = ops.logical_and(negative, away < float("inf"))
    descending, columns = ops.top_k(ops.where(known, -away, -float("inf")), k=size)
    ascending = -descending
    count = ops.sum(ops.cast(negative, "int32"), axis=1, keepdims=True)

    def choose(near: Any) -> Any:
        first = first_above(ascending, count, near)
        return ops.cast(at(columns, ops.clip(first, 0, ops.maximum(count - 1, 0))), "int32")

    return choose

"""Angular loss over explicit triplets, as a hinge and in its smooth form."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import TripletLoss, at_least, mean_where, one_of

#: An inner product of which the exponential is 0, whatever is taken from it or it is scaled by.
NOT_THERE = -1e30


@register("loss", "angular_loss_1", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class AngularHinge(TripletLoss):
    """Angular loss: the angle at the negative of each triplet must stay below alpha.

    Over T triplets of anchor a, positive p and negative n, with c = (a + p) / 2:

        mean over triplets of max(0, |a - p|^2 - 4 tan(alpha)^2 |n - c|^2)

    Multiplying all embeddings by a factor multiplies the loss by its square and solves no triplet.

    Args:
        alpha: float, default 45.0, above 0 and below 90, in degrees: the largest angle that costs
            nothing.

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, or none
        with too large an angle, 0 with zero gradients.

    Raises:
        ValueError: alpha is out of its range.

    Paper: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, arXiv:1708.01682;
    used by MILDNet's code, arXiv:1903.00905.
    """

    def __init__(self, *, alpha: float = 45.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = _acute("alpha", alpha)

    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the loss of the valid triplets."""
        between = distances.get("squared_euclidean").between
        away = between(negative, (anchor + positive) / 2)
        violation = between(anchor, positive) - 4 * _squared_tangent(self.alpha) * away
        return mean_where(valid, ops.relu(violation))


@register("loss", "angular_loss_2", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class AngularNPair(TripletLoss):
    """Angular loss in its smooth form over many negatives, with an N-pair term.

    Over T triplets of anchor a, positive p and negative n, with t = tan(alpha)^2, and with N(a) the
    negatives of an anchor:

        mean over triplets of
            log(1 + sum over n in N(a) of exp(4 t (a + p).n - 2 (1 + t) a.p))
          + npair_weight log(1 + sum over n in N(a) of exp(a.n - a.p))

    The paper's batch is pairs of classes that all differ, in which the other pairs serve as
    negatives. A batch of T triplets is read alike: N(a) is the triplet's own negative and the
    positives of the T - 1 other triplets, T in all. Where the triplets of a batch often share a
    product (few classes, or the rows of one query in a run), `negatives="own"` leaves the others
    out. Memory is O(T^2), or O(T) with "own".

    The formula assumes embeddings of unit length, which the models here give: lengths dropped out
    of it. The paper adds the terms the other way round, as N-pair + lambda angular, which is this
    up to a factor with npair_weight = 1 / lambda.

    Args:
        alpha: float, default 45.0, above 0 and below 90, in degrees: the angle at a negative above
            which it costs much.
        npair_weight: float, default 2.0, at least 0: weight of the N-pair term.
        negatives: "batch" (default) or "own".

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, 0.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, arXiv:1708.01682,
    section 3.3; Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS
    2016; used by MILDNet's code, arXiv:1903.00905.
    """

    def __init__(
        self,
        *,
        alpha: float = 45.0,
        npair_weight: float = 2.0,
        negatives: Literal["batch", "own"] = "batch",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.alpha = _acute("alpha", alpha)
        self.npair_weight = at_least("npair_weight", npair_weight, 0)
        self.negatives = one_of("negatives", negatives, ("batch", "own"))

    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the loss of the valid triplets."""
        tangent = _squared_tangent(self.alpha)
        near = ops.sum(anchor * positive, axis=1, keepdims=True)
        angular = 4 * tangent * self._products(anchor + positive, positive, negative, valid)
        each = _log_one_plus_sum_exp(angular - 2 * (1 + tangent) * near)
        if self.npair_weight:
            npair = self._products(anchor, positive, negative, valid)
            each = each + self.npair_weight * _log_one_plus_sum_exp(npair - near)
        return mean_where(valid, each)

    def _products(self, rows: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the inner products of each row with its negatives: (T, T), or (T, 1)."""
        own = ops.sum(rows * negative, axis=1, keepdims=True)
        if self.negatives == "own":
            return own
        place = ops.arange(ops.shape(rows)[0], dtype="int32")
        # The triplet's own negative stands where its own positive would.
        others = ops.matmul(rows, ops.transpose(positive))
        others = ops.where(valid[None, :], others, NOT_THERE)
        return ops.where(place[:, None] == place[None, :], own, others)


def _log_one_plus_sum_exp(values: Any) -> Any:
    """Row by row, log(1 + sum of exp(values)), which does not overflow."""
    return ops.softplus(ops.logsumexp(values, axis=1))


def _squared_tangent(degrees: float) -> float:
    return math.tan(math.radians(degrees)) ** 2


def _acute(name: str, degrees: float) -> float:
    if not 0 < degrees < 90:
        raise ValueError(f"{name}={degrees} must be above 0 and below 90 degrees")
    return degrees

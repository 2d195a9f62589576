"""MILDNet's losses over explicit triplets: as its paper means them, as its code computes them."""

from __future__ import annotations

import abc
from typing import Any, Literal

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import TripletLoss, at_least, mean_where, one_of

#: The released losses clip embeddings to [CLIP, 1 - CLIP] before anything else.
CLIP = 1e-7


class MILDNetLoss(TripletLoss):
    """A loss with a margin of which there are two forms: the corrected and the released one."""

    def __init__(
        self,
        *,
        margin: float = 1.0,
        fidelity: Literal["corrected", "released"] = "corrected",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.fidelity = one_of("fidelity", fidelity, ("corrected", "released"))

    def of_valid(self, triplets: Any, valid: Any) -> Any:
        """Return the loss of embeddings (T, 3, D), which the released form clips first."""
        if self.fidelity == "released":
            triplets = ops.clip(triplets, CLIP, 1 - CLIP)
        return super().of_valid(triplets, valid)


class PerTripletHinge(MILDNetLoss):
    """The hinge of each triplet, then the mean; released, the hinge of the batch's mean."""

    scale = 1.0

    @abc.abstractmethod
    def excess(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """Return how much farther apart than wanted each triplet is (T,), the margin left out."""

    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the loss of the valid triplets."""
        violation = self.scale * (self.margin + self.excess(anchor, positive, negative))
        if self.fidelity == "released":
            return ops.relu(mean_where(valid, violation))
        return mean_where(valid, ops.relu(violation))


@register("loss", "hinge_loss", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class HingeLoss(PerTripletHinge):
    """Hinge loss over triplets, as in MILDNet: the positive must be closer by a margin.

    With the Euclidean distance d, over T triplets of anchor q, positive p and negative n:

        mean over triplets of max(0, margin + d(q, p) - d(q, n))

    The released code applies the hinge once, to the mean of the batch, so that triplets already
    solved make up for those which are not, and clips the embeddings first, which sets negative
    coordinates to zero: max(0, mean(margin + d(q, p) - d(q, n))). `fidelity="released"` does so.

    Args:
        margin: float, default 1.0, at least 0, in units of the distance.
        fidelity: "corrected" (default) or "released", which reproduces the released arithmetic.

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, or none
        that violates the margin, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Vishal et al., "MILDNet: A Lightweight Single Scaled Deep Ranking Architecture", 2019,
    arXiv:1903.00905.
    """

    def excess(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """Return d(q, p) - d(q, n)."""
        between = distances.get("euclidean").between
        return between(anchor, positive) - between(anchor, negative)


@register("loss", "hinge_twice_loss", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class HingeTwiceLoss(HingeLoss):
    """Twice the hinge loss over triplets, as in MILDNet's code.

    With the Euclidean distance d, over T triplets of anchor q, positive p and negative n:

        mean over triplets of max(0, 2 (margin + d(q, p) - d(q, n)))

    It has the minima of `hinge_loss` and twice its gradient. The released code takes the hinge of
    the batch's mean, of clipped embeddings, as it does in `hinge_loss`: max(0, 2 mean(margin +
    d(q, p) - d(q, n))). `fidelity="released"` does so.

    Args:
        margin: float, default 1.0, at least 0, in units of the distance.
        fidelity: "corrected" (default) or "released", which reproduces the released arithmetic.

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, or none
        that violates the margin, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Vishal et al., "MILDNet: A Lightweight Single Scaled Deep Ranking Architecture", 2019,
    arXiv:1903.00905.
    """

    scale = 2.0


@register("loss", "hinge_new_loss", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class HingeNewLoss(PerTripletHinge):
    """Hinge loss that keeps the negative away from the positive as well, as in MILDNet's code.

    With the Euclidean distance d, over T triplets of anchor q, positive p and negative n:

        mean over triplets of max(0, 2 (margin + 2 d(q, p) - d(q, n) - d(p, n)))

    The released code takes the hinge of the batch's mean, of clipped embeddings, as it does in
    `hinge_loss`: max(0, 2 mean(margin + 2 d(q, p) - d(q, n) - d(p, n))). `fidelity="released"` does
    so.

    Args:
        margin: float, default 1.0, at least 0, in units of the distance: by how much d(q, n) and
            d(p, n) together must go past twice d(q, p).
        fidelity: "corrected" (default) or "released", which reproduces the released arithmetic.

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, or none
        that violates the margin, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Vishal et al., "MILDNet: A Lightweight Single Scaled Deep Ranking Architecture", 2019,
    arXiv:1903.00905.
    """

    scale = 2.0

    def excess(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """Return 2 d(q, p) - d(q, n) - d(p, n)."""
        between = distances.get("euclidean").between
        near = 2 * between(anchor, positive)
        return near - between(anchor, negative) - between(positive, negative)


@register("loss", "contrastive_loss", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class ContrastiveTripletLoss(MILDNetLoss):
    """Contrastive loss over the two pairs of each triplet, as in MILDNet.

    With the Euclidean distance d, over the 2T pairs (q, p) and (q, n) of T triplets:

        mean over pairs of d(q, p)^2 and max(0, margin - d(q, n))^2

    The released code clips the embeddings first, which sets negative coordinates to zero;
    `fidelity="released"` does so.

    Args:
        margin: float, default 1.0, at least 0, in units of the distance: negatives farther than
            this cost nothing.
        fidelity: "corrected" (default) or "released", which reproduces the released arithmetic.

    Returns:
        A scalar, at least 0. Embeddings (T, 3, D); labels are ignored. With no triplet, 0.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006; used
    by MILDNet, arXiv:1903.00905.
    """

    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the loss of the valid triplets."""
        together = distances.get("squared_euclidean").between(anchor, positive)
        apart = self.margin - distances.get("euclidean").between(anchor, negative)
        return mean_where(valid, together + ops.square(ops.relu(apart))) / 2

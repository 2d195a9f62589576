"""Lossless triplet loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import TripletLoss, at_least, mean_where

#: Keeps the logarithms finite: no term goes above -log(EPSILON), which is 18.4.
EPSILON = 1e-8


@register("loss", "lossless_loss", takes="triplets")
@keras.saving.register_keras_serializable("mildnet")
class LosslessLoss(TripletLoss):
    """Lossless triplet loss: logarithms in place of the hinge, so that no triplet is ever solved.

    With the squared Euclidean distance d2, over T triplets of anchor a, positive p and negative n,
    and with e = 1e-8:

        mean over triplets of
            -log(1 - d2(a, p) / beta + e) - log(1 - (N - d2(a, n)) / beta + e)

    N is the largest squared distance there can be. In the published form N = beta = D, the
    embedding size, for coordinates in 0..1 such as a sigmoid gives. Embeddings of unit length, as
    the models here give them, are never farther apart than a squared distance of 4; with N = D of
    hundreds the positives then hardly count: a positive is pulled closer by 1 / D for each unit of
    squared distance, where a negative is pushed away by 1 / 4 or more. For them set `n=4` (in a
    config, `loss.n=4`). With the cosine c the loss is then

        mean over triplets of -log((1 + c(a, p)) / 2) - log((1 - c(a, n)) / 2)

    the cross-entropy of saying that two pictures show the same product. What goes into a logarithm
    is kept within 0..1 before e is added, so that a squared distance above N counts as N (that of a
    positive, above beta, as beta) and has no gradient.

    Args:
        n: float or none, default none, above 0, in units of the squared distance: N, the largest
            there can be; none means the embedding size D.
        beta: float or none, default none, at least N, in units of the squared distance: what they
            are divided by; none means N. Above N it flattens the logarithms.

    Returns:
        A scalar, at least 0 up to rounding. Embeddings (T, 3, D); labels are ignored. With no
        triplet, 0.

    Raises:
        ValueError: a parameter is out of its range.

    Paper: none; published as Arsenault, "Lossless Triplet loss", 2018,
    https://coffeeanddata.ca/lossless-triplet-loss/. Used by MILDNet's code, arXiv:1903.00905.
    """

    def __init__(
        self, *, n: float | None = None, beta: float | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.n = None if n is None else at_least("n", n, 0, strictly=True)
        self.beta = None if beta is None else at_least("beta", beta, n or 0, strictly=n is None)

    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the loss of the valid triplets."""
        n = float(anchor.shape[-1]) if self.n is None else self.n
        beta = n if self.beta is None else at_least("beta", self.beta, n)
        between = distances.get("squared_euclidean").between
        near = 1.0 - between(anchor, positive) / beta
        # Not 1 - (n - distance) / beta, which in float32 loses a distance small beside n.
        far = (between(anchor, negative) + (beta - n)) / beta
        return mean_where(valid, _minus_log(near) + _minus_log(far))


def _minus_log(share: Any) -> Any:
    return -ops.log(ops.clip(share, 0.0, 1.0) + EPSILON)

"""SoftTriple loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least
from trainer.losses.proxies import ProxyLoss, cross_entropy

#: Keeps the slope of the distance between equal centers finite.
EPSILON = 1e-5


@register("loss", "soft_triple", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class SoftTriple(ProxyLoss):
    """SoftTriple loss: a softmax over classes, each of which has several learnt centers.

    With w(c, k) the K centers of class c, and all vectors scaled to length 1:

        S(x, c) = sum over k of q(k) x.w(c, k),  q = softmax over k of x.w(c, k) / gamma

        mean over items x of class y of
            -log(exp(la (S(x, y) - margin))
                 / (exp(la (S(x, y) - margin)) + sum over c other than y of exp(la S(x, c))))
      + tau / (C K (K - 1)) * sum over classes and their pairs of centers of
            sqrt(2 + 1e-5 - 2 w(c, s).w(c, t))

    The last term draws the centers of a class together, so that few of them remain apart. Same
    semantics as the authors' code; pytorch-metric-learning's `SoftTripleLoss` is this with tau = 0,
    and with its `SparseCentersRegularizer`, weighted by tau, the whole. A layer: call
    `prepare(classes, embedding_dim)` before the first batch; a job does. An item of no class that
    was named there is left out. Memory is O(B C K + C K^2). The authors train the centers with Adam
    at 1e-2, 100 times the rate of the rest: `train.loss_lr_scale=100` with `lr=0.0001`.

    Args:
        centers_per_class: int, default 10, at least 1: K.
        la: float, default 20.0, above 0: sharpness of the softmax over classes.
        gamma: float, default 0.1, above 0: the smaller, the more the closest center counts alone.
        margin: float, default 0.01, at least 0, as a difference of cosines.
        tau: float, default 0.2, at least 0: weight of the term over centers.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count, also of the centers. With no item of a known class, 0 with zero gradients,
        the term over centers included.

    Raises:
        ValueError: a parameter is out of its range, or the loss is called before `prepare`.

    Paper: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019,
    arXiv:1909.05235.
    """

    def __init__(
        self,
        *,
        centers_per_class: int = 10,
        la: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.centers_per_class = at_least("centers_per_class", centers_per_class, 1)
        self.la = at_least("la", la, 0, strictly=True)
        self.gamma = at_least("gamma", gamma, 0, strictly=True)
        self.margin = at_least("margin", margin, 0)
        self.tau = at_least("tau", tau, 0)

    @property
    def per_class(self) -> int:
        """How many centers each class has."""
        return self.centers_per_class

    def of_classes(self, own: Any, embeddings: Any, proxies: Any) -> Any:
        """Return the loss of a batch."""
        centers = distances.unit(proxies)
        similarity = ops.matmul(distances.unit(embeddings), ops.transpose(centers))
        if self.per_class > 1:
            each = ops.reshape(similarity, (-1, own.shape[1], self.per_class))
            similarity = ops.sum(ops.softmax(each / self.gamma, axis=2) * each, axis=2)
        lowered = ops.where(own, similarity - self.margin, similarity)
        value = cross_entropy(self.la * lowered, own)
        if self.tau and self.per_class > 1:
            known = ops.cast(ops.any(own), value.dtype)
            value = value + known * self.tau * _spread(centers, self.per_class)
        return value


def _spread(centers: Any, per_class: int) -> Any:
    """Return half the mean distance between two centers (of length 1) of a class."""
    grouped = ops.reshape(centers, (-1, per_class, centers.shape[1]))
    products = ops.matmul(grouped, ops.transpose(grouped, (0, 2, 1)))
    apart = ops.sqrt(ops.maximum(2.0 + EPSILON - 2.0 * products, 0.0))
    pairs = ops.triu(ops.ones((per_class, per_class), dtype=apart.dtype), k=1)
    return ops.sum(apart * pairs) / (centers.shape[0] * (per_class - 1))

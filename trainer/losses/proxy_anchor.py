"""Proxy-Anchor loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least, mean
from trainer.losses.masked import log_one_plus_sum_exp
from trainer.losses.proxies import ProxyLoss


@register("loss", "proxy_anchor", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class ProxyAnchor(ProxyLoss):
    """Proxy-Anchor loss: a learnt point for each class pulls its items, and pushes all others off.

    With the cosine similarity s, over proxies p, of which a batch has items X+(p) of the proxy's
    class and items X-(p) of other classes:

        mean over proxies with items in the batch of
            log(1 + sum over x in X+(p) of exp(-alpha (s(x, p) - margin)))
      + mean over all proxies of
            log(1 + sum over x in X-(p) of exp( alpha (s(x, p) + margin)))

    Same semantics as the authors' code and pytorch-metric-learning's `ProxyAnchorLoss`, but for the
    start of the proxies, which are of length about 1 for any number of classes. A layer: call
    `prepare(classes, embedding_dim)` before the first batch; a job does. An item of no class that
    was named there is left out. The authors train the proxies with AdamW at 1e-2, 100 times the
    rate of the rest: `train.loss_lr_scale=100` with `lr=0.0001`.

    Args:
        margin: float, default 0.1, at least 0, as a difference of cosines.
        alpha: float, default 32.0, above 0: sharpness.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count, also of the proxies. With no item of a known class, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range, or the loss is called before `prepare`.

    Paper: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, arXiv:2003.13911.
    """

    def __init__(self, *, margin: float = 0.1, alpha: float = 32.0, **options: Any) -> None:
        super().__init__(**options)
        self.margin = at_least("margin", margin, 0)
        self.alpha = at_least("alpha", alpha, 0, strictly=True)

    def of_classes(self, own: Any, embeddings: Any, proxies: Any) -> Any:
        """Return the loss of a batch."""
        unit = distances.unit
        similarity = ops.matmul(unit(embeddings), ops.transpose(unit(proxies)))
        known = ops.any(own, axis=1, keepdims=True)
        other = ops.logical_and(known, ops.logical_not(own))
        pull = log_one_plus_sum_exp(-self.alpha * (similarity - self.margin), own, axis=0)
        push = log_one_plus_sum_exp(self.alpha * (similarity + self.margin), other, axis=0)
        present = ops.sum(ops.cast(ops.any(own, axis=0), pull.dtype))
        return mean(ops.sum(pull), present) + ops.mean(push)

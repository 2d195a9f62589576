"""Proxy-NCA loss."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses import distances
from trainer.losses.base import at_least
from trainer.losses.proxies import ProxyLoss, cross_entropy


@register("loss", "proxy_nca", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class ProxyNCA(ProxyLoss):
    """Proxy-NCA loss: each item must be nearest to the learnt point of its own class.

    With d2 the squared Euclidean distance after embeddings and proxies are scaled to length 1 (it
    is 2 - 2 cos, in 0..4), with p(x) the proxy of the class of x, and with temperature t:

        mean over items x of
            -log(exp(-d2(x, p(x)) / t) / sum over all proxies p of exp(-d2(x, p) / t))

    This is the form of Proxy-NCA++, whose t is 1/9, and of pytorch-metric-learning's
    `ProxyNCALoss`, whose `softmax_scale` is 1 / t and 1 by default. The first paper has t = 1 and
    leaves p(x) out of the sum, so that its loss can be negative. A layer: call
    `prepare(classes, embedding_dim)` before the first batch; a job does. An item of no class that
    was named there is left out. The proxies learn well at a larger learning rate than the rest
    (`train.loss_lr_scale`).

    Args:
        temperature: float, default 0.11, above 0: squared distances are divided by it.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count, also of the proxies. With no item of a known class, 0 with zero gradients.

    Raises:
        ValueError: the temperature is not above 0, or the loss is called before `prepare`.

    Paper: Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV 2017,
    arXiv:1703.07464; Teh et al., "ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood
    Component Analysis", ECCV 2020, arXiv:2004.01113.
    """

    def __init__(self, *, temperature: float = 0.11, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = at_least("temperature", temperature, 0, strictly=True)

    def of_classes(self, own: Any, embeddings: Any, proxies: Any) -> Any:
        """Return the loss of a batch."""
        unit = distances.unit
        squared = 2.0 - 2.0 * ops.matmul(unit(embeddings), ops.transpose(unit(proxies)))
        return cross_entropy(-squared / self.temperature, own)

"""ArcFace loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from trainer.config.registry import register
from trainer.losses.base import at_least
from trainer.losses.class_softmax import ClassSoftmax, adaptive_margins, add_angle, angle_margin


@register("loss", "arcface", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class ArcFace(ClassSoftmax):
    """ArcFace loss: a softmax over classes, whose own one must win by an angle.

    With theta(j) the angle between an item and the learnt center of class j, y its class, and f
    cos(theta + m), or cos(theta) - m sin(m) where theta + m is above pi:

        mean over items of
            -log(exp(scale f(theta(y)))
                 / (exp(scale f(theta(y))) + sum over j other than y of exp(scale cos(theta(j)))))

    pytorch-metric-learning's `ArcFaceLoss` is the same, with its margin in degrees. Angles are
    never computed, so that cosines of 1 and -1 have finite gradients, in float16 and bfloat16 too,
    which are computed with in float32. A layer: call `prepare(classes, embedding_dim)` before the
    first batch; a job does. An item of no class that was named there is left out.

    Args:
        scale: float, default 64.0, above 0: cosines are multiplied by it.
        margin: float or none, default 0.5, from 0 to below pi: the angle m in radians. None: one
            for each class, by its number n of training images: with t = n^(-1/4), margin_low +
            margin_span (t - min t) / (max t - min t); where all classes have equally many,
            margin_low + margin_span / 2.
        margin_low: float, default 0.05, at least 0, radians: margin of the largest class, with
            margin=none.
        margin_span: float, default 0.45, at least 0, radians: how much more the smallest class has.
        sampled_classes: int, default 0, at least 0: how many classes the softmax of a training step
            runs over, those of the batch and others drawn anew; 0 = all.

    Returns:
        A scalar, at least 0. Labels (B,) of any integer type, embeddings (B, D) of any length: only
        directions count, also of the centers. With no item of a known class, 0 with zero gradients.

    Raises:
        ValueError: a parameter is out of its range, or the loss is called before `prepare`.

    Paper: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR
    2019, arXiv:1801.07698. Sampled classes: An et al., "Killing Two Birds with One Stone: Efficient
    and Robust Training of Face Recognition CNNs by Partial FC", CVPR 2022, arXiv:2203.15565.
    Margins by counts: Ha et al., "Google Landmark Recognition 2020 Competition Third Place
    Solution", 2020, arXiv:2010.05350.
    """

    def __init__(
        self,
        *,
        scale: float = 64.0,
        margin: float | None = 0.5,
        margin_low: float = 0.05,
        margin_span: float = 0.45,
        sampled_classes: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(scale=scale, sampled_classes=sampled_classes, **options)
        self.margin = None if margin is None else angle_margin(margin)
        self.margin_low = at_least("margin_low", margin_low, 0)
        self.margin_span = at_least("margin_span", margin_span, 0)
        angle_margin(margin_low + margin_span)

    def margins(self, counts: np.ndarray) -> Any:
        """Return the margin of all classes, or of each (C,), of which there are `counts` images."""
        if self.margin is not None:
            return self.margin
        return adaptive_margins(counts, self.margin_low, self.margin_span)

    def lowered(self, cosine: Any, margin: Any) -> Any:
        """Return the cosine (B, 1) of items with their own class, lowered by its margin."""
        return add_angle(cosine, margin)

"""Sub-centre ArcFace loss."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config.registry import register
from trainer.losses.arcface import ArcFace
from trainer.losses.base import at_least


@register("loss", "subcenter_arcface", takes="labels")
@keras.saving.register_keras_serializable("mildnet")
class SubcenterArcFace(ArcFace):
    """Sub-center ArcFace loss: each class has several learnt centers, and the nearest one counts.

    ArcFace (`arcface`), with theta(j) the least angle between an item and the K centers of class j:
    pictures of a class that do not look alike, or are labelled wrongly, get a center of their own.
    By default the margin of a class follows from its number of training images, and is the larger
    the fewer there are. pytorch-metric-learning's
    `SubCenterArcFaceLoss` is the same with one margin for all, in degrees. A layer: call
    `prepare(classes, embedding_dim)` before the first batch, with the labels of all training
    images, so that they can be counted; a job does. An item of no class that was named there is
    left out.

    Args:
        centers: int, default 3, at least 1: K.
        scale: float, default 30.0, above 0: cosines are multiplied by it.
        margin: float or none, default none, from 0 to below pi: the angle in radians. None: one for
            each class, by its number n of training images: with t = n^(-1/4), margin_low +
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

    Paper: Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
    Faces", ECCV 2020. Sampled classes: arXiv:2203.15565. Margins by counts: arXiv:2010.05350.
    """

    def __init__(
        self,
        *,
        centers: int = 3,
        scale: float = 30.0,
        margin: float | None = None,
        margin_low: float = 0.05,
        margin_span: float = 0.45,
        sampled_classes: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(
            scale=scale,
            margin=margin,
            margin_low=margin_low,
            margin_span=margin_span,
            sampled_classes=sampled_classes,
            **options,
        )
        self.centers = at_least("centers", centers, 1)

    @property
    def per_class(self) -> int:
        """How many centers each class has."""
        return self.centers

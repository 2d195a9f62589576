"""Losses whose formula reads one matrix: every anchor measured against every reference."""

from __future__ import annotations

import abc
from typing import Any

from trainer.losses import distances
from trainer.losses.base import LabelLoss
from trainer.losses.pairs import Pairs


class MatrixLoss(LabelLoss):
    """A loss over a labelled batch that can also hold a batch against any other embeddings.

    Called as other losses are, the items of the batch are anchors and references both.
    :meth:`against` takes references from elsewhere, such as a memory of earlier batches. Either way
    the loss is the one formula that the subclass writes, :meth:`of_matrix`.

    A subclass may have a parameter `distance`, the name of a measure; without it, cosine
    similarities are what it reads.
    """

    distance: str = "cosine"

    @property
    def measure(self) -> distances.Distance:
        """What the matrix is measured with."""
        return distances.get(self.distance)

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        return self.of_matrix(self.measure.pairwise(embeddings), Pairs.of_batch(labels))

    def against(self, anchors: Any, references: Any, pairs: Pairs) -> Any:
        """Return the loss of anchors (B, D) against references (M, D), both of one float type.

        `pairs` says which references are positives and which negatives of each anchor; what is
        neither does not count. Without such pairs, 0 with zero gradients. Memory is O(B M).
        """
        return self.of_matrix(self.measure.across(anchors, references), pairs)

    @abc.abstractmethod
    def of_matrix(self, matrix: Any, pairs: Pairs) -> Any:
        """Return the scalar loss: the formula of the subclass.

        Args:
            matrix: (B, M), the measure of each anchor and reference.
            pairs: which of them are positive and which negative.
        """

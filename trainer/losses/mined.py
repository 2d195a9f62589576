"""A loss over triplets, of the triplets that a miner finds in a labelled batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.losses.base import LabelLoss, TripletLoss
from trainer.losses.miners.base import Miner


@keras.saving.register_keras_serializable("mildnet")
class MinedTriplets(LabelLoss):
    """A loss over triplets, of those that a miner finds in a labelled batch.

    The miner sees the embeddings without a gradient; the loss is the mean over the triplets that it
    found. Where it found none, 0 with zero gradients.

    Args:
        loss: a loss over explicit triplets.
        miner: what chooses them.

    Raises:
        ValueError: the loss takes positives of other triplets for negatives. Of mined triplets,
            many show the same product.
    """

    def __init__(self, *, loss: TripletLoss, miner: Miner, **options: Any) -> None:
        super().__init__(**options)
        if getattr(loss, "negatives", "own") == "batch":
            raise ValueError(
                "negatives=batch takes positives of other triplets for negatives, and a miner "
                "makes several triplets of one product; negatives=own does not"
            )
        self.loss = loss
        self.miner = miner

    @property
    def variables(self) -> list[Any]:
        """The state of the miner's draws, for a checkpoint to hold."""
        return self.miner.variables

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        anchor, positive, negative, valid = self.miner(labels, embeddings)
        places = ops.stack([anchor, positive, negative], axis=1)
        return self.loss.of_valid(ops.take(embeddings, places, axis=0), valid)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Draw from the beginning while it lasts, then go on as if nothing had been drawn.

        So a validation draws the same every time, and training does not depend on when it is.
        """
        kept = [np.array(variable.numpy()) for variable in self.variables]
        self.miner.restart()
        try:
            yield
        finally:
            for variable, value in zip(self.variables, kept, strict=True):
                variable.assign(value)

    def get_config(self) -> dict[str, Any]:
        """Return loss and miner, and the name, from which an equal loss can be made."""
        parts = {"loss": self.loss, "miner": self.miner}
        packed = {key: keras.saving.serialize_keras_object(part) for key, part in parts.items()}
        return packed | {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MinedTriplets:
        """Make a loss from what :meth:`get_config` gave."""
        parts = {
            key: keras.saving.deserialize_keras_object(config[key]) for key in ("loss", "miner")
        }
        return cls(**{**config, **parts})

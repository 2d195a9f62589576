"""A copy of the model that follows it slowly, to embed what a memory keeps."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.losses.memory import CrossBatchMemory
from trainer.training.averaging import follow


class MomentumEncoder:
    """A copy of a model whose weights follow the model's: `copy += (1 - momentum) (weight - copy)`.

    It runs as a finished model does: nothing is dropped, and batch normalisation takes the moving
    statistics. Those are the model's as they are: they are averages already, and an average of
    them would come too late. To be made under the strategy's scope, from the weights that training
    begins with.

    Args:
        model: images to embeddings; can be made anew from its config.
        momentum: share of its old weights that the copy keeps at each step, above 0 and below 1.
    """

    def __init__(self, model: keras.Model, momentum: float) -> None:
        self.momentum = momentum
        self._copy = model.__class__.from_config(model.get_config())
        self._copy.set_weights(model.get_weights())
        trained = {id(weight) for weight in model.trainable_weights}
        pairs = list(zip(self._copy.weights, model.weights, strict=True))
        self._following = [pair for pair in pairs if id(pair[1]) in trained]
        self._equal = [pair for pair in pairs if id(pair[1]) not in trained]
        # By the model's paths: Keras numbers layers without a name anew, and the copy's are later.
        self._paths = [weight.path for weight in model.weights]

    @classmethod
    def of(cls, model: keras.Model, loss: Any) -> MomentumEncoder | None:
        """Return the encoder that a loss asks for, None if it asks for none."""
        if isinstance(loss, CrossBatchMemory) and loss.momentum is not None:
            return cls(model, loss.momentum)
        return None

    @property
    def variables(self) -> dict[str, Any]:
        """The weights of the copy, under stable keys."""
        return {
            f"{place:05d}/{path}": weight.value
            for place, (path, weight) in enumerate(
                zip(self._paths, self._copy.weights, strict=True)
            )
        }

    def __call__(self, images: Any) -> Any:
        """Return embeddings of images, without a gradient; to be called outside of tapes."""
        return tf.stop_gradient(self._copy(images, training=False))

    def update(self) -> None:
        """Follow the model by one step; to be called outside the replicas, inside the step."""
        for own, weight in self._following:
            follow(own.value, weight.value, self.momentum)
        for own, weight in self._equal:
            own.value.assign(weight.value)

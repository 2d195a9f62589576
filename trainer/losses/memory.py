"""A memory of earlier batches, which a loss holds every batch against as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from trainer.config.registry import register
from trainer.losses.base import (
    at_least,
    checked_embeddings,
    checked_labels,
    config_of,
    nan_unless_finite,
)
from trainer.losses.matrix import MatrixLoss
from trainer.losses.pairs import Pairs


@register("memory", "xbm")
@keras.saving.register_keras_serializable("mildnet")
class CrossBatchMemory(keras.layers.Layer):
    """Cross-batch memory (XBM): the embeddings of past batches serve as references of this one.

    A model that has been trained for a while changes slowly, so that what it made of pictures some
    batches ago is nearly what it would make of them now. With the loss L over a batch, and L of its
    items as anchors against all that the memory holds as references:

        total = L(batch) + weight * L(batch, memory)

    The batch is put into the memory first, which then holds the newest `size` embeddings, in
    float32, and their labels, as integers. What is in it has no gradient. An item is never its own
    positive: it is left out as a place in the memory, not by its similarity. Places that nothing
    has been put in count for nothing, not as negatives either. Memory is O(B M + M D) for `size` M.

    It is called as the other losses are, `loss(labels, embeddings)`, with integer labels (B,) and
    embeddings (B, D), once :meth:`prepare` has been told D, and is a layer whose weights, not
    trained, are what it holds. In a job every replica is given the whole batch, so that all hold
    the same.

    With `momentum`, a second copy of the model whose weights follow those of the trained one,
    copy = momentum * copy + (1 - momentum) * trained, embeds the batch once more, without a
    gradient, for the memory: it changes less from batch to batch than the trained model. It costs a
    forward pass a batch and once more the model's weights. The copy runs as a finished model does:
    without dropout, and batch normalisation by moving statistics, which are the trained model's as
    they are, without a lag of their own.

    Args:
        loss: the loss over a labelled batch.
        size: int, default 32000, at least 1, in embeddings: how many the memory holds. A batch must
            not be larger.
        weight: float, default 1.0, at least 0: of the loss against the memory.
        start_after: int, default 0, at least 0, in batches (`train.accumulate` of them a step):
            the memory stays empty for so long, until the model changes slowly.
        momentum: float or none, default none, above 0 and below 1: share of its old weights that
            the copy keeps at each step; none: no copy, the memory holds what the trained model
            made.

    Returns:
        A scalar. Where the batch has no pair with the memory that counts, the loss within the batch
        alone.

    Raises:
        ValueError: a parameter is out of its range, or the loss has no form of anchors against
            references.

    Paper: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020, arXiv:1912.06798;
    for the momentum, He et al., "Momentum Contrast for Unsupervised Visual Representation
    Learning", CVPR 2020, arXiv:1911.05722.
    """

    def __init__(
        self,
        loss: MatrixLoss,
        *,
        size: int = 32000,
        weight: float = 1.0,
        start_after: int = 0,
        momentum: float | None = None,
        **options: Any,
    ) -> None:
        # A fixed name, where Keras would number the instances of a process: paths of weights are
        # the same wherever a job goes on.
        name = options.pop("name", None) or type(self).__name__
        super().__init__(name=name, dtype="float32", autocast=False, **options)
        if not isinstance(loss, MatrixLoss):
            raise ValueError(
                f"{type(loss).__name__} is no loss of anchors against references; one such as "
                "Contrastive is"
            )
        self.loss = loss
        self.size = at_least("size", size, 1)
        self.weight = at_least("weight", weight, 0)
        self.start_after = at_least("start_after", start_after, 0)
        if momentum is not None and not 0 < momentum < 1:
            raise ValueError(f"momentum={momentum} must be above 0 and below 1, or none")
        self.momentum = momentum
        self._embedding_dim = 0
        self._aside = False

    def prepare(self, embedding_dim: int) -> None:
        """Make the empty memory; to be called once, and under the strategy's scope if there is one.

        Args:
            embedding_dim: length D of the embeddings, at least 1.

        Raises:
            ValueError: the length is below 1, or the memory has been made before.
        """
        if self._embedding_dim:
            raise ValueError(f"{self.name} is prepared; make another for other embeddings")
        self._embedding_dim = int(at_least("embedding_dim", embedding_dim, 1))
        state = {"initializer": "zeros", "trainable": False}
        self.embeddings = self.add_weight((self.size, embedding_dim), name="embeddings", **state)
        self.labels = self.add_weight((self.size,), name="labels", dtype="int64", **state)
        #: How many embeddings are in the memory, at its end; batches seen so far.
        self.filled = self.add_weight((), name="filled", dtype="int64", **state)
        self.batches = self.add_weight((), name="batches", dtype="int64", **state)
        self.built = True

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, *, stored: Any = None
    ) -> Any:
        """Put a batch into the memory, and return its scalar loss.

        Args:
            y_true: integer labels (B,).
            y_pred: embeddings (B, D).
            sample_weight: not taken.
            stored: embeddings (B, D) of the same items to put into the memory; by default `y_pred`.

        Raises:
            ValueError: the memory is not prepared, the shapes or types do not fit, the batch is
                larger than the memory, or `sample_weight` was given.
        """
        embeddings = checked_embeddings(self, y_pred, sample_weight)
        labels = checked_labels(self, y_true, embeddings)
        if self._aside:
            return self.loss(labels, embeddings)
        if not self._embedding_dim:
            raise ValueError(f"{self.name} is not prepared yet; call prepare(embedding_dim) first")
        stored = embeddings if stored is None else checked_embeddings(self, stored)
        for each in (embeddings, stored):
            if each.shape[1] not in (self._embedding_dim, None):
                raise ValueError(
                    f"{self.name} was prepared for embeddings of {self._embedding_dim} numbers; "
                    f"got shape {tuple(each.shape)}"
                )
        if (labels.shape[0] or 0) > self.size:
            raise ValueError(
                f"a batch of {labels.shape[0]} is larger than the memory of size={self.size}"
            )
        return super().__call__(labels, embeddings, stored)

    def call(self, labels: Any, embeddings: Any, stored: Any) -> Any:
        """Return the loss of a batch."""
        stored = ops.stop_gradient(stored)
        references, pairs = self._remember(labels, stored)
        references = ops.cast(references, embeddings.dtype)
        beyond = self.loss.against(embeddings, references, pairs)
        value = self.loss(labels, embeddings) + self.weight * beyond
        return nan_unless_finite(value, stored)

    def _remember(self, labels: Any, stored: Any) -> tuple[Any, Pairs]:
        """Put a batch at the end of the memory, whose oldest fall out; return what it then holds,
        and its pairs with the batch."""
        rows = ops.shape(labels)[0]
        labels, stored = ops.cast(labels, "int64"), ops.cast(stored, "float32")
        # One copy of the memory, which is what writing into a ring would come to: where a variable
        # is written in part, TensorFlow copies it at every reading.
        references = ops.concatenate([self.embeddings[rows:], stored])
        codes = ops.concatenate([self.labels[rows:], labels])
        begun = self.batches >= self.start_after
        filled = ops.minimum(self.filled + ops.cast(rows, "int64"), self.size)
        filled = ops.where(begun, filled, 0)
        self.embeddings.assign(references)
        self.labels.assign(codes)
        self.filled.assign(filled)
        self.batches.assign(self.batches + 1)

        # Counted from the end, where the newest are: the batch itself begins at its own size.
        age = self.size - ops.arange(self.size, dtype="int32")
        there = (age <= ops.cast(filled, "int32"))[None, :]
        same = labels[:, None] == codes[None, :]
        itself = (rows - ops.arange(rows, dtype="int32"))[:, None] == age[None, :]
        positive = ops.logical_and(same, ops.logical_and(there, ops.logical_not(itself)))
        return references, Pairs(positive, ops.logical_and(ops.logical_not(same), there))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the memory out while it lasts: the loss is that within the batch.

        So a validation measures what a batch costs by itself, and training does not depend on when
        it is.
        """
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def get_config(self) -> dict[str, Any]:
        """Return parameters, loss and name; the embeddings' length is part of the build config."""
        return config_of(self) | {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CrossBatchMemory:
        """Make a memory from what :meth:`get_config` gave."""
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(loss, **{key: value for key, value in config.items() if key != "loss"})

    def get_build_config(self) -> dict[str, Any] | None:
        """Return what :meth:`prepare` was given, None before."""
        return {"embedding_dim": self._embedding_dim} if self._embedding_dim else None

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Prepare a memory made from a config as the one that was saved."""
        self.prepare(**config)

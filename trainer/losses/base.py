"""What all losses share: checked shapes, exact labels, precision, the mean, and their config."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar

import keras
from keras import ops

Number = TypeVar("Number", int, float)


class EmbeddingLoss(keras.losses.Loss, abc.ABC):
    """A scalar loss over the embeddings of one batch.

    It differs from other Keras losses in three ways, all of them on purpose. Labels keep their
    integer type: Keras casts them to float32, in which labels above 2^24 merge. Embeddings in
    float16 or bfloat16 are computed with in float32, and the loss is float32. And the result is the
    mean over exactly the batch that was passed: it is not divided by the number of replicas of a
    distribution strategy. An embedding that is not finite makes the loss NaN.

    A subclass names its parameters as keyword-only arguments of `__init__` and keeps each in an
    attribute of the same name; that is also what makes up its config.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name, reduction="none")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the scalar loss of embeddings `y_pred` with labels `y_true`.

        Raises:
            ValueError: the shapes or types do not fit, or `sample_weight` was given: a weight per
                image has no one meaning for pairs and triplets.
        """
        embeddings = checked_embeddings(self, y_pred, sample_weight)
        with keras.name_scope(self.name):
            return nan_unless_finite(self._checked(y_true, embeddings), embeddings)

    @abc.abstractmethod
    def _checked(self, y_true: Any, embeddings: Any) -> Any:
        """Check what came, and return :meth:`call` of it."""

    def get_config(self) -> dict[str, Any]:
        """Return the parameters and the name, from which an equal loss can be made."""
        return config_of(self)


class TripletLoss(EmbeddingLoss):
    """A loss over explicit triplets: embeddings (T, 3, D) in the order anchor, positive, negative.

    Labels are ignored and may be anything, None included. :meth:`of_valid` takes a mask as well:
    triplets that it leaves out are as if they were not there, and where it leaves out all, the loss
    is 0 with zero gradients.
    """

    def _checked(self, y_true: Any, embeddings: Any) -> Any:
        shape = embeddings.shape
        if len(shape) != 3 or shape[1] not in (3, None):
            raise ValueError(
                f"{type(self).__name__} takes embeddings (T, 3, D): anchor, positive, negative; "
                f"got shape {tuple(shape)}"
            )
        return self.call(y_true, embeddings)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of all triplets."""
        return self.of_valid(y_pred, ops.ones((ops.shape(y_pred)[0],), dtype="bool"))

    def of_valid(self, triplets: Any, valid: Any) -> Any:
        """Hand anchors, positives and negatives, (T, D) each, to :meth:`of_triplets`.

        Args:
            triplets: embeddings (T, 3, D).
            valid: boolean (T,): which of them count.
        """
        return self.of_triplets(triplets[:, 0], triplets[:, 1], triplets[:, 2], valid)

    @abc.abstractmethod
    def of_triplets(self, anchor: Any, positive: Any, negative: Any, valid: Any) -> Any:
        """Return the scalar loss of the triplets that are `valid`: the formula of the subclass."""


class PairLoss(EmbeddingLoss):
    """A loss over explicit pairs: embeddings (P, 2, D) in the order query, positive.

    Integer labels (P,) say which item a pair shows, so that what is no negative of it is known.
    """

    def _checked(self, y_true: Any, embeddings: Any) -> Any:
        shape = embeddings.shape
        if len(shape) != 3 or shape[1] not in (2, None):
            raise ValueError(
                f"{type(self).__name__} takes embeddings (P, 2, D): query, positive; "
                f"got shape {tuple(shape)}"
            )
        return self.call(checked_labels(self, y_true, embeddings[:, 0]), embeddings)

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Hand labels (P,), queries and positives, (P, D) each, to :meth:`of_pairs`."""
        return self.of_pairs(labels, embeddings[:, 0], embeddings[:, 1])

    @abc.abstractmethod
    def of_pairs(self, labels: Any, query: Any, positive: Any) -> Any:
        """Return the scalar loss: the formula of the subclass."""


class LabelLoss(EmbeddingLoss):
    """A loss over a labelled batch: integer labels (B,) and embeddings (B, D)."""

    @abc.abstractmethod
    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the scalar loss: the formula of the subclass."""

    def _checked(self, y_true: Any, embeddings: Any) -> Any:
        return self.call(checked_labels(self, y_true, embeddings), embeddings)


def checked_embeddings(loss: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    """Return embeddings in the precision that losses are computed in: float32, or float64.

    Raises:
        ValueError: there is a `sample_weight`, which no loss takes.
    """
    if sample_weight is not None:
        raise ValueError(f"{type(loss).__name__} takes no sample_weight")
    embeddings = ops.convert_to_tensor(y_pred)
    if keras.backend.standardize_dtype(embeddings.dtype) != "float64":
        embeddings = ops.cast(embeddings, "float32")
    return embeddings


def checked_labels(loss: Any, y_true: Any, embeddings: Any) -> Any:
    """Return integer labels (B,) for embeddings (B, D).

    Raises:
        ValueError: the shapes or types do not fit.
    """
    labels = ops.convert_to_tensor(y_true)
    name = type(loss).__name__
    if len(embeddings.shape) != 2:
        raise ValueError(f"{name} takes embeddings (B, D); got shape {tuple(embeddings.shape)}")
    if len(labels.shape) == 2 and labels.shape[1] == 1:
        labels = ops.squeeze(labels, axis=1)
    if len(labels.shape) != 1 or _differ(labels.shape[0], embeddings.shape[0]):
        raise ValueError(
            f"{name} takes one label for each embedding; got labels "
            f"{tuple(labels.shape)} for embeddings {tuple(embeddings.shape)}"
        )
    if "int" not in keras.backend.standardize_dtype(labels.dtype):
        raise ValueError(f"{name} takes integer labels; got {labels.dtype}")
    return labels


def nan_unless_finite(value: Any, embeddings: Any) -> Any:
    """Return `value`, or NaN if an embedding is not finite: mining may have passed over it."""
    return value + 0.0 * ops.sum(embeddings)


def config_of(loss: Any) -> dict[str, Any]:
    """Return the keyword-only parameters of a loss, each kept in an attribute, and its name."""
    words = inspect.signature(type(loss)).parameters.values()
    names = [word.name for word in words if word.kind is inspect.Parameter.KEYWORD_ONLY]
    return {name: getattr(loss, name) for name in names} | {"name": loss.name}


def mean(total: Any, count: Any) -> Any:
    """Divide `total` by `count`; with a count of 0, return 0 with a zero gradient.

    `total` must itself be a sum over no more than `count` terms, so that it is 0 when count is.
    """
    return total / ops.maximum(ops.cast(count, total.dtype), 1)


def mean_where(mask: Any, values: Any) -> Any:
    """Return the mean of `values` where `mask` holds; nowhere: 0 with a zero gradient."""
    values = ops.where(mask, values, 0.0)
    return mean(ops.sum(values), ops.sum(ops.cast(mask, values.dtype)))


def at_least(name: str, value: Number, low: float, *, strictly: bool = False) -> Number:
    """Return `value` if it is not below `low` (with `strictly`: if it is above).

    Raises:
        ValueError: it is below, or not a number.
    """
    if not (value > low if strictly else value >= low):
        raise ValueError(f"{name}={value} must be {'above' if strictly else 'at least'} {low:g}")
    return value


def one_of(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`.

    Raises:
        ValueError: it is not.
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
    return value


def _differ(left: int | None, right: int | None) -> bool:
    return left is not None and right is not None and left != right

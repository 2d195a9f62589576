"""What losses with proxies share: learnt points that stand for the classes of a training set."""

from __future__ import annotations

import abc
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.losses.base import (
    at_least,
    checked_embeddings,
    checked_labels,
    config_of,
    mean_where,
    nan_unless_finite,
)
from trainer.losses.masked import log_sum_exp


class ProxyLoss(keras.layers.Layer, abc.ABC):
    """A loss over a labelled batch, against proxies of the classes, which are weights of its own.

    It is called as the other losses are, `loss(labels, embeddings)`, with integer labels (B,) and
    embeddings (B, D), once :meth:`prepare` has named the classes. An embedding is compared with the
    proxies and with no other embedding, so that any batch will do, and memory is O(B C) for C
    proxies. Weights and computation are float32 under every precision policy (float64 for float64
    embeddings). An item of a class that was not named is left out, as if it were not in the batch:
    it is nobody's negative either. An embedding that is not finite makes the loss NaN.

    A subclass names its parameters as keyword-only arguments of `__init__` and keeps each in an
    attribute of the same name; :meth:`of_classes` is its formula.
    """

    def __init__(self, name: str | None = None) -> None:
        # A fixed name, where Keras would number the instances of a process: paths of weights are
        # the same wherever a job goes on.
        super().__init__(name=name or type(self).__name__, dtype="float32", autocast=False)
        self._classes: np.ndarray | None = None
        self._counts = np.zeros(0, np.int64)
        self._embedding_dim = 0

    @property
    def per_class(self) -> int:
        """How many proxies each class has."""
        return 1

    def prepare(self, classes: Any, embedding_dim: int) -> None:
        """Make the proxies; to be called once, and under the strategy's scope if there is one.

        They are drawn from a normal distribution, of length about 1, by the seed that
        `keras.utils.set_random_seed` sets, and are the one trainable weight, `proxies`: (C, D), one
        row for each class in ascending order (with several proxies a class, that many rows).

        Args:
            classes: labels of the training images, one for each image or each class: any integers,
                in any order. How often each occurs is its count, which some losses look at.
            embedding_dim: length D of the embeddings, at least 1.

        Raises:
            ValueError: there is no class or one that is no integer, the length is below 1, or the
                proxies have been made before.
        """
        if self._classes is not None:
            raise ValueError(f"{self.name} has its proxies; make another loss for other classes")
        codes, counts = np.unique(np.asarray(classes), return_counts=True)
        if not codes.size or codes.dtype.kind not in "iu":
            raise ValueError(
                f"{self.name}.prepare takes the integer labels of one class or more; "
                f"got {codes.size} of type {codes.dtype}"
            )
        at_least("embedding_dim", embedding_dim, 1)
        self._classes, self._counts = codes.astype(np.int64), counts
        self._embedding_dim = int(embedding_dim)
        self.proxies = self.add_weight(
            shape=(len(codes) * self.per_class, embedding_dim),
            initializer=keras.initializers.RandomNormal(stddev=1 / math.sqrt(embedding_dim)),
            name="proxies",
        )
        self.built = True

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the scalar loss of embeddings `y_pred` with labels `y_true`.

        Raises:
            ValueError: the loss is not prepared, the shapes or types do not fit, or `sample_weight`
                was given.
        """
        # Checked here, for from inside `call` Keras gives out errors with its own text about them.
        return super().__call__(*self._checked(y_true, y_pred, sample_weight))

    def _checked(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Return labels and embeddings as :meth:`call` takes them."""
        embeddings = checked_embeddings(self, y_pred, sample_weight)
        labels = checked_labels(self, y_true, embeddings)
        if self._classes is None:
            raise ValueError(
                f"{self.name} has no proxies yet; call prepare(classes, embedding_dim) first"
            )
        if embeddings.shape[1] not in (self._embedding_dim, None):
            raise ValueError(
                f"{self.name} was prepared for embeddings of {self._embedding_dim} numbers; "
                f"got shape {tuple(embeddings.shape)}"
            )
        return labels, embeddings

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        place, known = self.places(labels)
        own = columns(place, known, len(self._counts))
        proxies = ops.cast(self.proxies, embeddings.dtype)
        return nan_unless_finite(self.of_classes(own, embeddings, proxies), embeddings)

    def places(self, labels: Any) -> tuple[Any, Any]:
        """Return the number of each label among the classes, int32 (B,), and whether it is one."""
        return look_up(ops.convert_to_tensor(self._classes), ops.cast(labels, "int64"))

    @abc.abstractmethod
    def of_classes(self, own: Any, embeddings: Any, proxies: Any) -> Any:
        """Return the scalar loss.

        Args:
            own: boolean (B, C): the class of each item; no true entry for an item without one.
            embeddings: (B, D), of any length.
            proxies: (C * per_class, D), of any length.
        """

    def get_config(self) -> dict[str, Any]:
        """Return the parameters and the name; the classes are part of the build config."""
        return config_of(self)

    def get_build_config(self) -> dict[str, Any] | None:
        """Return what :meth:`prepare` was given, None before."""
        if self._classes is None:
            return None
        return {
            "classes": self._classes.tolist(),
            "counts": self._counts.tolist(),
            "embedding_dim": self._embedding_dim,
        }

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Prepare a loss made from a config as the one that was saved."""
        # Losses saved before classes were counted have no counts.
        classes = np.repeat(config["classes"], config.get("counts", 1))
        self.prepare(classes, config["embedding_dim"])


def look_up(known: Any, values: Any) -> tuple[Any, Any]:
    """Return where `values` (B,) are in the ascending `known` (C,), and whether they are there.

    Memory is O(B + C). The place of a value that is not there is any.
    """
    place = ops.minimum(ops.searchsorted(known, values), ops.shape(known)[0] - 1)
    return place, ops.take(known, place) == values


def columns(place: Any, known: Any, count: int) -> Any:
    """Return booleans (B, `count`), true at the `place` of each row; nowhere where not `known`."""
    return (place[:, None] == ops.arange(count, dtype="int32")[None, :]) & known[:, None]


def cross_entropy(logits: Any, own: Any) -> Any:
    """Return the mean softmax cross-entropy of logits (B, C), over the items that have a class.

    Without such an item, 0 with a zero gradient.
    """
    near = ops.sum(ops.where(own, logits, 0.0), axis=1, keepdims=True)
    each = ops.softplus(log_sum_exp(logits, ops.logical_not(own)) - near)
    known = ops.any(own, axis=1, keepdims=True)
    return mean_where(known, each)

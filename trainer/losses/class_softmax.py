"""What the softmax losses over classes share: a margin on the own class, and sampled classes."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.losses import distances
from trainer.losses.base import at_least, nan_unless_finite
from trainer.losses.proxies import ProxyLoss, columns, cross_entropy, look_up


class ClassSoftmax(ProxyLoss):
    """A cross-entropy over cosines with learnt centers of the classes, the own one lowered.

    With c(j) the cosine of an item with class j, the largest over the centers of the class, y the
    class of the item, and f the margin of the subclass:

        -log(exp(scale f(c(y))) / (exp(scale f(c(y))) + sum over j other than y of exp(scale c(j))))

    With `sampled_classes` S below the number of classes, the softmax runs over S classes: all those
    of the batch, and others drawn anew for every batch, each as likely as the next. Memory of a
    batch is then O(B S + S D), and its gradient touches the rows of these classes alone; a training
    step moves no others (`trainer/training/rows.py`). No class is given another weight for it, so
    that the loss is that of an easier question, and lower than over all classes.
    """

    def __init__(self, *, scale: float, sampled_classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.scale = at_least("scale", scale, 0, strictly=True)
        self.sampled_classes = at_least("sampled_classes", sampled_classes, 0)
        self._margins: Any = 0.0
        self._seeds: Any = None

    def prepare(self, classes: Any, embedding_dim: int) -> None:
        """Make the centers, the margins, and with sampled classes the state of the draws."""
        super().prepare(classes, embedding_dim)
        self._margins = self.margins(self._counts)
        if 0 < self.sampled_classes < len(self._counts):
            self._seeds = keras.random.SeedGenerator(name="class_draws")

    @property
    def sampled_table(self) -> Any:
        """The centers, (C * per_class, D), where a batch touches some rows of them alone; None
        where it touches all."""
        return None if self._seeds is None else self.proxies

    def margins(self, counts: np.ndarray) -> Any:
        """Return the margin of all classes, or of each (C,), of which there are `counts` images."""
        return 0.0

    @abc.abstractmethod
    def lowered(self, cosine: Any, margin: Any) -> Any:
        """Return the cosine (B, 1) of items with their own class, lowered by its margin."""

    def call(self, labels: Any, embeddings: Any) -> Any:
        """Return the loss of a batch."""
        if self.sampled_table is None:
            return super().call(labels, embeddings)
        classes = self.draw(labels)
        centers = ops.take(self.proxies, self.rows_of(classes), axis=0)
        return self.of_sample(labels, embeddings, classes, centers)

    def draw(self, labels: Any) -> Any:
        """Return the numbers of S classes, int32 and ascending: those of the labels, and others.

        Raises:
            ValueError: there might be more classes in the batch than are to be sampled.
        """
        if labels.shape[0] is not None and labels.shape[0] > self.sampled_classes:
            raise ValueError(
                f"sampled_classes={self.sampled_classes} must be at least the {labels.shape[0]} "
                "images of a step: the classes of all of them are kept"
            )
        return draw_classes(
            *self.places(labels), len(self._counts), self.sampled_classes, self._seeds
        )

    def rows_of(self, classes: Any) -> Any:
        """Return the rows of the table, int32 (S * per_class,), that belong to numbered classes."""
        within = ops.arange(self.per_class, dtype="int32")
        return ops.reshape(classes[:, None] * self.per_class + within[None, :], (-1,))

    def of_sample(self, labels: Any, embeddings: Any, classes: Any, centers: Any) -> Any:
        """Return the loss of a batch over drawn classes.

        Args:
            labels: integers (B,).
            embeddings: (B, D).
            classes: numbers of S classes, ascending, as :meth:`draw` gives them.
            centers: (S * per_class, D), the rows of the table that belong to them.
        """
        labels, embeddings = self._checked(labels, embeddings)
        place, known = self.places(labels)
        column, drawn = look_up(classes, place)
        own = columns(column, known & drawn, self.sampled_classes)
        centers = ops.cast(centers, embeddings.dtype)
        value = self.of_classes(own, embeddings, centers, classes)
        return nan_unless_finite(value, embeddings)

    def of_classes(self, own: Any, embeddings: Any, proxies: Any, classes: Any = None) -> Any:
        """Return the loss over all classes, or over numbered ones."""
        unit = distances.unit
        cosine = ops.matmul(unit(embeddings), ops.transpose(unit(proxies)))
        if self.per_class > 1:
            cosine = ops.max(ops.reshape(cosine, (-1, own.shape[1], self.per_class)), axis=2)
        near = _of_own(own, cosine)
        margin = ops.convert_to_tensor(self._margins, dtype=cosine.dtype)
        if len(margin.shape):
            margin = margin if classes is None else ops.take(margin, classes)
            margin = _of_own(own, margin[None, :])
        return cross_entropy(self.scale * ops.where(own, self.lowered(near, margin), cosine), own)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Draw from the beginning while it lasts, then go on as if nothing had been drawn.

        So a validation draws the same every time, and training does not depend on when it is.
        """
        if self._seeds is None:
            yield
            return
        state = self._seeds.state
        kept = np.array(state.numpy())
        state.assign([0, 0])
        try:
            yield
        finally:
            state.assign(kept)


def add_angle(cosine: Any, margin: Any) -> Any:
    """Return cos(theta + m) of cos(theta) and an angle m in [0, pi).

    Where theta + m is above pi, it is cos(theta) - m sin(m), which for m up to 2.3 falls on from
    there. Written without the angle itself, whose slope is infinite at cosines of 1 and -1; where
    the sine is 0, its slope is taken as 0.
    """
    sine = distances.safe_sqrt((1.0 - cosine) * (1.0 + cosine))
    turned = cosine * ops.cos(margin) - sine * ops.sin(margin)
    return ops.where(cosine >= -ops.cos(margin), turned, cosine - margin * ops.sin(margin))


def adaptive_margins(counts: np.ndarray, low: float, span: float) -> np.ndarray:
    """Return a margin for each class, the larger the fewer images it has: (C,) for counts (C,).

    With t = count^(-1/4): low + span (t - min t) / (max t - min t). Where all classes have equally
    many images there is no smallest one, and each gets the middle, low + span / 2.
    """
    t = np.asarray(counts, np.float64) ** -0.25
    between = np.ptp(t)
    return low + span * ((t - t.min()) / between if between else np.full_like(t, 0.5))


def draw_classes(place: Any, known: Any, count: int, size: int, seeds: Any) -> Any:
    """Return `size` of the classes 0 .. `count` - 1, int32 and ascending, all different.

    The classes at `place` (B,) are among them where `known`, if `size` is enough. For the others
    the classes are thought of as a ring, cut at a random place into `size` equal stretches, each of
    which gives one class: all are equally likely, none comes twice, and no list of all is made.
    Known ones that are not among these take the place of the last.
    """
    bounds = np.arange(size + 1) * count // size
    width = np.diff(bounds).astype(np.float32)
    within = ops.floor(keras.random.uniform((size,), seed=seeds) * width)
    # A product just below the width may be rounded up to it.
    within = ops.cast(ops.minimum(within, width - 1), "int32")
    turn = keras.random.randint((1,), 0, count, dtype="int32", seed=seeds)
    others = (bounds[:-1].astype(np.int32) + within + turn) % count

    # Unknown ones come last, beyond all numbers of classes.
    wanted = ops.sort(ops.where(known, place, count))
    first = ops.concatenate([wanted[:1] < count, (wanted[1:] > wanted[:-1]) & (wanted[1:] < count)])
    _, wanted_too = look_up(wanted, others)
    candidates = ops.concatenate([wanted, others])
    kept = ops.concatenate([first, ops.logical_not(wanted_too)])
    rank = ops.cumsum(ops.cast(kept, "int32")) - 1
    # What is left out goes into one more place, which is cut off.
    target = ops.where(kept & (rank < size), rank, size)
    return ops.sort(ops.scatter(target[:, None], candidates, (size + 1,))[:size])


def angle_margin(value: float) -> float:
    """Return a margin as an angle in radians, if it is one from 0 to below pi.

    Raises:
        ValueError: it is not.
    """
    if not at_least("margin", value, 0) < math.pi:
        raise ValueError(f"margin={value} must be below pi: it is an angle in radians")
    return value


def _of_own(own: Any, values: Any) -> Any:
    """Return the entry of each row's own class, (B, 1); 0 in rows without one."""
    return ops.sum(ops.where(own, values, 0.0), axis=1, keepdims=True)

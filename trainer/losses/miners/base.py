"""What all miners share: checked shapes, no gradient, flat triplets, and draws that can go on."""

from __future__ import annotations

import abc
import inspect
from typing import Any

import keras
from keras import ops

from trainer.losses.base import checked_embeddings, checked_labels
from trainer.losses.pairs import Classmates, at, first_above


class Miner(abc.ABC):
    """Finds triplets in a labelled batch: `miner(labels, embeddings)`.

    How many it gives, T, depends on the size of the batch alone, so that shapes are static; a mask
    says which of them are triplets. Memory is O(B^2 + T). Nothing that it does has a gradient.

    A subclass names its parameters as keyword-only arguments of `__init__` and keeps each in an
    attribute of the same name; :meth:`choose` is what it looks for.

    Args:
        seed: int, decides all draws.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._seeds = keras.random.SeedGenerator(seed)

    @property
    def variables(self) -> list[Any]:
        """The state of the draws: where it is put back, they go on as they went on from it."""
        return [self._seeds.state]

    def restart(self) -> None:
        """Let the draws begin again at the seed."""
        self._seeds.state.assign([self.seed, 0])

    def __call__(self, labels: Any, embeddings: Any) -> tuple[Any, Any, Any, Any]:
        """Return the triplets of a batch.

        Args:
            labels: (B,), of any integer type.
            embeddings: (B, D).

        Returns:
            anchor, positive, negative: int32 (T,), places in the batch; and valid: boolean (T,),
            which of them are triplets. The others name places too, of no meaning.

        Raises:
            ValueError: the shapes or types do not fit.
        """
        embeddings = ops.stop_gradient(checked_embeddings(self, embeddings))
        labels = checked_labels(self, labels, embeddings)
        positive, negative, valid = self.choose(labels, embeddings)
        anchor = ops.arange(ops.shape(labels)[0], dtype="int32")[:, None]
        anchor = ops.broadcast_to(anchor, ops.shape(positive))
        anchor, positive, negative, valid = (
            ops.reshape(each, (-1,)) for each in (anchor, positive, negative, valid)
        )
        return anchor, positive, negative, valid

    @abc.abstractmethod
    def choose(self, labels: Any, embeddings: Any) -> tuple[Any, Any, Any]:
        """Return columns (B, C): positives and negatives of each item, and which pairs of them
        count."""

    def draw_positives(self, labels: Any, most: int) -> tuple[Any, Any]:
        """Return places (B, C) of up to `most` positives of each item, and which are there.

        Of an item that has more of them, as many are drawn, all of them alike likely, and none
        twice.
        """
        classmates = Classmates(labels)
        size = ops.shape(labels)[0]
        if isinstance(size, int):
            most = max(min(most, size - 1), 1)
        count = classmates.count[:, None]
        # They are taken in a row from a random one on, as if they stood in a circle.
        start = self._uniform((size, 1), "float32") * ops.cast(count, "float32")
        turn = ops.arange(most, dtype="int32")[None, :]
        numbers = (ops.cast(start, "int32") + turn) % ops.maximum(count, 1)
        places, _ = classmates.take(numbers)
        return places, turn < count

    def draw(self, weights: Any, columns: int) -> tuple[Any, Any]:
        """Draw `columns` entries of each row with probability proportional to `weights` (B, B).

        Returns:
            Columns (B, C), drawn each by itself, and whether there was anything to draw.
        """
        size = ops.shape(weights)[0]
        total = ops.cumsum(weights, axis=1)
        aim = self._uniform((size, columns), weights.dtype) * total[:, -1:]
        place = ops.minimum(first_above(total, size, aim), size - 1)
        # Sums taken in another order, as on a GPU, may give an entry of weight 0 a share of its
        # own, as small as rounding: a classmate must not be drawn for a negative even then.
        return place, at(weights, place) > 0

    def _uniform(self, shape: tuple[Any, ...], dtype: Any) -> Any:
        return ops.cast(keras.random.uniform(shape, dtype="float32", seed=self._seeds), dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the seed and the parameters, from which an equal miner can be made."""
        words = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in words}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Miner:
        """Make a miner from what :meth:`get_config` gave."""
        return cls(**config)

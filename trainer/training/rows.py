"""Steps that move some rows of a large table alone, with any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.config import UserError
from trainer.training.groups import decays

Groups = Sequence[tuple[keras.optimizers.Optimizer, list[Any]]]


class Sample(NamedTuple):
    """The part of a table that a step learns from."""

    classes: Any  # int32 (S,): numbers of the drawn classes
    rows: Any  # int32 (R,): rows of the table that belong to them
    values: Any  # (R, D): what is in these rows


def check_sample(sampled: int, images: int) -> None:
    """Raise a UserError if `sampled` classes may be too few for those of a step's `images`."""
    if sampled < images:
        raise UserError(
            f"loss.sampled_classes={sampled} is below the {images} images of a step, whose classes "
            f"are all kept; set it to {images} or more, or to 0 for all classes"
        )


class RowTable:
    """The table of a loss over sampled classes, and the optimizer that moves rows of it.

    The optimizer sees a variable of R rows. Before its update, this and whatever the optimizer
    keeps for each entry (moments, say) are filled with the drawn rows of tables of all rows; after
    it they are written back. So rows that were not drawn, and their moments, are as they were:
    moments do not fade, and weights do not decay, in steps that they have no part in. The number of
    the step, for corrections of the first ones, is that of all steps. Memory is that of the tables
    and O(R D), and a step touches nothing else of them.

    To be made under the strategy's scope; what is drawn is the same on every replica.

    Args:
        loss: has a `sampled_table`, (C * per_class, D).
        optimizer: not built yet, and of this table alone.
        images: in a step, over all replicas and accumulated batches.

    Raises:
        UserError: fewer classes are to be sampled than there may be in a step, or the optimizer
            keeps numbers that belong to no single entry of a table.
    """

    def __init__(self, loss: Any, optimizer: keras.optimizers.Optimizer, images: int) -> None:
        check_sample(loss.sampled_classes, images)
        self._loss, self.optimizer, self._table = loss, optimizer, loss.sampled_table
        dim = self._table.shape[1]
        shape = (loss.sampled_classes * loss.per_class, dim)
        self._drawn = keras.Variable(tf.zeros(shape), dtype="float32", name="rows")
        self.decays = decays(optimizer, self._table)
        if not self.decays:
            optimizer.exclude_from_weight_decay(var_list=[self._drawn])
        optimizer.build([self._drawn])
        if any(len(v.shape) and tuple(v.shape) != shape for v in optimizer.variables):
            raise UserError(
                f"optimizer {type(optimizer).__name__} keeps numbers that belong to no single "
                "entry of a table; with loss.sampled_classes take sgd, rms or adam"
            )
        #: What the optimizer keeps for each entry: of the drawn rows, and of all.
        self._slots = {
            place: (
                slot,
                tf.Variable(
                    tf.tile(slot.value[:1], (self._table.shape[0], 1)),
                    trainable=False,
                    name=f"all_{slot.name}",
                ),
            )
            for place, slot in enumerate(optimizer.variables)
            if tuple(slot.shape) == shape
        }

    @classmethod
    def of(cls, loss: Any, groups: Groups, images: int) -> tuple[RowTable | None, Groups]:
        """Return the table of a loss if an optimizer moves it, and the groups without it."""
        table = getattr(loss, "sampled_table", None)
        own = [pair for pair in groups if any(weight is table for weight in pair[1])]
        if table is None or not own:
            return None, groups
        ((optimizer, _),) = own
        return cls(loss, optimizer, images), [pair for pair in groups if pair not in own]

    @property
    def variables(self) -> dict[str, Any]:
        """What the optimizer keeps, under stable keys; the table itself is the loss's."""
        found = {}
        for place, variable in enumerate(self.optimizer.variables):
            name = variable.path.partition("/")[2]
            kept = self._slots[place][1] if place in self._slots else variable.value
            found[f"rows/{place:05d}/{name}"] = kept
        return found

    def draw(self, labels: Any) -> Sample:
        """Return the sample of a step whose images have `labels`; in a replica."""
        classes = self._loss.draw(labels)
        rows = self._loss.rows_of(classes)
        return Sample(classes, rows, tf.gather(self._table.value, rows))

    def apply(self, gradient: Any, rows: Any) -> None:
        """Move drawn rows along their gradient (R, D); in a replica."""
        pairs = [(self._drawn.value, self._table.value)]
        pairs += [(slot.value, every) for slot, every in self._slots.values()]
        for drawn, every in pairs:
            drawn.assign(tf.gather(every, rows))
        self.optimizer.apply([gradient], [self._drawn])
        for drawn, every in pairs:
            every.scatter_update(tf.IndexedSlices(tf.convert_to_tensor(drawn), rows))

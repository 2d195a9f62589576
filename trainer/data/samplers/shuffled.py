"""Every image once an epoch, for losses that compare images with learnt points of the classes."""

from __future__ import annotations

import numpy as np

from trainer.config import register
from trainer.data.samplers.plan import Epochs, ExampleStream, check_batch_size
from trainer.data.table import ItemTable


@register("sampler", "shuffled", gives="labels")
class Shuffled(ExampleStream):
    """Every image once an epoch, in a new order each time, whatever its class.

    For softmax and proxy losses, which need no pairs: an epoch shows every image, also those of
    classes with a single one. A loss over pairs or triplets finds few in such a batch, unless it
    has a memory.

    Args:
        table: the training rows.
        batch_size: images in a batch, 1 to all. The last batch of an epoch goes on with the first
            images of the next.
        seed: decides the order of every epoch.

    Raises:
        UserError: there are fewer images than a batch holds.
    """

    def __init__(self, table: ItemTable, batch_size: int, seed: int) -> None:
        check_batch_size(batch_size, len(table), "images")

        def draw(random: np.random.Generator) -> np.ndarray:
            return random.permutation(len(table))

        super().__init__(Epochs(draw, seed), len(table), batch_size, rows=1)

"""Triplets that the data set lists itself."""

from __future__ import annotations

import numpy as np

from trainer.config import UserError, register
from trainer.data.samplers.plan import Epochs, ExampleStream, check_batch_size
from trainer.data.table import ItemTable


@register("sampler", "triplets", gives="triplets")
class Triplets(ExampleStream):
    """The triplets that the data set lists, in file order or shuffled every epoch.

    Args:
        table: the training rows; `table.triplets` are used.
        batch_size: triplets in a batch, 1 to the number of triplets listed.
        seed: decides the order when shuffled.
        shuffle: draw a new order every epoch; default False, the order of the file.

    Raises:
        UserError: the table lists no triplets, or fewer than one batch.
    """

    def __init__(
        self, table: ItemTable, batch_size: int, seed: int, *, shuffle: bool = False
    ) -> None:
        triplets = np.asarray(table.triplets, np.int64)
        if not len(triplets):
            raise UserError(
                "sampler 'triplets' needs triplets listed by the data set, and there are none in "
                "this split; use sampler=random_triplets or sampler=classes_per_batch"
            )
        check_batch_size(batch_size, len(triplets), "triplets")

        def draw(random: np.random.Generator) -> np.ndarray:
            return random.permutation(triplets) if shuffle else triplets

        super().__init__(Epochs(draw, seed), len(triplets), batch_size, rows=3)

"""Triplets drawn at random from the labels."""

from __future__ import annotations

import logging

import numpy as np

from trainer.config import UserError, register
from trainer.data.samplers.plan import ClassRows, Epochs, ExampleStream, check_batch_size
from trainer.data.table import ItemTable

logger = logging.getLogger(__name__)


@register("sampler", "random_triplets", gives="triplets")
class RandomTriplets(ExampleStream):
    """Random triplets, the same number for every class, drawn anew every epoch.

    The anchors of a class differ from each other as long as it has enough images; the positive is
    any other image of the class; the negative is any image of another class, every image being
    equally likely. A class with one image gives negatives only.

    Args:
        table: the training rows; their labels are used.
        batch_size: triplets in a batch, 1 to per_class x number of classes.
        seed: decides all draws.
        per_class: triplets per class and epoch, 1 or more; default 5.

    Raises:
        ValueError: `per_class` is below 1.
        UserError: there is a single class, no class has two images, or an epoch has fewer triplets
            than a batch.
    """

    def __init__(self, table: ItemTable, batch_size: int, seed: int, *, per_class: int = 5) -> None:
        if per_class < 1:
            raise ValueError(f"per_class={per_class}: must be 1 or more")
        classes = ClassRows(table)
        if len(classes.label) < 2:
            raise UserError(
                f"sampler 'random_triplets' needs images of 2 classes or more, this split has "
                f"{len(classes.label)}: {classes.names(classes.size > 0) or 'no images'}"
            )
        single = classes.size < 2
        if single.all():
            raise UserError(
                "sampler 'random_triplets' needs a class with 2 images or more; all "
                f"{len(classes.label):,} classes of this split have one"
            )
        if single.any():
            logger.warning(
                "%d of %d classes have one image and serve as negatives only: %s",
                single.sum(),
                len(single),
                classes.names(single),
            )
        start, size = classes.start[~single], classes.size[~single]
        count = per_class * len(start)
        check_batch_size(batch_size, count, "triplets")
        group = np.repeat(np.arange(len(classes.label)), classes.size)
        first, members = np.repeat(start, per_class), np.repeat(size, per_class)
        turn = np.tile(np.arange(per_class), len(start)) % members
        others = len(table) - members

        def draw(random: np.random.Generator) -> np.ndarray:
            # Sorting by class number plus a fraction shuffles inside each class, all at once.
            rows = classes.rows[np.argsort(group + random.random(len(group)))]
            positive = (turn + 1 + random.integers(0, members - 1)) % members
            negative = random.integers(0, others)
            negative = np.where(negative < first, negative, negative + members)
            places = np.stack([first + turn, first + positive, negative], axis=1)
            return rows[random.permutation(places)]

        super().__init__(Epochs(draw, seed), count, batch_size, rows=3)

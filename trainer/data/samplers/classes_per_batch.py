"""Batches of several images from each of several classes, for losses over pairs."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from trainer.config import UserError, register
from trainer.data.samplers.plan import ClassBatches, ClassRows, EpochBatches, nth_appearance
from trainer.data.table import ItemTable

logger = logging.getLogger(__name__)


@register("sampler", "classes_per_batch", gives="labels")
class ClassesPerBatch(EpochBatches):
    """P classes times K images in every batch; each class equally often, or by its size.

    An epoch has as many batches as are needed to see as many images as there are. The P classes of
    a batch are different ones. With `class_weight=equal` they come in a new order every round;
    where P does not divide their number, those left out of a round change, so that over an epoch
    any two classes differ by two appearances at most. With `class_weight=size` they are drawn for
    every batch, one after another, each with a probability in proportion to its number of images
    among the classes not yet in the batch; so each image comes about equally often. Inside a class
    the images are dealt without repetition until fewer than K are left, then shuffled again. A
    class with fewer than K images shows each of them, and some again. A class with one image forms
    no pairs and is left out.

    The sampler of the product recognition solution of 2023 is `class_weight=size` with K = 2, but
    for this: there a class may be drawn twice for a batch, an image twice for its class, and a
    class with one image is paired with itself, all of which give pairs of a picture with itself or
    fewer different products.

    Args:
        table: the training rows; their labels are used.
        batch_size: images in a batch, P x K: a multiple of `images_per_class`.
        seed: decides all draws.
        images_per_class: K, 2 or more; default 4.
        class_weight: "equal" (default) deals all classes alike, "size" draws them by their number
            of images.
        category_share: probability, 0..1, that the classes of a batch are of one category, drawn
            in proportion to the categories' classes (or images, by size); default 0. Categories of
            fewer than P classes are taken together.
        category_by: "batch" (default) draws for every batch, "epoch" once for all of an epoch.

    Raises:
        ValueError: `images_per_class` is below 2, `class_weight` neither of the two, or
            `category_share` no probability.
        UserError: `images_per_class` does not divide `batch_size`, a batch has fewer than 2
            classes, or the split has fewer than P classes with 2 images; with `category_share`,
            an image has no category, or no category has P classes.
    """

    def __init__(
        self,
        table: ItemTable,
        batch_size: int,
        seed: int,
        *,
        images_per_class: int = 4,
        class_weight: Literal["equal", "size"] = "equal",
        category_share: float = 0.0,
        category_by: Literal["batch", "epoch"] = "batch",
    ) -> None:
        if images_per_class < 2:
            raise ValueError(
                f"images_per_class={images_per_class}: must be 2 or more, one image forms no pair"
            )
        if class_weight not in ("equal", "size"):
            raise ValueError(f"class_weight={class_weight!r}: must be equal or size")
        per_batch, rest = divmod(batch_size, images_per_class)
        if rest or per_batch < 2:
            raise UserError(
                f"batch_size={batch_size} does not hold 2 or more classes of "
                f"sampler.images_per_class={images_per_class} images; choose a multiple of "
                f"{images_per_class} from {2 * images_per_class} on"
            )
        classes = ClassRows(table)
        single = classes.size < 2
        usable = int((~single).sum())
        if usable < per_batch:
            without = f", and {single.sum()} with one: {classes.names(single)}"
            raise UserError(
                f"batch_size={batch_size} with sampler.images_per_class={images_per_class} needs "
                f"{per_batch} classes of 2 images or more; this split has {usable}"
                + (without if single.any() else "")
                + "; use a smaller batch_size or more images_per_class"
            )
        if single.any():
            logger.warning(
                "%d of %d classes have one image, which forms no pair, and are left out: %s",
                single.sum(),
                len(single),
                classes.names(single),
            )
        self._rows = classes.rows
        self._start, self._size = classes.start[~single], classes.size[~single]
        self._images_per_class = images_per_class
        batches = max(1, int(self._size.sum()) // batch_size)
        self._classes = ClassBatches(
            table,
            classes.label[~single],
            per_batch,
            batches,
            category_share,
            category_by,
            self._size if class_weight == "size" else None,
        )
        super().__init__(self._draw, seed, batches, batch_size)

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Return int64 (batches, P * K), rows of the table: K of one class, K of the next, ..."""
        chosen = self._classes.draw(random).reshape(-1)
        return self._draw_images(random, chosen).reshape(self.steps_per_epoch, -1)

    def _draw_images(self, random: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
        """Return int64 (len(chosen), K): rows of the table for each appearance of a class."""
        wanted = self._images_per_class
        # A pass deals the shuffled images of one class: K at a time while they last. For a class
        # smaller than K a pass is one appearance, dealt from several copies of its images.
        per_pass = np.maximum(self._size // wanted, 1)
        copies = np.maximum(-(-wanted // self._size), 1)
        appearances = np.bincount(chosen, minlength=len(self._size))
        passes = -(-appearances // per_pass)
        pass_class = np.repeat(np.arange(len(self._size)), passes)
        length = (self._size * copies)[pass_class]
        end = np.cumsum(length)
        begin = end - length
        within = np.arange(end[-1]) - np.repeat(begin, length)
        members = np.repeat(self._size[pass_class], length)
        copy, image = np.divmod(within, members)
        # Whole numbers keep passes, and copies in a pass, apart; fractions shuffle inside them.
        key = np.repeat(np.arange(len(length)), length) * int(copies.max()) + copy
        dealt = np.argsort(key + random.random(len(key)))
        images = (np.repeat(self._start[pass_class], length) + image)[dealt]

        first_pass = np.cumsum(passes) - passes
        nth = nth_appearance(chosen, len(self._size))
        number, turn = np.divmod(nth, per_pass[chosen])
        place = begin[first_pass[chosen] + number] + turn * wanted
        return self._rows[images[place[:, None] + np.arange(wanted)]]

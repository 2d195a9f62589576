"""Validation: embed a table once, then take retrieval metrics and the loss from the embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data.domains import query_masks
from trainer.data.pipeline import eval_batches
from trainer.data.samplers import Sampler
from trainer.data.table import ItemTable
from trainer.losses.accuracy import triplet_accuracy
from trainer.retrieval import metrics
from trainer.retrieval.embed import embed
from trainer.training.step import examples

#: Batches of the loss on validation data; beyond them the mean hardly moves.
MOST_BATCHES = 200


def predictor(model: keras.Model) -> Callable[[Any], Any]:
    """Return a compiled function from a batch of images to float32 embeddings."""

    @tf.function(reduce_retracing=True)
    def predict(images: Any) -> Any:
        return tf.cast(model(images, training=False), tf.float32)

    return predict


def embed_table(
    predict: Callable[[Any], Any], table: ItemTable, image_size: int, batch_size: int = 64
) -> np.ndarray:
    """Return the (N, D) float32 embeddings of all rows of `table`, in order."""
    batches = eval_batches(table, image_size=image_size, batch_size=batch_size)
    return embed(predict, batches, len(table))


def has_pairs(table: ItemTable, query_domain: str, gallery_domain: str) -> bool:
    """Return whether any query has another image of its label in the gallery."""
    is_query, is_gallery = query_masks(table, query_domain, gallery_domain)
    if is_query is None or is_gallery is None:
        return bool((np.bincount(table.label) > 1).any())
    queries = np.bincount(table.label[is_query], minlength=len(table.label_names))
    gallery = np.bincount(table.label[is_gallery], minlength=len(table.label_names))
    both = np.bincount(table.label[is_query & is_gallery], minlength=len(table.label_names))
    return bool(((queries > 0) & (gallery - (both == queries) > 0)).any())


class Validator:
    """Measures a model on a validation table.

    Args:
        model: embedding model.
        table: validation rows.
        image_size: in pixels.
        loss: the training loss.
        example_rows: rows of a batch that make an example of the loss: 1, pair 2, triplet 3.
        sampler: groups rows of `table` into batches for the loss; None leaves the loss out.
        query_domain: domain of the queries; empty: all rows.
        gallery_domain: domain that is searched; empty: all rows.
        batch_size: images embedded at a time.
    """

    def __init__(
        self,
        model: keras.Model,
        table: ItemTable,
        *,
        image_size: int,
        loss: Any,
        example_rows: int,
        sampler: Sampler | None,
        query_domain: str = "",
        gallery_domain: str = "",
        batch_size: int = 64,
    ) -> None:
        self._predict = predictor(model)
        self._table = table
        self._image_size = image_size
        self._loss = loss
        self._example_rows = example_rows
        self._sampler = sampler
        self._masks = query_masks(table, query_domain, gallery_domain)
        self._batch_size = batch_size

    def __call__(self) -> dict[str, float]:
        """Return `recall_at_1`, `map_at_r` and, with a sampler, `val_loss` (and, for explicit
        triplets, `triplet_accuracy` in percent)."""
        embeddings = embed_table(self._predict, self._table, self._image_size, self._batch_size)
        is_query, is_gallery = self._masks
        found = metrics.evaluate(
            embeddings,
            self._table.label,
            is_query=is_query,
            is_gallery=is_gallery,
            ks=(1,),
            bootstrap=0,
        ).metrics
        values = {name: found[name] for name in ("recall_at_1", "map_at_r")}
        if self._sampler is not None:
            values.update(self._loss_values(embeddings, self._sampler))
        return values

    def _loss_values(self, embeddings: np.ndarray, sampler: Sampler) -> dict[str, float]:
        # A loss that draws must not draw on when training goes on.
        with getattr(self._loss, "aside", contextlib.nullcontext)():
            return self._measured_loss(embeddings, sampler)

    def _measured_loss(self, embeddings: np.ndarray, sampler: Sampler) -> dict[str, float]:
        losses, accuracies = [], []
        for number in range(min(sampler.steps_per_epoch, MOST_BATCHES)):
            rows = sampler.batch(number)
            batch = examples(self._table.label[rows], embeddings[rows], self._example_rows)
            losses.append(float(self._loss(*batch)))
            if self._example_rows == 3:
                accuracies.append(float(triplet_accuracy(batch[1])))
        values = {"val_loss": float(np.mean(losses))}
        if accuracies:
            values["triplet_accuracy"] = float(np.mean(accuracies))
        return values

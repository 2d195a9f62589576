"""One optimizer step: forward, global loss, gradients, clipping, update; on any strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainer.config import UserError
from trainer.training.averaging import WeightAverage
from trainer.training.groups import decays
from trainer.training.momentum_encoder import MomentumEncoder
from trainer.training.rows import RowTable, Sample

#: Loss scaling for float16: start, and steps without overflow before the scale doubles.
FIRST_SCALE, GROW_AFTER = 2.0**15, 2000


class TrainStep:
    """The compiled step with everything it changes.

    Every replica gathers the embeddings of all replicas and computes the loss of the global
    batch, so that pairs and mining do not depend on how many replicas share the batch. Each of
    the N replicas holds the same loss, and the gradient of the gather adds up all of their
    gradients; divided by N that is the gradient one device would have.

    To be made, and called, under the strategy's scope.

    Args:
        model: images to embeddings.
        loss: of the global batch.
        example_rows: 1: the loss takes labels (B,) and embeddings (B, D). 2 or 3: it takes the
            batch as pairs (P, 2, D) or triplets (T, 3, D), whose rows follow one another in it, and
            a label for each.
        groups: optimizers with the weights that each of them moves.
        rows: images in a batch of all replicas together; None: whatever comes.
        accumulate: batches per step; the gradient is that of their mean loss.
        clip_range: least and largest value of a gradient entry, applied first.
        clip_norm: bound on the norm of all gradients together.
        l2_penalty: factor of half the squared norm of the weights that decay, whose gradient is
            added before anything is clipped; the loss that is reported is without it.
        average: moving average to update, if any.
        encoder: copy of the model that follows it, if any: embeds every batch for the memory that
            the loss keeps.
        xla: compile forward and backward pass with XLA.
        scale_loss: guard float16 gradients with a dynamic loss scale.

    Raises:
        UserError: XLA is asked for with several replicas.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Any,
        *,
        example_rows: int = 1,
        groups: Sequence[tuple[keras.optimizers.Optimizer, list[Any]]],
        rows: int | None = None,
        accumulate: int = 1,
        clip_range: tuple[float, float] | None = None,
        clip_norm: float | None = None,
        l2_penalty: float = 0.0,
        average: WeightAverage | None = None,
        encoder: MomentumEncoder | None = None,
        xla: bool = False,
        scale_loss: bool = False,
    ) -> None:
        self._strategy = tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        if xla and self._replicas > 1:
            raise UserError("train.xla works with one device; set train.devices=1 or train.xla=no")
        self._model = model
        self._loss = loss
        self._example_rows = example_rows
        self._table, groups = RowTable.of(loss, groups, (rows or 0) * accumulate)
        self._groups = groups
        self._variables = [variable for _, variables in groups for variable in variables]
        self._rows = rows
        self._accumulate = accumulate
        self._clip_range = clip_range
        self._clip_norm = clip_norm
        self._l2_factors = [
            l2_penalty * decays(optimizer, variable)
            for optimizer, variables in groups
            for variable in variables
        ]
        if self._table is not None:
            self._l2_factors.append(l2_penalty * self._table.decays)
        self._average = average
        self._encoder = encoder
        for optimizer, variables in groups:
            optimizer.build(variables)
        for optimizer in self._optimizers:
            if self._replicas > 1:
                # The step adds the replicas' gradients up itself, since clipping needs the sum;
                # Keras would add these sums up once more.
                optimizer._all_reduce_sum_gradients = lambda pairs: pairs
        self.scale: Any = None
        if scale_loss:
            self.scale = tf.Variable(FIRST_SCALE, trainable=False, name="loss_scale")
            self._calm = tf.Variable(0, trainable=False, name="calm_steps")
        self._gradients_of: Callable[[dict[str, Any], Sample | None], Any] = self._gradients
        if xla:
            # Forward and backward in one: a backward pass outside could not be compiled.
            self._gradients_of = tf.function(self._gradients, autograph=False, jit_compile=True)
        self.run = tf.function(self._run, autograph=False)

    @property
    def _optimizers(self) -> list[keras.optimizers.Optimizer]:
        own = [] if self._table is None else [self._table.optimizer]
        return [optimizer for optimizer, _ in self._groups] + own

    @property
    def variables(self) -> dict[str, Any]:
        """Everything but the model that a step changes, under stable keys."""
        found: dict[str, Any] = {}
        for number, (optimizer, _) in enumerate(self._groups):
            for place, variable in enumerate(optimizer.variables):
                # The path begins with a name that Keras may number anew: of optimizer or layer.
                name = variable.path.partition("/")[2]
                found[f"optimizer/{number}/{place:05d}/{name}"] = variable.value
        if self._table is not None:
            found |= self._table.variables
        for place, variable in enumerate(getattr(self._loss, "variables", [])):
            name = variable.path.partition("/")[2]
            found[f"loss/{place:05d}/{name}"] = variable.value
        if self._average is not None:
            for place, shadow in enumerate(self._average.shadows):
                found[f"average/{place:05d}"] = shadow
        if self._encoder is not None:
            for key, weight in self._encoder.variables.items():
                found[f"momentum/{key}"] = weight
        if self.scale is not None:
            found["loss_scale"], found["calm_steps"] = self.scale, self._calm
        return found

    def _run(self, batches: Any) -> dict[str, Any]:
        """Take the next `accumulate` batches from an iterator, and make one update."""
        inputs = tuple(batches.get_next() for _ in range(self._accumulate))
        change, numbers = self._strategy.run(self._replica, args=(inputs,))
        first = {n: self._strategy.experimental_local_results(v)[0] for n, v in numbers.items()}
        if self.scale is None:
            self._update(change)
        else:
            self._update_if_finite(change, tf.math.is_finite(first["gradient_norm"]))
        return first

    def _replica(self, inputs: tuple[dict[str, Any], ...]) -> tuple[Any, dict[str, Any]]:
        """Return gradients with the rows of the table that the last is of, and what was seen."""
        sample = None
        if self._table is not None:
            # The batches of a step share a sample: what they change is one set of rows.
            labels = [self._gathered(batch["label"]) for batch in inputs]
            sample = self._table.draw(tf.concat(labels, axis=0))
        total, loss, seen = self._gradients_of(inputs[0], sample)
        losses = [loss]
        for batch in inputs[1:]:
            # One batch after the other: replicas must meet in the same order, and one batch's
            # activations are enough to hold.
            with tf.control_dependencies(total):
                batch = {name: tf.identity(value) for name, value in batch.items()}
                gradients, loss, seen = self._gradients_of(batch, sample)
            losses.append(loss)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        divisor = tf.constant(float(self._replicas * self._accumulate))
        if self.scale is not None:
            divisor = divisor * self.scale
        total = [gradient / tf.cast(divisor, gradient.dtype) for gradient in total]
        if self._replicas > 1:
            context = tf.distribute.get_replica_context()
            total = list(context.all_reduce(tf.distribute.ReduceOp.SUM, total))
        if any(self._l2_factors):
            total = [
                gradient + factor * tf.cast(weight, gradient.dtype)
                for gradient, weight, factor in zip(
                    total, self._weights(sample), self._l2_factors, strict=True
                )
            ]
        if self._clip_range is not None:
            total = [tf.clip_by_value(gradient, *self._clip_range) for gradient in total]
        norm = tf.linalg.global_norm(total)
        if self._clip_norm is not None:
            total, _ = tf.clip_by_global_norm(total, self._clip_norm, use_norm=norm)
        change = (total, [] if sample is None else [sample.rows])
        return change, {"loss": tf.add_n(losses) / len(losses), "gradient_norm": norm, **seen}

    def _weights(self, sample: Sample | None) -> list[Any]:
        """Return what gradients are of: the weights, then the drawn rows of the table."""
        weights = [variable.value for variable in self._variables]
        return weights if sample is None else [*weights, sample.values]

    def _gradients(
        self, batch: dict[str, Any], sample: Sample | None
    ) -> tuple[list[Any], Any, dict[str, Any]]:
        """Return gradients, the loss, and the global batch as the loss saw it."""
        if self._rows is not None:
            # Strategies forget how many rows a share has; the losses may count on knowing.
            share = self._rows // self._replicas
            batch = {n: tf.ensure_shape(v, (share, *v.shape[1:])) for n, v in batch.items()}
        about: dict[str, Any] = {name: batch[name] for name in ("label", "row") if name in batch}
        # Before the tape, which would keep what a backward pass through the copy needs.
        kept = {}
        if self._encoder is not None:
            kept["stored"] = self._gathered(self._encoder(batch["image"]))
        with tf.GradientTape() as tape:
            if sample is not None:
                tape.watch(sample.values)
            embeddings = self._gathered(self._model(batch["image"], training=True))
            about = {name: self._gathered(value) for name, value in about.items()}
            if sample is None:
                loss = self._loss(*examples(about["label"], embeddings, self._example_rows), **kept)
            else:
                loss = self._loss.of_sample(
                    about["label"], embeddings, sample.classes, sample.values
                )
            objective = loss
            # Weight penalties belong to each replica's own copy of the model.
            for penalty in self._model.losses:
                objective += tf.cast(penalty, objective.dtype)
            if self.scale is not None:
                objective *= tf.cast(self.scale, objective.dtype)
        gradients = tape.gradient(
            objective, self._weights(sample), unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return gradients, loss, {"embedding": embeddings, **about}

    def _gathered(self, value: Any) -> Any:
        """Return the rows of all replicas."""
        if self._replicas == 1:
            return value
        context = tf.distribute.get_replica_context()
        # Gathering forgets all sizes, and some losses want to know that of an embedding.
        shape = (self._rows, *value.shape[1:])
        return tf.ensure_shape(context.all_gather(value, axis=0), shape)

    def _apply(self, gradients: list[Any], rows: list[Any]) -> None:
        if self._table is not None:
            self._table.apply(gradients[-1], rows[0])
        start = 0
        for optimizer, variables in self._groups:
            optimizer.apply(gradients[start : start + len(variables)], variables)
            start += len(variables)

    def _update(self, change: Any) -> None:
        # A run of its own: inside a condition the replicas can't meet in one that began outside.
        self._strategy.run(self._apply, args=change)
        if self._average is not None:
            self._average.update()
        if self._encoder is not None:
            self._encoder.update()

    def _update_if_finite(self, change: Any, finite: Any) -> None:
        def accept() -> None:
            self._update(change)
            self._calm.assign_add(1)
            grown = tf.where(self._calm >= GROW_AFTER, self.scale * 2.0, self.scale)
            self.scale.assign(tf.minimum(grown, 2.0**24))
            self._calm.assign(tf.where(self._calm >= GROW_AFTER, 0, self._calm))

        def reject() -> None:
            self.scale.assign(tf.maximum(self.scale / 2.0, 1.0))
            self._calm.assign(0)

        tf.cond(finite, accept, reject)


def examples(labels: Any, embeddings: Any, rows: int) -> tuple[Any, Any]:
    """Return a batch as a loss takes it: labels (B / rows,), embeddings (B / rows, rows, D); with
    1 row an example, both as they are."""
    if rows == 1:
        return labels, embeddings
    return labels[::rows], ops.reshape(embeddings, (-1, rows, embeddings.shape[-1]))


def to_numpy(variable: Any) -> np.ndarray:
    """Return the value of a variable, of its first copy where replicas have one each."""
    return np.asarray(variable.numpy())

"""The training loop: one function to read from top to bottom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.config import UserError
from trainer.config.train_options import TrainOptions
from trainer.training.averaging import WeightAverage
from trainer.training.checkpoint import CheckpointFolder, load
from trainer.training.interrupts import Interrupted, InterruptGuard
from trainer.training.momentum_encoder import MomentumEncoder
from trainer.training.progress import TrainingProgress
from trainer.training.step import TrainStep, to_numpy
from trainer.training.strategy import is_chief
from trainer.training.trackers import Trackers

LOG = logging.getLogger(__name__)

#: Numbers of which less is better.
FALLING = ("val_loss",)


@dataclass(frozen=True)
class Ready:
    """What is set up when the first step is about to be made."""

    #: Steps that an earlier process of the job has made.
    step: int
    step_function: TrainStep
    #: Every variable of the job: `arrays()`, `restore(arrays)`.
    state: Any
    #: The batches of the steps to come, as `step_function.run` takes them; each call begins anew.
    batches: Callable[[], Any]


@dataclass(frozen=True)
class Task:
    """All that the loop trains with, made by the caller under the strategy's scope."""

    model: keras.Model
    loss: Any
    #: Rows of a batch that make an example of the loss: image 1, pair 2, triplet 3.
    example_rows: int
    groups: Sequence[tuple[keras.optimizers.Optimizer, list[Any]]]
    #: From the number of the first batch to batches for this worker's replicas, one each in turn.
    batches: Callable[[int], tf.data.Dataset]
    images_per_batch: int
    total_steps: int
    steps_per_epoch: int
    options: TrainOptions
    run_dir: str
    #: What must be the same for a checkpoint to be continued: config and data fingerprints.
    identity: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    validate: Callable[[], dict[str, float]] | None = None
    #: From a step and its batch (label, row, embedding) to numbers; may show the trackers pictures.
    summarize: Callable[[int, Mapping[str, Any], Trackers], dict[str, float]] | None = None
    monitor: str | None = None
    #: Started and told of numbers here; closed by who made them.
    trackers: Trackers = field(default_factory=Trackers)
    #: Called once, when all is set up and before the first step.
    before_training: Callable[[Ready], None] | None = None
    #: Told each validation's step and numbers; training ends there if it returns True.
    stop_early: Callable[[int, Mapping[str, float]], bool] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves: its last step, and the best validation."""

    step: int
    best_step: int
    best_score: float | None
    images_per_second: float
    #: Whether `Task.stop_early` ended it before its last step.
    stopped_early: bool = False


def fit(task: Task) -> Outcome:
    """Train to the last step, going on from the newest checkpoint of the run if there is one.

    Where a validation decides, the model ends with the weights of the best one; else with the
    last weights. A moving average, if kept, takes the place of the weights.

    Raises:
        Interrupted: SIGTERM or SIGINT came; the state was saved.
        UserError: the newest checkpoint is unreadable or of another job, the loss is not a finite
            number, an image can't be read any more, or the run folder can't be written.
    """
    strategy = tf.distribute.get_strategy()
    options, model = task.options, task.model
    chief = is_chief(strategy)
    average = None
    if options.ema is not None:
        average = WeightAverage(model.trainable_variables, options.ema)
    step_function = TrainStep(
        model,
        task.loss,
        example_rows=task.example_rows,
        groups=task.groups,
        rows=task.images_per_batch,
        accumulate=options.accumulate,
        clip_range=options.gradient_range,
        clip_norm=options.clip_norm,
        l2_penalty=options.l2_penalty,
        average=average,
        encoder=MomentumEncoder.of(model, task.loss),
        xla=options.xla,
        scale_loss=options.precision == "mixed_float16",
    )
    state = _State(model, step_function)
    checkpoints = CheckpointFolder(f"{task.run_dir}/checkpoints", options.keep)

    # Where to start: the newest checkpoint of this run, else the weights that the model came with.
    step, best_step, best_score = 0, 0, None
    if chief:
        checkpoints.sweep()
    found = checkpoints.newest()
    if found is not None:
        arrays, meta = found
        _check_identity(checkpoints.path(int(meta["step"])), meta, task.identity)
        state.restore(arrays)
        step, best_step, best_score = meta["step"], meta["best_step"], meta["best_score"]
        LOG.info("going on from step %d", step)
        # They are as large as the model with all its moments.
        del arrays
    saved_step = step if found is not None else -1
    del found

    def coming_batches() -> Any:
        return _distributed(strategy, task.batches, step * options.accumulate)

    if task.before_training is not None:
        task.before_training(Ready(step, step_function, state, coming_batches))

    validate_every = options.validate_every or task.steps_per_epoch
    checkpoint_every = options.checkpoint_every or task.steps_per_epoch
    summary_every = options.summary_every or validate_every
    images_per_step = task.images_per_batch * options.accumulate
    trackers = task.trackers if chief else Trackers()
    trackers.start(step, task.config)
    unchecked: list[Any] = []
    losses: list[float] = []
    speed = 0.0
    stopping = False

    def take_losses() -> None:
        """Bring the losses since the last call to Python, and stop at one that is not finite."""
        values = [float(loss) for loss in unchecked]
        unchecked.clear()
        if not np.isfinite(values).all():
            raise _not_finite(step, saved_step)
        losses.extend(values)

    def save(best: bool = False) -> None:
        nonlocal saved_step
        take_losses()
        if not chief or (saved_step == step and not best):
            return
        meta = {
            "step": step,
            "best_step": best_step,
            "best_score": best_score,
            **task.identity,
        }
        try:
            checkpoints.save(state.arrays(), meta, best)
        except FloatingPointError:
            raise _not_finite(step, saved_step) from None
        saved_step = step

    progress = TrainingProgress(task.total_steps, step, images_per_step)
    try:
        with InterruptGuard() as guard, progress:
            with progress.paused():
                iterator = coming_batches()
            while step < task.total_steps:
                numbers = step_function.run(iterator)
                unchecked.append(numbers["loss"])
                step += 1
                progress.advance()

                report: dict[str, float] = {}
                last = step == task.total_steps
                validating = task.validate is not None and (step % validate_every == 0 or last)
                if step % options.log_every == 0 or validating or last:
                    take_losses()
                    speed = progress.images_per_second(step)
                    report = {
                        "epoch": step / task.steps_per_epoch,
                        "loss": float(np.mean(losses)),
                        "learning_rate": _learning_rate(task.groups, step - 1),
                        "gradient_norm": float(numbers["gradient_norm"]),
                        "images_per_second": speed,
                    }
                    losses.clear()
                if validating and task.validate is not None:
                    with progress.paused():
                        report |= _validated(task.validate, average)
                        score = report.get(task.monitor) if task.monitor else None
                        if score is not None and _better(task.monitor, score, best_score):
                            best_step, best_score = step, score
                            save(best=True)
                summary: dict[str, float] = {}
                if task.summarize is not None and chief and step % summary_every == 0:
                    with progress.paused():
                        summary = task.summarize(step, numbers, trackers)
                if report or summary:
                    trackers.log(step, report | summary)
                if report:
                    progress.report(step, report, line=validating)
                if validating and task.stop_early is not None:
                    with progress.paused():
                        stopping = task.stop_early(step, report) and not last
                if step % checkpoint_every == 0 or last or stopping:
                    with progress.paused():
                        save()
                if guard.received is not None and not last:
                    save()
                    raise Interrupted(guard.received, step)
                if stopping:
                    break
    except tf.errors.OpError as error:
        # The weights are those of the last whole step: worth keeping whatever went wrong.
        save()
        raise UserError(_readable(error)) from error
    except (Interrupted, _NotFinite):
        raise
    except Exception:
        save()
        raise

    if best_step and tf.io.gfile.exists(checkpoints.best):
        state.restore(load(checkpoints.best)[0])
    if average is not None:
        for weight, shadow in zip(average.weights, average.shadows, strict=True):
            weight.assign(shadow.numpy())
    return Outcome(step, best_step or step, best_score, speed, stopping)


class _State:
    """Every variable of a job under a stable key, to and from arrays."""

    def __init__(self, model: keras.Model, step_function: TrainStep) -> None:
        self._variables: dict[str, Any] = {}
        weights = {id(weight) for weight in model.weights}
        for place, variable in enumerate(model.variables):
            # States of random generators have names that Keras numbers anew in every process.
            drawn = id(variable) not in weights
            key = f"random/{place:05d}" if drawn else f"model/{variable.path}"
            if key in self._variables:
                raise RuntimeError(f"two variables of the model share the path {variable.path}")
            self._variables[key] = variable.value
        self._variables |= step_function.variables

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return all values as they are; one is copied when it is asked for, and not held."""
        return _Arrays(self._variables)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        missing = sorted(set(self._variables) ^ set(arrays))
        if missing:
            raise UserError(
                f"the checkpoint and the job differ in {len(missing)} variables ({missing[0]}, ...)"
            )
        for key, variable in self._variables.items():
            if tuple(variable.shape) != arrays[key].shape:
                raise UserError(
                    f"{key} has shape {arrays[key].shape} in the checkpoint, "
                    f"{tuple(variable.shape)} in the job"
                )
        for key, variable in self._variables.items():
            variable.assign(arrays[key])


class _Arrays(Mapping[str, np.ndarray]):
    """The values of variables, some of which may be too large to hold twice."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def __getitem__(self, key: str) -> np.ndarray:
        return to_numpy(self._variables[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def _distributed(
    strategy: tf.distribute.Strategy, batches: Callable[[int], tf.data.Dataset], start: int
) -> Any:
    if strategy.num_replicas_in_sync == 1:
        return iter(batches(start))
    return iter(strategy.distribute_datasets_from_function(lambda context: batches(start)))


def _validated(
    validate: Callable[[], dict[str, float]], average: WeightAverage | None
) -> dict[str, float]:
    if average is None:
        return validate()
    with average.in_place():
        return validate()


def _better(monitor: str | None, score: float, best: float | None) -> bool:
    if not math.isfinite(score):
        return False
    if best is None:
        return True
    return score < best if monitor in FALLING else score > best


def _learning_rate(
    groups: Sequence[tuple[keras.optimizers.Optimizer, list[Any]]], step: int
) -> float:
    """Return the rate of a step before the factors that parts of the model have."""
    rate = groups[0][0]._learning_rate
    if callable(rate):
        return float(rate(step)) / getattr(rate, "scale", 1.0)
    return float(to_numpy(rate.value))


def _check_identity(path: str, meta: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    for name, value in identity.items():
        if meta.get(name) != value:
            raise UserError(
                f"{path} was trained with another {name}; take another run folder, "
                "or start again with --fresh"
            )


class _NotFinite(UserError):
    """The loss or a weight is no finite number: nothing to save."""


def _not_finite(step: int, saved_step: int) -> _NotFinite:
    kept = f"; the checkpoint of step {saved_step} is kept" if saved_step >= 0 else ""
    return _NotFinite(
        f"the loss is not a finite number at or shortly before step {step}{kept}; "
        "lower lr, or set train.clip_norm=1"
    )


def _readable(error: tf.errors.OpError) -> str:
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    return f"training stopped: {lines[0] if lines else type(error).__name__}"

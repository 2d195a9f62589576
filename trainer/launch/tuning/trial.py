"""One trial of a search: a job with some keys set, in a run folder of its own."""

from __future__ import annotations

import dataclasses
import gc
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer.config import JobConfig, Stopped, TrainOptions, UserError, options
from trainer.launch.run_folder import RunFolder
from trainer.launch.tuning.space import Space, Value, in_words

if TYPE_CHECKING:
    from trainer.launch.job import JobResult

LOG = logging.getLogger(__name__)

#: What the run folder of a trial holds beside a run's files.
RECORD = "trial.json"
#: Where the traceback of an error goes that is no mistake of the user's.
TRACEBACK = "error.txt"

State = Literal["complete", "pruned", "failed", "unfinished"]

#: Told the number of a validation (1, 2, ...), its score and the trial so far; True ends the trial.
Watch = Callable[[int, float, "Trial"], bool]


@dataclass(frozen=True)
class Search:
    """What is searched, and by which number a trial is judged.

    Attributes:
        space: the keys and their values, with the job.
        folder: where run folders of trials and all results go.
        metric: validation number; of `val_loss` the least is best, of others the highest.
        whole: whether a trial is a whole job, or training with its validations alone.
    """

    space: Space
    folder: str
    metric: str
    whole: bool = False

    @classmethod
    def of(
        cls, space: Space, folder: str, metric: str | None = None, *, whole: bool = False
    ) -> Search:
        """Return a search; without `metric` it goes by what the job's best checkpoint goes by.

        Raises:
            UserError: there is no such metric.
        """
        base = space.config()
        if metric is None:
            by_default = "val_loss" if base.dataset == "triplets" else "recall_at_1"
            metric = base.training.monitor or by_default
        try:
            options.parse(TrainOptions, "monitor", metric)
        except ValueError as error:
            raise UserError(f"--metric: {error}") from None
        return cls(space, folder.rstrip("/"), metric, whole)

    @property
    def falling(self) -> bool:
        """Whether the least score is the best."""
        return self.metric == "val_loss"

    def config(self, params: Mapping[str, Value]) -> JobConfig:
        """Return the config of a trial: its best checkpoint is the best by the metric.

        Raises:
            UserError: the values do not go together.
        """
        config = self.space.config(params)
        training = dataclasses.replace(config.training, monitor=self.metric)  # type: ignore[arg-type]
        return dataclasses.replace(config, training=training)

    @property
    def best(self) -> Callable[..., Any]:
        """What picks the best of scores: `min` or `max`."""
        return min if self.falling else max

    def check(self) -> None:
        """Build what is built without data, with each value or both ends: it checks its range.

        Raises:
            UserError: a value is refused; with file, line and key.
        """
        for parameter in self.space.parameters:
            kind = parameter.key.rpartition(".")[0]
            if kind not in ("loss", "augment"):
                continue
            for config in self.space.examples(parameter):
                try:
                    config.build(kind)
                except UserError as error:
                    words = str(error).removeprefix("--set: ")
                    raise UserError(f"{parameter.place}: {words}") from None

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for trials to belong together, ready for JSON."""
        return {
            "job": self.space.config().to_dict(),
            "space": self.space.to_dict(),
            "metric": self.metric,
        }


@dataclass(frozen=True)
class Trial:
    """A trial, as far as it has come.

    Attributes:
        number: from 0; in a grid, of the combination.
        params: values of the keys that it sets.
        folder: its run folder.
        state: what became of it; `unfinished` while it runs, and when it was killed.
        score: best validation.
        best_step: step of the best validation.
        step: last step.
        seconds: time of all processes that worked at it.
        validations: step and score of each.
        error: why it failed, in one line.
    """

    number: int
    params: Mapping[str, Value]
    folder: str
    state: State = "unfinished"
    score: float | None = None
    best_step: int = 0
    step: int = 0
    seconds: float = 0.0
    validations: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {**dataclasses.asdict(self), "params": dict(self.params)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Return what :meth:`to_dict` was called of."""
        validations = tuple((int(step), float(score)) for step, score in values["validations"])
        return cls(**{**values, "validations": validations})


def run_job(
    config: JobConfig,
    run_dir: str,
    *,
    training_only: bool,
    stop_early: Callable[[int, Mapping[str, float]], bool],
) -> JobResult:
    """Run a job as if it were the first of its process: names and memory of others are gone."""
    import keras

    from trainer.launch import job

    # Layers are numbered within a process, and checkpoints are read by the layers' names.
    keras.utils.clear_session()
    gc.collect()
    return job.run(config, run_dir=run_dir, training_only=training_only, stop_early=stop_early)


def run_trial(
    search: Search,
    number: int,
    params: Mapping[str, Value],
    name: str,
    watch: Watch = lambda number, score, trial: False,
    *,
    job: Callable[..., Any] | None = None,
) -> Trial:
    """Run a trial to its end, going on from where an earlier process left it.

    Args:
        search: what it belongs to.
        number: of the trial.
        params: values of the keys that it sets.
        name: of its run folder, in the search's folder.
        watch: told of every validation; decides whether the trial goes on.
        job: what trains; default :func:`run_job`.

    Returns:
        The trial: complete, pruned, or failed with the reason.

    Raises:
        Stopped: it was asked to stop by a signal and saved its state.
    """
    job = job or run_job
    start = time.perf_counter()
    folder = RunFolder(f"{search.folder}/{name}")
    trial = Trial(number, dict(params), folder.path)
    earlier, claimed = 0.0, False

    def now(**changes: Any) -> Trial:
        seconds = earlier + time.perf_counter() - start
        changed = dataclasses.replace(trial, seconds=seconds, **changes)
        if claimed:
            folder.write_json(RECORD, changed.to_dict())
        return changed

    def stop_early(step: int, numbers: Mapping[str, float]) -> bool:
        nonlocal trial
        if search.metric not in numbers:
            return False
        scores = dict(sorted({**dict(trial.validations), step: numbers[search.metric]}.items()))
        best = search.best(scores, key=lambda step: scores[step])
        trial = now(
            score=scores[best], best_step=best, step=step, validations=tuple(scores.items())
        )
        return watch(list(scores).index(step) + 1, scores[step], trial)

    LOG.info("trial %d: %s", number, in_words(params))
    try:
        config = search.config(params)
        if folder.exists(RECORD):
            before = read_trial(folder)
            earlier = before.seconds
            trial = dataclasses.replace(trial, validations=before.validations)
        folder = RunFolder.claim(folder.path, config)
        claimed = True
        trial = now()
        made = job(config, folder.path, training_only=not search.whole, stop_early=stop_early)
        if made.best_score is None:
            raise UserError(f"no validation gave a number for {search.metric}")
        return now(
            state="pruned" if made.stopped_early else "complete",
            score=made.best_score,
            best_step=made.best_step,
            step=made.steps,
        )
    except Stopped:
        raise
    except UserError as error:
        return now(state="failed", error=" ".join(str(error).split()))
    except Exception as error:
        # One trial that runs out of memory must not end a night's search.
        if claimed:
            folder.write_text(TRACEBACK, traceback.format_exc())
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return now(state="failed", error=words)


def read_trial(folder: RunFolder) -> Trial:
    """Return the trial of a run folder.

    Raises:
        UserError: its record is damaged.
    """
    try:
        return Trial.from_dict(folder.read_json(RECORD))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder.file(RECORD)}: damaged, or not written by mildnet") from None


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """Check that a search is the one that was begun.

    Args:
        before: what :meth:`Search.identity` was, and more, when it was begun.
        now: what it is.
        place: where it was begun, for the error.

    Raises:
        UserError: it differs; with the first key that does.
    """
    jobs = [JobConfig.from_mapping(part["job"], source=place) for part in (now, before)]
    differences = jobs[0].differences(jobs[1])
    spaces = [part["space"] for part in (now, before)]
    differences += [
        f"the space of {key}"
        for key in dict.fromkeys([*spaces[0], *spaces[1]])
        if spaces[0].get(key) != spaces[1].get(key)
    ]
    differences += [
        f"{key}: {now[key]}, not {before[key]}"
        for key in now
        if key not in ("job", "space") and now[key] != before[key]
    ]
    if differences:
        raise UserError(
            f"{place}: was begun with another search ({differences[0]}); take another folder "
            "(--to) or, in a shared storage, another --study"
        )

"""A study: trials whose values Optuna picks, kept in a database, shared by any number of processes.

A trial's number is the number of its run folder and, in a grid, of its combination. Every draw
depends on the study's seed and that number, so a random search and a grid try the same values
however often they are stopped and however many processes share the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer.config import UserError
from trainer.data.files import absolute, is_remote, locked
from trainer.launch.run_folder import RunFolder
from trainer.launch.tuning.space import Searched, Value
from trainer.launch.tuning.trial import (
    RECORD,
    Search,
    State,
    Trial,
    Watch,
    check_identity,
    run_trial,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LOG = logging.getLogger(__name__)

DATABASE = "study.db"
#: What a study and its trials are marked with in the storage.
IDENTITY, PLACE, SURPLUS = "identity", "place", "surplus"
#: Seconds that a process waits for another to write a few rows.
PATIENCE = 120
#: The median of so many finished trials is worth going by; a first validation is not.
MEDIAN_TRIALS, MEDIAN_FROM = 5, 2
#: Trials of a search that has no end.
DEFAULT_TRIALS = 20

SamplerName = Literal["tpe", "random", "grid"]
PrunerName = Literal["median", "hyperband", "none"]


@dataclass(frozen=True)
class StudyOptions:
    """How a study goes about it.

    Attributes:
        sampler: what picks the values.
        trials: how many there will be in all, those of earlier and other processes among them;
            None: all of a grid, else `DEFAULT_TRIALS`.
        seed: of the draws.
        pruner: what ends trials that fall behind.
        storage: SQLAlchemy URL, or the file of an Optuna journal; "": SQLite in the folder.
        name: of the study in the storage; "": the job's name.
        take_over: go on with trials that other machines left, too.
    """

    sampler: SamplerName = "tpe"
    trials: int | None = None
    seed: int = 0
    pruner: PrunerName = "median"
    storage: str = ""
    name: str = ""
    take_over: bool = False


class Study:
    """A study of a search.

    Args:
        search: what is searched.
        options: how.
        create: make it if there is none.

    Raises:
        UserError: the storage can't be used, holds a study of another search, or the folder holds
            trials that are not of this study.
    """

    def __init__(self, search: Search, options: StudyOptions, *, create: bool = True) -> None:
        if is_remote(search.folder):
            raise UserError(
                f"{search.folder}: a study needs a local or mounted folder; of URLs only --index "
                "and --summary take any"
            )
        self.search, self.options = search, options
        self.combinations = search.space.combinations() if options.sampler == "grid" else None
        self._optuna = _import_optuna()
        if create:
            try:
                os.makedirs(search.folder, exist_ok=True)
            except OSError as error:
                raise UserError(f"{search.folder}: can't be made ({error.strerror})") from None
        elif not options.storage and not os.path.exists(f"{search.folder}/{DATABASE}"):
            raise UserError(f"{search.folder}: holds no study; begin one without --summary")
        with _database_errors(), self._alone() if create else contextlib.nullcontext():
            self._storage = self._open()
            self._study = self._load(create)

    @property
    def total(self) -> int:
        """How many trials there will be."""
        if self.combinations is None:
            return self.options.trials or DEFAULT_TRIALS
        return min(len(self.combinations), self.options.trials or len(self.combinations))

    def run(
        self,
        tell: Callable[[Trial, list[Trial]], None] = lambda trial, trials: None,
        *,
        job: Callable[..., Any] | None = None,
    ) -> list[Trial]:
        """Run trials until there are as many as asked for, and return all of the study.

        Args:
            tell: called after each trial, with all so far.
            job: what trains; see :func:`run_trial`.

        Raises:
            Stopped: a signal came; the trial that ran goes on when the study does.
        """
        while True:
            with contextlib.ExitStack() as held, _database_errors():
                trial = self._take(held)
                if trial is None:
                    return self.trials()
                number, params = trial.number, self._params(trial)
                name = folder_name(number)
                done = run_trial(self.search, number, params, name, self._watch(trial), job=job)
                self._finish(trial, done)
                tell(done, self.trials())

    def trials(self) -> list[Trial]:
        """Return all trials of the study, by number."""
        with _database_errors():
            found = self._study.get_trials(deepcopy=False)
        return [self._trial(trial) for trial in found if SURPLUS not in trial.user_attrs]

    def _open(self) -> optuna.storages.BaseStorage:
        from sqlalchemy.engine import URL, make_url

        storages = self._optuna.storages
        place = self.options.storage
        if place and "://" not in place:
            backend = storages.journal.JournalFileBackend(absolute(place))
            return storages.JournalStorage(backend)
        file = f"{absolute(self.search.folder)}/{DATABASE}"
        url = make_url(place) if place else URL.create("sqlite", database=file)
        waiting = {"connect_args": {"timeout": PATIENCE}}
        return storages.RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs=waiting if url.get_backend_name() == "sqlite" else None,
        )

    def _load(self, create: bool) -> optuna.Study:
        from trainer.launch.tuning.samplers import GridByNumber, SeededByNumber

        optuna, search, options = self._optuna, self.search, self.options
        name = options.name or search.space.config().name
        if self.combinations is not None:
            sampler: GridByNumber | SeededByNumber = GridByNumber(self.combinations)
        else:
            sampler = SeededByNumber(options.sampler, options.seed)
        pruner = {
            "median": optuna.pruners.MedianPruner(MEDIAN_TRIALS, MEDIAN_FROM),
            "hyperband": optuna.pruners.HyperbandPruner(),
            "none": optuna.pruners.NopPruner(),
        }[options.pruner]
        if not create and name not in optuna.get_all_study_names(self._storage):
            raise UserError(f"the storage holds no study {name!r}; --study NAME names another")
        study = optuna.create_study(
            storage=self._storage,
            sampler=sampler,
            pruner=pruner,
            study_name=name,
            direction="minimize" if search.falling else "maximize",
            load_if_exists=True,
        )
        identity = {**search.identity(), "grid": self.combinations is not None}
        # A space that is mended before the first trial is no other search.
        if IDENTITY in study.user_attrs and study.get_trials(deepcopy=False):
            check_identity(study.user_attrs[IDENTITY], identity, f"study {name!r}")
            return study
        left = [file for file in RunFolder(search.folder).names() if re.match(r"trial-\d", file)]
        if left:
            raise UserError(
                f"{search.folder}: holds trials of another search ({left[0]}, ...); choose another "
                "folder"
            )
        study.set_user_attr(IDENTITY, identity)
        return study

    def _take(self, held: contextlib.ExitStack) -> optuna.Trial | None:
        """Return the trial to run next, its lock held: one that was left, or a new one."""
        running = self._optuna.trial.TrialState.RUNNING
        with self._alone():
            for left in self._study.get_trials(deepcopy=False, states=(running,)):
                mine = left.user_attrs.get(PLACE) == self._place
                if (mine or self.options.take_over) and self._hold(left.number, held):
                    LOG.info("going on with trial %d", left.number)
                    return self._trial_again(left.number)
            waiting = self._optuna.trial.TrialState.WAITING
            begun = [t for t in self._study.get_trials(deepcopy=False) if t.state != waiting]
            if len(begun) >= self.total:
                return None
            trial = self._study.ask()
            if trial.number >= self.total:
                # Another machine, with a folder of its own, took the last one in this moment.
                trial.set_user_attr(SURPLUS, True)
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                return None
            self._hold(trial.number, held)
            trial.set_user_attr(PLACE, self._place)
            return trial

    def _trial_again(self, number: int) -> optuna.Trial:
        storage, name = self._storage, self._study.study_name
        study_id = storage.get_study_id_from_name(name)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        trial = self._optuna.trial.Trial(self._study, trial_id)
        trial.set_user_attr(PLACE, self._place)
        return trial

    def _hold(self, number: int, held: contextlib.ExitStack) -> bool:
        """Take the lock of a trial until `held` ends; False where a process has it."""
        try:
            held.enter_context(locked(self._file(f".{folder_name(number)}.lock"), "taken"))
        except UserError:
            return False
        return True

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        busy = f"{self.search.folder}: another process has held the study for {PATIENCE} seconds"
        return locked(self._file(".study.lock"), busy, wait=PATIENCE)

    def _file(self, name: str) -> str:
        return f"{self.search.folder}/{name}"

    @property
    def _place(self) -> str:
        return f"{socket.gethostname()}:{absolute(self.search.folder)}"

    def _params(self, trial: optuna.Trial) -> dict[str, Value]:
        params: dict[str, Value] = {}
        for parameter in self.search.space.parameters:
            if self.search.space.active(parameter, params):
                params[parameter.key] = _suggested(trial, parameter)
        return params

    def _watch(self, trial: optuna.Trial) -> Watch:
        reported = {
            number
            for other in self._study.get_trials(deepcopy=False)
            if other.number == trial.number
            for number in other.intermediate_values
        }

        def watch(validation: int, score: float, so_far: Trial) -> bool:
            trial.set_user_attr(RECORD, so_far.to_dict())
            # A job that was killed and goes on takes a validation a second time.
            if validation not in reported:
                trial.report(score, validation)
            return trial.should_prune()

        return watch

    def _finish(self, trial: optuna.Trial, done: Trial) -> None:
        states = self._optuna.trial.TrialState
        trial.set_user_attr(RECORD, done.to_dict())
        if done.state == "complete":
            self._study.tell(trial, done.score)
        else:
            state = states.PRUNED if done.state == "pruned" else states.FAIL
            self._study.tell(trial, state=state)

    def _trial(self, found: FrozenTrial) -> Trial:
        states = self._optuna.trial.TrialState
        names: dict[Any, State] = {
            states.COMPLETE: "complete",
            states.PRUNED: "pruned",
            states.FAIL: "failed",
        }
        state = names.get(found.state, "unfinished")
        if RECORD in found.user_attrs:
            return dataclasses.replace(Trial.from_dict(found.user_attrs[RECORD]), state=state)
        return Trial(found.number, found.params, self._file(folder_name(found.number)), state)


def folder_name(number: int) -> str:
    """Return the name of a trial's run folder."""
    return f"trial-{number:04d}"


def _suggested(trial: optuna.Trial, parameter: Searched) -> Value:
    if parameter.choices:
        return trial.suggest_categorical(parameter.key, parameter.choices)
    low: Any = parameter.low
    high: Any = parameter.high
    step: Any = parameter.step
    if step is None:
        if isinstance(low, int):
            return trial.suggest_int(parameter.key, low, high, log=parameter.log)
        return trial.suggest_float(parameter.key, low, high, log=parameter.log)
    values: Any = parameter.values
    # The place of the value, not the value: 3 * 0.1 is not 0.3.
    suggest = trial.suggest_int if isinstance(low, int) else trial.suggest_float
    value: Any = suggest(parameter.key, low, values[-1], step=step)
    return values[round((value - low) / step)]


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError('mildnet tune needs Optuna: pip install "mildnet[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def _database_errors() -> Iterator[None]:
    """Tell in one line what a storage refuses; passwords are not in what it says."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        words = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise UserError(f"--storage: {words}") from None

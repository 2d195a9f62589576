"""`mildnet tune`: a search from its files to its results, on a terminal."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

from rich.console import Console

from trainer.config import UserError
from trainer.launch import summary
from trainer.launch.run_folder import RunFolder
from trainer.launch.tuning import array, results
from trainer.launch.tuning.space import Space, in_words
from trainer.launch.tuning.study import DATABASE, Study, StudyOptions
from trainer.launch.tuning.trial import Search, Trial

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuneOptions:
    """What of a search is to be done here.

    Attributes:
        to: folder of the search; "": the job's name and `-tune` below `job_dir`.
        metric: validation number that decides; None: what the job's best checkpoint goes by.
        whole: trials are whole jobs.
        study: how values are picked.
        index: run this combination alone, counted from `index_base`.
        index_variable: take `index` from this environment variable.
        index_base: number of the first combination.
    """

    to: str = ""
    metric: str | None = None
    whole: bool = False
    study: StudyOptions = field(default_factory=StudyOptions)
    index: int | None = None
    index_variable: str | None = None
    index_base: int = 0


def list_combinations(space: Space, console: Console, *, index_base: int = 0) -> None:
    """Print the combinations of the grid, numbered, and how many there are."""
    combinations = space.combinations()
    width = len(str(len(combinations) - 1 + index_base))
    for number, params in enumerate(combinations, start=index_base):
        console.print(f"{number:>{width}}  {in_words(params)}", soft_wrap=True, markup=False)
    last = len(combinations) - 1 + index_base
    console.print(f"{len(combinations)} combinations, {index_base} to {last}")


def tune(space: Space, options: TuneOptions, console: Console) -> None:
    """Run a study, or one combination, and print and write what came of it.

    Raises:
        UserError: something that the user can mend; all trials failed.
        Stopped: a signal came; the same command goes on.
    """
    search = _search(space, options)
    summary.quiet_tensorflow()
    summary.log_to(console)
    if os.environ.get("TF_CONFIG"):
        raise UserError(
            "TF_CONFIG is set: a trial runs on one machine; unset it, and start the same command "
            "on each machine with one --storage"
        )
    search.check()
    if options.index is not None or options.index_variable is not None:
        _run_combination(search, options, console)
        return
    study = Study(search, options.study)

    def tell(done: Trial, trials: list[Trial]) -> None:
        LOG.info(results.in_one_line(search, done, trials))
        results.write(search, trials)

    console.print(
        f"[bold]{space.config().name}[/bold]: {study.total} trials in {search.folder}",
        soft_wrap=True,
    )
    _report(search, study.run(tell), console)


def summarize(space: Space, options: TuneOptions, console: Console) -> None:
    """Print and write what has come of a search so far, without running anything.

    Raises:
        UserError: nothing has begun, or it is another search.
    """
    search = _search(space, options)
    if options.study.storage or RunFolder(search.folder).exists(DATABASE):
        trials = Study(search, options.study, create=False).trials()
    else:
        trials = array.gather(search)
        missing = len(space.combinations()) - len(trials)
        if missing:
            console.print(f"{missing} combinations have not begun")
    if not trials:
        raise UserError(f"{search.folder}: no trial has begun")
    _report(search, trials, console)


def _search(space: Space, options: TuneOptions) -> Search:
    config = space.config()
    folder = options.to or f"{config.job_dir.rstrip('/')}/{config.name}-tune"
    return Search.of(space, folder, options.metric, whole=options.whole)


def _run_combination(search: Search, options: TuneOptions, console: Console) -> None:
    index = options.index
    if options.index_variable is not None:
        if index is not None:
            raise UserError("give --index or --index-from-env, one of the two")
        index = array.index_from(options.index_variable)
    trial = array.run_combination(search, (index or 0) - options.index_base)
    LOG.info(results.in_one_line(search, trial, []))
    console.print(f"run folder {trial.folder}", soft_wrap=True)


def _report(search: Search, trials: list[Trial], console: Console) -> None:
    results.write(search, trials)
    results.draw(search, trials)
    results.show(search, trials, console)
    best = results.best_of(search, trials)
    if best is None:
        if all(trial.state == "failed" for trial in trials):
            raise UserError(f"all {len(trials)} trials failed; the first: {trials[0].error}")
        return
    console.print(f"best       {search.folder}/best.cnf, of trial {best.number}", soft_wrap=True)
    for name, label in (("trials.html", "page"), ("trials.csv", "table")):
        console.print(f"{label:<11}{search.folder}/{name}", soft_wrap=True)
    if results.is_here(best) and not RunFolder(best.folder).exists("model.keras"):
        console.print(
            f"to measure it on the test split, and export it, without training again:\n"
            f"  mildnet train {search.folder}/best.cnf --run-dir {best.folder}",
            soft_wrap=True,
        )

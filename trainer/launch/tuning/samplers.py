"""What picks the values of a trial: Optuna's samplers, tied to the trial's number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from trainer.launch.tuning.space import Value


class GridByNumber(BaseSampler):
    """Gives trial N the values of combination N.

    Args:
        combinations: values of each trial.
    """

    def __init__(self, combinations: Sequence[Mapping[str, Value]]) -> None:
        self._combinations = combinations

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: values are given one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: values are given one by one."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of the trial's combination."""
        return self._combinations[trial.number][param_name]


class SeededByNumber(BaseSampler):
    """Draws as Optuna's sampler does, from a seed of each trial's own.

    A sampler that is seeded once would draw the same values again in a process that goes on with
    a study, and in every one of several processes.

    Args:
        name: `random` or `tpe`.
        seed: of the study.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._sampler: BaseSampler = RandomSampler()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of the trial."""
        entropy = np.random.SeedSequence([self._seed, trial.number])
        seed = int(entropy.generate_state(1)[0])
        self._sampler = RandomSampler(seed) if self._name == "random" else TPESampler(seed=seed)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna's sampler."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna's sampler."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See Optuna's sampler."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See Optuna's sampler."""
        self._sampler.after_trial(study, trial, state, values)

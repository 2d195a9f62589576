"""Draws that depend on a trial's number, and on nothing that a process remembers."""

import math

import optuna
import pytest

from trainer.launch.tuning.samplers import GridByNumber, SeededByNumber


def draw(study, trials):
    for _ in range(trials):
        trial = study.ask()
        lr = trial.suggest_float("lr", 1e-6, 1e4, log=True)
        trial.suggest_categorical("loss", ["a", "b"])
        study.tell(trial, -abs(math.log10(lr) + 2))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_sampler_that_is_made_anew_goes_on_with_the_same_draws(name):
    whole = draw(optuna.create_study(direction="maximize", sampler=SeededByNumber(name, 3)), 14)
    study = optuna.create_study(direction="maximize", sampler=SeededByNumber(name, 3))
    draw(study, 12)
    study.sampler = SeededByNumber(name, 3)
    assert draw(study, 2) == whole
    assert len({params["lr"] for params in whole}) == 14
    other = optuna.create_study(direction="maximize", sampler=SeededByNumber(name, 4))
    assert draw(other, 1)[0]["lr"] != whole[0]["lr"]


def test_tpe_comes_nearer_to_the_best_rate_than_its_first_draws():
    study = optuna.create_study(direction="maximize", sampler=SeededByNumber("tpe", 0))
    draw(study, 50)
    scores = [trial.value for trial in study.trials]
    assert sum(scores[-10:]) / 10 > 0.7 * sum(scores[:10]) / 10
    chance = optuna.create_study(direction="maximize", sampler=SeededByNumber("random", 0))
    draw(chance, 50)
    assert sum(scores[-10:]) > sum(trial.value for trial in chance.trials[-10:])


def test_trial_n_of_a_grid_has_the_values_of_combination_n():
    combinations = [{"lr": 0.1, "loss": "a"}, {"lr": 0.2, "loss": "b"}, {"lr": 0.3, "loss": "a"}]
    study = optuna.create_study(direction="maximize", sampler=GridByNumber(combinations))
    assert draw(study, 3) == combinations

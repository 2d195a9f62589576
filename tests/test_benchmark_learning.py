"""The benchmark `learning` measures what it says; its training takes minutes and is not run."""

import argparse

import numpy as np
import pytest

from benchmarks import learning
from trainer.config import JobConfig
from trainer.data.table import ItemTable


@pytest.fixture
def bench(tmp_path):
    """Three names in two themes, another two in one theme each, which nothing can find."""
    names = ["copy", "copy", "cut", "cut", "new", "new", "odd", "even"]
    themes = ["a", "b"] * 4
    paths = [str(tmp_path / f"{number}.png") for number in range(len(names))]
    table = ItemTable.from_columns(paths, names, split=["test"] * len(names), domain=themes)
    return learning.Bench(table, tmp_path / "bench", argparse.Namespace(steps=10, size=32))


def at(*degrees):
    """Return vectors of these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_all_against_all_and_theme_against_theme(bench):
    # The first pictures of copy and cut, of the same theme, lie closest.
    found = bench.measured(at(0, 10, 1, 5, 90, 91, 200, 300))
    assert found["all/recall_at_1"][:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert found["theme/recall_at_1"][:6].tolist() == [0, 0, 1, 1, 1, 1]
    for values in found.values():
        assert np.isnan(values[6:]).all()


def test_mean_and_error_are_over_names(bench):
    nan = np.nan
    values = np.array([1, 1, 0, 0, 1, 1, nan, nan])
    mean, error = bench.mean_and_error(values)
    assert mean == pytest.approx(200 / 3)
    # Three names of two pictures each, as if three pictures had been drawn, not six.
    assert error == pytest.approx(100 * np.sqrt(2 / 9 / 3), rel=0.25)
    assert bench.mean_and_error(np.full(8, 1.0)) == (100, 0)


def test_the_recipe_trains_the_same_net_on_the_same_number_of_pictures():
    recipe = JobConfig.load(learning.RECIPE)
    plain = JobConfig.from_mapping({**learning.COMMON, "loss": "multi_similarity"})
    assert recipe.parameters["model"] == plain.parameters["model"]
    assert recipe.steps * recipe.batch_size == 300 * plain.batch_size

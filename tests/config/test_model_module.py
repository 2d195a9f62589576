"""Model modules as a config sees them: what they must define, and how their config is read."""

import sys

import pytest

from trainer.config import JobConfig, UserError
from trainer.config.model_module import ModelModule
from trainer.config.settings import Settings

GOOD = """
def halve(step):
    return step / 2

config = {"loss": "triplet_semihard", "lr": 0.5, "steps": 7, "train.trainable": None}

def datasets():
    return {}

def build(image_size):
    return None
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the working folder and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, name="my_model_module"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def load(name, *overrides):
    return JobConfig.from_module(name, overrides, Settings({}))


def test_the_config_of_a_module_is_a_job_config(module):
    config = load(module(GOOD), "lr=0.25")
    assert (config.name, config.model_module) == ("my_model_module", "my_model_module")
    assert (config.loss, config.lr, config.steps) == ("triplet_semihard", 0.25, 7)
    assert (config.model_id, config.dataset, config.sampler) == ("", "", "classes_per_batch")
    assert config.origin("steps") == "my_model_module.config"
    assert "model" not in config.parameters
    assert "dataset" not in config.parameters


def test_a_saved_config_gives_the_same_job_without_importing_the_module(module, tmp_path):
    config = load(module(GOOD))
    saved = tmp_path / "config.cnf"
    saved.write_text(config.to_cnf())
    del sys.modules["my_model_module"]
    again = JobConfig.load(saved, (), Settings({}))
    assert again == config
    assert again.fingerprint() == config.fingerprint()
    assert JobConfig.from_mapping(config.to_dict(), (), Settings({})) == config
    assert "my_model_module" not in sys.modules


def test_both_modules_are_part_of_what_a_run_is(module):
    one = load(module(GOOD))
    other = load(module(GOOD, "my_other_module"))
    own_loop = load("my_model_module", "trainer=my_loop")
    prints = {one.fingerprint(), other.fingerprint(), own_loop.fingerprint()}
    assert len(prints) == 3
    assert own_loop.differences(one) == ["trainer: my_loop, not "]


def test_without_a_loss_in_the_config_it_is_the_modules(module):
    config = load(module(GOOD.replace('"loss": "triplet_semihard", ', "")))
    assert config.loss == ""
    assert "loss" not in config.parameters
    assert JobConfig.from_mapping(config.to_dict(), (), Settings({})) == config


def test_a_function_stands_for_its_name(module):
    name = module(GOOD.replace('"lr": 0.5', '"init_from": halve'))
    assert ModelModule.load(name).values()["init_from"] == "my_model_module.halve"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("config =", "configs =", "does not define config; a model module defines config"),
        ("def build", "def built", "does not define build;"),
        ("def datasets", "data = 1\ndef dataset", "does not define datasets;"),
        ("def build(image_size)", "build = 3\ndef b()", "build is of type int, not a function"),
        ("def halve", "loss = 'hinge'\ndef halve", "loss is of type str, not a function"),
        ("config = {", "config = 3\nother = {", "config is of type int, not a dictionary"),
        ('"lr"', "7", "config has the key 7; keys are text"),
        ('"lr": 0.5', '"lr": lambda: 1', "lr is a function that can't be found again by its name"),
        ('"lr": 0.5', '"model_module": "x"', "config names another module, 'x'"),
        ('"lr": 0.5', '"lr": "fast"', "my_model_module.config: lr: 'fast' is not a number"),
        ('"lr": 0.5', '"lr": [1]', r"lr: \[1\] is not a number"),
        ('"lr"', '"lrr"', "my_model_module.config: unknown key 'lrr'; did you mean 'lr'"),
        ('"lr": 0.5', '"model_id": "mildnet"', "model_id=mildnet does not go with model_module="),
        ('"lr": 0.5', '"dataset": "items"', "dataset=items does not go with model_module="),
        ('"lr": 0.5', '"model.trunk": "x"', "'model.trunk'; the model is made by model_module="),
    ],
)
def test_what_is_wrong_with_a_module_is_one_line(module, old, new, message):
    assert old in GOOD
    with pytest.raises(UserError, match=message) as error:
        load(module(GOOD.replace(old, new, 1)))
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"^model_module=no_such_module_x: no module"):
        load("no_such_module_x")


def test_a_model_and_a_loss_are_still_needed_without_a_module():
    with pytest.raises(UserError, match="model_id is missing"):
        JobConfig.from_mapping({"loss": "triplet_semihard"}, (), Settings({}))

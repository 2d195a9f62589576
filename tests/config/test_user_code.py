import pytest

from trainer.config import UserError
from trainer.config.user_code import user_function, user_module


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"] + [p for p in __import__("sys").path if p])
    (tmp_path / "mine_a.py").write_text("def halve(x):\n    return x / 2\n\nSEVEN = 7\n")
    (tmp_path / "mine_b.py").write_text("import no_such_module_at_all\n")
    return tmp_path


def test_a_module_of_the_working_folder_is_found():
    assert user_module("mine_a", "trainer").SEVEN == 7
    assert user_function("mine_a.halve", "schedule.function")(3) == 1.5


@pytest.mark.parametrize("name", ["mine_c", "mine_a.deeper", "no_pkg_x.inner"])
def test_a_module_that_is_not_there_is_named_with_its_key(name):
    with pytest.raises(UserError, match=f"^trainer={name}: no module "):
        user_module(name, "trainer")


@pytest.mark.parametrize("name", ["", "..", "mine_a."])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UserError, match=r"^trainer="):
        user_module(name, "trainer")


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(UserError, match="module mine_a has no function 'SEVEN'"):
        user_function("mine_a.SEVEN", "k")
    with pytest.raises(UserError, match="no name of a function"):
        user_function("halve", "k")


def test_what_a_module_does_not_find_is_told_as_python_does():
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        user_module("mine_b", "trainer")

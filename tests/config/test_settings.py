"""settings.cfg, and the environment that wins over it."""

from pathlib import Path

import pytest

from trainer.config import Settings, UserError, cnf
from trainer.config import settings as module
from trainer.config.settings import KEYS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "installed" / "trainer")
    return tmp_path


def test_nothing_set(folder: Path):
    settings = Settings.load()
    assert settings.values == {}
    assert settings.get("MILDNET_JOB_DIR") == ""
    assert settings.get("MILDNET_JOB_DIR", "runs") == "runs"


def test_file_then_environment(folder: Path):
    (folder / "settings.cfg").write_text(
        "# paths\nMILDNET_DATA_PATH='/data/my tops' # here\nMILDNET_JOB_DIR=jobs\nHYPERDASH_KEY=\n"
    )
    settings = Settings.load(environment={"MILDNET_JOB_DIR": "gs://b", "MILDNET_REGION": ""})
    assert settings.values == {"MILDNET_DATA_PATH": "/data/my tops", "MILDNET_JOB_DIR": "gs://b"}
    assert settings.origins == {
        "MILDNET_DATA_PATH": "settings.cfg:2",
        "MILDNET_JOB_DIR": "environment variable MILDNET_JOB_DIR",
    }


def test_the_process_environment_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MILDNET_REGION", "europe-west4")
    assert Settings.load().get("MILDNET_REGION") == "europe-west4"


def test_working_folder_before_the_folder_of_the_package(folder: Path):
    (folder / "installed").mkdir()
    (folder / "installed" / "settings.cfg").write_text("MILDNET_JOB_DIR=theirs\n")
    assert Settings.load(environment={}).get("MILDNET_JOB_DIR") == "theirs"
    (folder / "settings.cfg").write_text("MILDNET_JOB_DIR=mine\n")
    assert Settings.load(environment={}).get("MILDNET_JOB_DIR") == "mine"
    (folder / "other.cfg").write_text("MILDNET_JOB_DIR=other\n")
    assert Settings.load("other.cfg", {}).get("MILDNET_JOB_DIR") == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MILDNET_JOBDIR=x",
            "settings.cfg:1: unknown setting 'MILDNET_JOBDIR'; did you mean 'MILDNET_JOB_DIR'?",
        ),
        ("\nMILDNET_JOB_DIR", "settings.cfg:2: no '=' in 'MILDNET_JOB_DIR'"),
    ],
)
def test_mistakes_in_the_file(folder: Path, text: str, message: str):
    (folder / "settings.cfg").write_text(text)
    with pytest.raises(UserError) as caught:
        Settings.load(environment={})
    assert str(caught.value).startswith(message)


def test_a_file_that_was_asked_for_must_exist(folder: Path):
    with pytest.raises(UserError, match=r"^nowhere\.cfg: there is no such file$"):
        Settings.load("nowhere.cfg")


def test_unknown_key_in_code(folder: Path):
    with pytest.raises(KeyError):
        Settings().get("MILDNET_JOBDIR")


def test_secrets_are_not_shown():
    assert "sesame" not in repr(Settings({"HYPERDASH_KEY": "sesame"}, {}))


def test_the_shipped_file_documents_every_key_and_sets_none():
    path = Path(__file__).parents[2] / "settings.cfg"
    assert cnf.read(path) == {}
    for key in KEYS:
        assert f"\n#{key}=" in path.read_text(encoding="utf-8")

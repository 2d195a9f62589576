"""A process that is killed while it claims its run folder can be started again."""

import pytest

from trainer.config import UserError
from trainer.launch import run_folder
from trainer.launch.run_folder import RunFolder

from .conftest import small_config


def test_a_job_that_was_killed_while_it_claimed_its_folder_is_taken_up(tmp_path, monkeypatch):
    config, path = small_config(tmp_path), tmp_path / "run"
    write = run_folder.write_bytes
    for killed_at in range(2):
        calls = iter(range(2))

        def dying(file, data, calls=calls, killed_at=killed_at):
            if next(calls) == killed_at:
                # What a write that is cut short leaves on a disk, and in a bucket.
                for name in (".config.json.x1", "config.json.0123456789ab.part"):
                    (path / name).touch()
                raise KeyboardInterrupt
            write(file, data)

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "write_bytes", dying)
            with pytest.raises(KeyboardInterrupt):
                RunFolder.claim(str(path), config)
    assert RunFolder.claim(str(path), config).config().fingerprint() == config.fingerprint()
    assert (path / "config.cnf").is_file()


def test_a_folder_with_files_of_its_own_is_left_alone(tmp_path):
    (tmp_path / "config.cnf").write_text("mine")
    with pytest.raises(UserError, match=r"not a run's \(config.cnf"):
        RunFolder.claim(str(tmp_path), small_config(tmp_path))
    assert (tmp_path / "config.cnf").read_text() == "mine"


def test_a_machine_that_comes_while_another_claims_the_folder_takes_it_for_what_it_is(
    tmp_path, monkeypatch
):
    config, path = small_config(tmp_path), str(tmp_path / "run")
    names, exists, claimed = RunFolder.names, RunFolder.exists, []

    def claimed_between(look):
        """Let the chief claim the folder after the first look at it."""

        def looking(folder, *name):
            found = look(folder, *name)
            if not claimed:
                claimed.append(1)
                RunFolder.claim(path, config)
            return found

        return looking

    monkeypatch.setattr(RunFolder, "names", claimed_between(names))
    monkeypatch.setattr(RunFolder, "exists", claimed_between(exists))
    RunFolder(path).check(config)
    assert (tmp_path / "run/config.json").exists()


def test_a_run_whose_name_is_none_for_a_folder_is_read(tmp_path):
    """As runs have that were made of `my shop.cnf` when names of files were not looked at."""
    config = small_config(tmp_path)
    folder = RunFolder.claim(str(tmp_path / "my run"), config)
    for given, name in (({"name": "my shop"}, "my_shop"), ({}, "my_run")):
        values = {key: value for key, value in config.to_dict().items() if key != "name"}
        folder.write_json("config.json", {**values, **given})
        assert folder.config() == config
        assert folder.config().name == name

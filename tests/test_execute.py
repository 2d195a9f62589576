"""`python execute.py`, as a person and as a script meet it."""

import importlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer.config import JobConfig
from trainer.launch.vertex.submitting import Submission

ROOT = Path(__file__).resolve().parents[1]
GOOD = "model_id=mildnet\nloss=triplet_semihard\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "job_configs" / "demo").mkdir(parents=True)
    (tmp_path / "job_configs" / "plain.cnf").write_text(GOOD)
    (tmp_path / "job_configs" / "demo" / "tiny.cnf").write_text(GOOD + "seed=5\n")
    return tmp_path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[JobConfig, dict]]:
    """The jobs that were started, in place of running them."""
    started: list[tuple[JobConfig, dict]] = []
    monkeypatch.setattr(
        "trainer.launch.summary.run_and_show",
        lambda config, **options: started.append((config, options)),
    )
    return started


def call(*arguments: str):
    return CliRunner().invoke(importlib.import_module("execute").app, list(arguments))


def test_list(folder: Path, runs: list):
    result = call("--list")
    assert result.exit_code == 0
    assert "1  plain  mildnet  triplet_semihard" in result.stdout
    assert "2  tiny " in result.stdout
    assert runs == []


def test_run_without_questions(folder: Path, runs: list):
    result = call("--local", "--config", "tiny", "--yes", "--set", "lr=0.5", "--set", "seed=9")
    assert (result.exit_code, result.stderr) == (0, "")
    (config, options) = runs[0]
    assert (config.name, config.lr, config.seed) == ("tiny", 0.5, 9)
    assert options == {"fresh": False, "yes": True, "run_dir": None}


def test_options_of_the_run(folder: Path, runs: list):
    assert call("--config", "demo/tiny", "-y", "--fresh", "--run-dir", "here").exit_code == 0
    assert runs[0][1] == {"fresh": True, "yes": True, "run_dir": "here"}


def test_dry_run(folder: Path, runs: list):
    result = call("--config", "tiny", "--dry-run", "--set", "steps=3")
    assert result.exit_code == 0
    assert runs == []
    assert result.stdout.startswith('model_id="mildnet"')
    assert "# job_configs/demo/tiny.cnf:3\n" in result.stdout
    assert result.stdout.endswith("write to runs/tiny; nothing was run\n")
    plan = call("--config", "tiny", "--dry-run", "--run-dir", "there").stdout
    assert plan.endswith("write to there; nothing was run\n")


@pytest.fixture
def sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Submission, bool]]:
    """The remote jobs that were submitted, in place of sending them, and whether to watch them."""
    submitted: list[tuple[Submission, bool]] = []
    for key, value in (("PROJECT", "my-shop"), ("REGION", "europe-west4"), ("BUCKET", "gs://jobs")):
        monkeypatch.setenv(f"MILDNET_{key}", value)
    monkeypatch.setenv("MILDNET_IMAGE", "mildnet:1")
    monkeypatch.setenv("MILDNET_DATA_PATH", "gs://data/shop")
    monkeypatch.setattr(
        Submission, "submit", lambda self, console, wait: submitted.append((self, wait))
    )
    return submitted


def test_run_remotely_without_questions(sent: list, runs: list):
    result = call("--remote", "--shape", "four_gpus", "--config", "tiny", "--yes", "--set", "lr=1")
    assert (result.exit_code, result.stderr, runs) == (0, "", [])
    ((submission, wait),) = sent
    assert (submission.config.name, submission.config.lr, wait) == ("tiny", 1.0, True)
    assert submission.config.training.strategy == "mirrored"
    assert submission.shape.path.endswith("training_configs/four_gpus.yaml")
    assert submission.settings.project == "my-shop"
    # Who names machines means a remote job.
    assert call("--shape", "cpu", "--config", "tiny", "--yes", "--no-wait").exit_code == 0
    assert (sent[1][0].shape.gpus, sent[1][1]) == (0, False)


def test_dry_run_of_a_remote_job(sent: list, runs: list):
    result = call("--remote", "--shape", "one_gpu", "--config", "tiny", "--dry-run")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["displayName"] == "tiny_1"
    assert "would stage gs://jobs/configs/tiny_1.cnf" in result.stderr
    assert (sent, runs) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--local", "--remote"], "error: --local does not go with --remote or --shape"),
        (["--local", "--shape", "cpu"], "error: --local does not go with --remote or --shape"),
        (["--local", "--no-wait"], "error: --no-wait is of remote jobs, and this one runs here"),
        (["--no-wait"], "error: --no-wait is of remote jobs, and this one runs here; leave it"),
        (["--remote", "--fresh"], "error: --fresh and --run-dir are of jobs on this machine"),
        (["--remote", "--run-dir", "x"], "error: --fresh and --run-dir are of jobs on this mach"),
        (["--remote"], "error: no machines are named; give --shape, one of cpu, four_gpus"),
        (["--shape", "gpu"], "error: no shape 'gpu'; did you mean"),
        (["--shape", "tpu_v5e", "--set", "batch_size=3"], "error: --set: batch_size=3 can't be"),
    ],
)
def test_mistakes_about_where_end_in_one_line(
    sent: list, runs: list, arguments: list[str], message: str
):
    result = call("--config", "tiny", "--yes", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert (sent, runs) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no config is named and there is no terminal to ask on; give --config NAME "),
        (["--config", "tiny"], "error: there is no terminal to ask on; add --yes"),
        (["--config", "tin", "--yes"], "error: no config 'tin'; did you mean 'tiny'?\n"),
        (["--config", "tiny", "--yes", "--set", "lr"], "error: --set 'lr': write it as key=value"),
        (["--config", "tiny", "--yes", "--set", "l=1"], "error: --set: unknown key 'l'"),
        (["--config", "job_configs", "--yes"], "error: job_configs: not a file; "),
    ],
)
def test_mistakes_end_in_one_line(folder: Path, runs: list, arguments: list[str], message: str):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert runs == []
    assert call(*arguments, "--debug").exit_code == 1


def execute(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "execute.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


def test_a_process_without_a_terminal_does_not_wait(folder: Path):
    done = execute(folder, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no config is named")
    assert done.stderr.count("\n") == 1


def test_traceback_only_with_debug(folder: Path):
    assert "Traceback" not in execute(folder, "--config", "x", "--yes").stderr
    assert "Traceback" in execute(folder, "--config", "x", "--yes", "--debug").stderr


class Terminal:
    """`execute.py` on a pseudo-terminal."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.main, side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "execute.py"), *arguments],
            cwd=folder,
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "100"},
            preexec_fn=_own_terminal,  # so that Ctrl-C reaches it
        )
        os.close(side)
        self.seen = ""

    def read_until(self, text: str) -> None:
        end = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.main], [], [], 1)[0]:
                self.seen += os.read(self.main, 4096).decode()

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.main, text.encode())

    def close(self) -> int:
        code = self.process.wait(timeout=30)
        os.close(self.main)
        return code


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # A test run in the background may have been started with Ctrl-C ignored, which is inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_person_at_a_terminal(folder: Path):
    terminal = Terminal(folder)
    terminal.read_until("locally or remotely? [l] ")
    terminal.type("l\n")
    terminal.read_until("Which config? 1-2 or a name, q to quit: ")
    terminal.type("2\n")
    terminal.read_until("Run it? [Y/n] ")
    assert "job_configs/demo/tiny.cnf" in terminal.seen
    terminal.type("n\n")
    terminal.read_until("Nothing was run.")
    assert terminal.close() == 0


@pytest.mark.parametrize(
    ("keys", "said", "code"),
    [
        ("r\n", "error: remote jobs need MILDNET_PROJECT: set it in settings.cfg", 2),
        ("\x04", "Nothing was run.", 0),
        ("\x03", "interrupted", 130),
        ("q\n", "Nothing was run.", 0),
    ],
)
def test_ways_out_at_a_terminal(folder: Path, keys: str, said: str, code: int):
    terminal = Terminal(folder)
    terminal.read_until("? [l] ")
    terminal.type(keys)
    terminal.read_until(said)
    assert "Traceback" not in terminal.seen
    assert terminal.close() == code

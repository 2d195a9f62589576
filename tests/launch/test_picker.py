"""Picking a config: the list, the names, the questions, and what is said without a terminal."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from trainer.config import UserError
from trainer.config.registry import PACKAGE
from trainer.launch import picker
from trainer.launch.picker import Picked, find, find_configs, pick

GOOD = "model_id=mildnet\nloss=triplet_semihard\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six configs in the working folder: two groups, a shared name, a broken one."""
    for key in [key for key in os.environ if key.startswith("MILDNET_")]:
        monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "job_configs"
    files = {
        "zebra.cnf": GOOD,
        "alpha.cnf": GOOD + "lr=0.5\n",
        "demo/synthetic.cnf": GOOD + "# a comment\nloss.margin=0.3\n",
        "demo/broken.cnf": "model_id=mildnet\nloss\n",
        "demo/alpha.cnf": GOOD,
        "wide/deep/last.cnf": "loss=hinge_loss\n",
        "demo/notes.txt": "no config",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Path("job_configs")


class Person:
    """Answers questions from a list, and keeps what was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.answers.pop(0)


def talk(*answers: str, **options: object) -> tuple[Picked | None, str, list[str]]:
    out = io.StringIO()
    console = Console(file=out, width=100)
    person = Person(*answers)
    picked = pick(console, ask=person, **options)  # type: ignore[arg-type]
    assert person.answers == []
    return picked, out.getvalue(), person.prompts


def test_configs_are_sorted_by_group_then_name(folder: Path):
    assert [choice.full_name for choice in find_configs(folder)] == [
        "alpha",
        "zebra",
        "demo/alpha",
        "demo/broken",
        "demo/synthetic",
        "wide/deep/last",
    ]


def test_the_list(folder: Path):
    out = io.StringIO()
    picker.show_choices(find_configs(folder), Console(file=out, width=100))
    assert out.getvalue() == (
        "\n"
        "job_configs\n"
        "  1  alpha      mildnet  triplet_semihard\n"
        "  2  zebra      mildnet  triplet_semihard\n"
        "\n"
        "demo\n"
        "  3  alpha      mildnet  triplet_semihard\n"
        "  4  broken     2: no '=' in 'loss'; a line is key=value or # comment\n"
        "  5  synthetic  mildnet  triplet_semihard\n"
        "\n"
        "wide/deep\n"
        "  6  last       -        hinge_loss\n"
    )


def test_numbers_are_aligned(folder: Path):
    for i in range(10):
        (folder / f"c{i}.cnf").write_text(GOOD)
    out = io.StringIO()
    picker.show_choices(find_configs(folder), Console(file=out, width=100))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("  ")]
    assert [line.index("mildnet") for line in lines if "mildnet" in line] == [17] * 14
    assert lines[0].startswith("   1  alpha")
    assert lines[15].startswith("  16  last")


def test_names_stand_as_they_are(folder: Path):
    (folder / "[red]x[").mkdir()
    (folder / "[red]x[" / "[b]y.cnf").write_text("model_id='[i]m'\nloss=l\n")
    out = io.StringIO()
    picker.show_choices(find_configs(folder), Console(file=out, width=30))
    assert "[red]x[\n" in out.getvalue()
    assert "  [b]y       [i]m     l\n" in out.getvalue()


def test_a_pipe_gets_whole_lines(folder: Path):
    (folder / ("x" * 200 + ".cnf")).write_text(GOOD)
    out = io.StringIO()
    picker.show_choices(find_configs(folder), Console(file=out, width=40))
    assert "x" * 200 + "  mildnet  triplet_semihard\n" in out.getvalue()


def test_no_configs(tmp_path: Path):
    with pytest.raises(UserError, match="there is no such folder of job configs"):
        find_configs(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \.cnf file in it"):
        find_configs(tmp_path)


def test_folder_of_configs(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert find_configs()[0].path == folder / "alpha.cnf"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert find_configs()[0].path.parent == PACKAGE.parent / "job_configs"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("zebra", "zebra.cnf"),
        ("zebra.cnf", "zebra.cnf"),
        ("synthetic", "demo/synthetic.cnf"),
        ("demo/synthetic", "demo/synthetic.cnf"),
        ("demo/synthetic.cnf", "demo/synthetic.cnf"),
        ("job_configs/demo/synthetic.cnf", "demo/synthetic.cnf"),
        ("job_configs/demo/synthetic", "demo/synthetic.cnf"),
        ("demo/alpha", "demo/alpha.cnf"),
        ("alpha", "alpha.cnf"),  # the one without a folder has exactly this name
        ("wide/deep/last", "wide/deep/last.cnf"),
    ],
)
def test_find_by_name(folder: Path, name: str, path: str):
    assert find(name, find_configs(folder)) == folder / path


def test_find_by_path(folder: Path):
    Path("own.cnf").write_text(GOOD)
    Path("plain").write_text(GOOD)
    assert find("own.cnf", []) == Path("own.cnf")
    assert find("plain", find_configs(folder)) == Path("plain")


def test_find_nothing_or_too_much(folder: Path):
    (folder / "wide" / "synthetic.cnf").write_text(GOOD)
    with pytest.raises(UserError) as caught:
        find("synthetic", find_configs(folder))
    assert str(caught.value) == (
        "'synthetic' may be any of demo/synthetic, wide/synthetic; give it with its folder"
    )
    with pytest.raises(UserError, match=r"^no config 'zebr'; did you mean 'zebra'\?$"):
        find("zebr", find_configs(folder))
    with pytest.raises(UserError, match=r"^no config 'demo/zynthetic'; did you mean 'demo/synth"):
        find("demo/zynthetic", find_configs(folder))


def test_the_whole_conversation(folder: Path):
    picked, out, prompts = talk("l", "5", "y")
    assert picked is not None
    assert picked.path == folder / "demo/synthetic.cnf"
    assert picked.config.parameters["loss"]["margin"] == 0.3
    assert [prompt.split("?")[0] for prompt in prompts] == [
        "Run it [b]l[/b]ocally or [b]r[/b]emotely",
        "Which config",
        "Run it",
    ]
    assert "job_configs/demo/synthetic.cnf\n" in out
    assert [line.split() for line in out.splitlines() if "loss.margin" in line] == [
        ["loss.margin", "0.3", "line", "4"]
    ]
    assert any(
        line.split() == ["sampler", "classes_per_batch", "default"] for line in out.split("\n")
    )
    assert "keys at their defaults" in out


def test_enter_takes_the_offered_answer_but_no_config(folder: Path):
    picked, _, prompts = talk("", "", "2", "")
    assert picked is not None
    assert picked.path == folder / "zebra.cnf"
    assert len(prompts) == 4


def test_wrong_answers_are_asked_again(folder: Path):
    picked, out, prompts = talk(
        "x", "L", "0", "7", "-1", "4", "zebr", "9" * 30, "demo/alpha", "maybe", "YES"
    )
    assert picked is not None
    assert picked.path == folder / "demo/alpha.cnf"
    for said in (
        "Answer l (local) or r (remote), or q to quit.",
        "there is no number 0; 1 to 6 are there",
        "there is no number 7; 1 to 6 are there",
        "no config '-1'",
        "job_configs/demo/broken.cnf:2: no '=' in 'loss'",
        "no config 'zebr'; did you mean 'zebra'?",
        "Answer y or n.",
    ):
        assert said in out
    assert len(prompts) == 11


@pytest.mark.parametrize("answers", [["q"], ["l", "q"], ["l", "1", "n"], ["l", "1", "Q"]])
def test_leaving(folder: Path, answers: list[str]):
    assert talk(*answers)[0] is None


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of remote jobs, and two shapes to choose from."""
    for key, value in (("PROJECT", "my-shop"), ("REGION", "europe-west4"), ("BUCKET", "gs://b-1")):
        monkeypatch.setenv(f"MILDNET_{key}", value)
    Path("training_configs").mkdir()
    for name, gpus in (("one", 1), ("four", 4)):
        (Path("training_configs") / f"{name}.yaml").write_text(
            "workerPoolSpecs:\n- machineSpec: {machineType: n1-standard-8, "
            f"acceleratorType: NVIDIA_TESLA_T4, acceleratorCount: {gpus}}}\n"
        )


def test_remote_needs_its_settings_before_any_further_question(folder: Path):
    with pytest.raises(UserError, match=r"^remote jobs need MILDNET_PROJECT: set it in settings"):
        talk("r")


def test_a_remote_job_is_asked_for_its_machines(folder: Path, cloud: None):
    picked, out, prompts = talk("r", "zebra", "0", "fuor", "1", "y")
    assert picked is not None
    assert picked.shape == "training_configs/four.yaml"
    assert picked.config.training.strategy == "mirrored"
    assert "  1  four  1 x n1-standard-8 with 4 NVIDIA_TESLA_T4\n  2  one " in out
    assert "there is no number 0; 1 to 2 are there" in out
    assert "no shape 'fuor'; did you mean 'four'?" in out
    assert ["train.strategy", "mirrored", "training_configs/four.yaml"] in [
        line.split() for line in out.splitlines()
    ]
    assert [prompt.split("?")[0] for prompt in prompts[2:]] == [
        *["Which machines"] * 3,
        "Submit it",
    ]


def test_the_machines_of_the_config_are_offered(folder: Path, cloud: None):
    (folder / "zebra.cnf").write_text(GOOD + "config=training_configs/one.yaml\n")
    picked, _, prompts = talk("", "y", name="zebra", remote=True)
    assert prompts[0] == "Which machines? 1-2 or a name \\[one] "
    assert picked is not None
    assert picked.shape == "training_configs/one.yaml"
    assert talk(name="zebra", remote=True, sure=True)[0] == picked
    named, _, prompts = talk("y", name="zebra", remote=True, shape="four")
    assert named is not None
    assert named.shape == "training_configs/four.yaml"
    assert talk("q", name="zebra", remote=True)[0] is None


def test_a_remote_job_needs_machines_that_fit(folder: Path, cloud: None):
    with pytest.raises(UserError, match="no machines are named; give --shape, one of four, one,"):
        talk(name="zebra", remote=True, sure=True)
    with pytest.raises(UserError, match=r"train\.strategy=tpu does not go with"):
        talk(name="zebra", remote=True, sure=True, shape="one", overrides=["train.strategy=tpu"])


def test_options_take_the_place_of_answers(folder: Path):
    assert talk("2", "y", local=True)[0] is not None
    assert talk("l", "y", name="zebra")[0] is not None
    assert talk("y", name="zebra", local=True)[0] is not None
    picked, out, _ = talk(name="zebra", sure=True, overrides=["lr=0.25"])
    assert picked is not None
    assert picked.config.lr == 0.25
    assert out == ""


def test_an_override_is_shown_with_its_origin(folder: Path):
    _, out, _ = talk("y", name="zebra", local=True, overrides=["lr=0.25"])
    assert any(line.split() == ["lr", "0.25", "--set"] for line in out.splitlines())


def test_a_wrong_config_that_was_named_ends_it(folder: Path):
    with pytest.raises(UserError, match=r"broken\.cnf:2: no '='"):
        talk(name="broken", sure=True)
    with pytest.raises(UserError, match=r"^--set: unknown key 'lrr'; did you mean 'lr'\?$"):
        talk(name="zebra", sure=True, overrides=["lrr=3"])


def test_a_path_needs_no_folder_of_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.cnf").write_text(GOOD)
    picked, _, _ = talk(name="own.cnf", sure=True, folder=Path("nowhere"))
    assert picked is not None
    assert picked.config.name == "own"


def test_questions_need_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("l\n1\ny\n"))
    console = Console(file=io.StringIO())
    with pytest.raises(UserError, match=r"no config is named .* --config NAME"):
        pick(console)
    with pytest.raises(UserError, match="add --yes to run without being asked"):
        pick(console, name="zebra", local=True)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="no config is named"):
        pick(console, sure=True)
    assert pick(console, name="zebra", sure=True) is not None


def test_the_plan(folder: Path):
    picked, _, _ = talk(name="zebra", sure=True, overrides=["steps=30", "data_path=[here]"])
    assert picked is not None
    out = io.StringIO()
    picker.show_plan(picked.config, "runs/zebra", Console(file=out, width=60))
    lines = out.getvalue().splitlines()
    assert lines[-1] == (
        "# would train mildnet with triplet_semihard for 30 steps on items, data path [here], "
        "and write to runs/zebra; nothing was run"
    )
    # The whole output is a config that gives the same job.
    Path("plan.cnf").write_text(out.getvalue())
    again, _, _ = talk(name="plan.cnf", sure=True)
    assert again is not None
    assert again.config == picked.config

"""From a file of MILDNet's code to a run that embeds, indexes and searches."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.models.weights.released_files import FILES, write
from trainer import cli, models
from trainer.serving.embedder import Embedder

ID = "mildnet_mobilenet"


def convert(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["convert", "mildnet-h5", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "weights-improvement-07-0.21.h5", FILES[ID])
    return tmp_path / "weights-improvement-07-0.21.h5"


def test_a_converted_run_is_like_a_finished_one(file, tmp_path, pictures):
    run = tmp_path / "run"
    code, output = convert(
        file, "--model-id", ID, "--to", run, "--set", "image_size=32",
        "--set", "dataset=synthetic", "--set", "dataset.classes=12", "--set", "dataset.views=4",
        "--set", "dataset.size=32", "--set", f"data_path={pictures}",
    )  # fmt: skip
    assert (code, output.strip()) == (0, f"run in {run}")
    assert {path.name for path in run.iterdir()} == {
        "config.cnf", "config.json", "environment.json", "model.keras", "model",
    }  # fmt: skip
    facts = json.loads((run / "environment.json").read_text())
    assert facts["converted_from"]["file"] == file.name
    assert len(facts["converted_from"]["sha256"]) == 64
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    found = Embedder(run / "model").embed_images(images)
    assert found.shape == (2, 1024)
    from trainer.models.weights.mildnet_h5 import load_released

    model = models.build(ID, image_size=32, weights="none", fidelity="released")
    load_released(model, ID, str(file))
    np.testing.assert_allclose(found, model(images), atol=1e-5)

    runner = CliRunner()
    evaluated = runner.invoke(cli.app, ["evaluate", str(run)])
    assert evaluated.exit_code == 0, evaluated.output
    catalogue = next(pictures.glob("synthetic-*/images"))
    index = ["index", str(run), "--items", str(catalogue), "--to", str(tmp_path / "index")]
    assert runner.invoke(cli.app, index).exit_code == 0
    picture = str(sorted(catalogue.iterdir())[0])
    found = runner.invoke(
        cli.app, ["search", str(run), picture, "-k", "2", "--index", str(tmp_path / "index")]
    )
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model-id", "mildnet"], "no model of MILDNet's code"),
        (["--model-id", "alexnet"], "was trained with Theano"),
        (["--model-id", "mildnet_mobilnet"], "did you mean 'mildnet_mobilenet'"),
        (["--model-id", ID, "--set", "model.hiden=3"], "did you mean 'model.hidden'"),
        (["--model-id", ID, "--set", "model_id=ranknet"], "model_id=ranknet, but --model-id"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(file, tmp_path, options, message):
    code, output = convert(file, *options, "--to", tmp_path / "run")
    assert code == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_damaged_file_leaves_nothing(file, tmp_path):
    file.write_bytes(file.read_bytes()[:5000])
    code, output = convert(file, "--model-id", ID, "--to", tmp_path / "run")
    assert code == 2
    assert "truncated" in output
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_folder_with_something_in_it_is_left_alone(file, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    code, output = convert(file, "--model-id", ID, "--to", tmp_path / "run")
    assert code == 2
    assert "choose a new folder" in output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]

"""From a file of another library to a run that embeds, indexes and searches."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.models import convnext_nets
from tests.models.weights.released_files import FILES, write
from tests.models.weights.torch_files import write_zip
from tests.reference import convnext_cases
from tests.reference.swinv2_cases import CASES, TIMM_CASES, weight
from tests.reference.swinv2_cases import pictures as inputs
from trainer import cli, models
from trainer.config.job import JobConfig
from trainer.models.layers import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from trainer.serving.embedder import Embedder

ID = "mildnet_mobilenet"
REFERENCE = Path(__file__).parents[1] / "reference"
PRETRAINED = "pretrained windows"


def convert(*arguments, kind: str = "mildnet-h5") -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["convert", kind, *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def evaluates_indexes_and_searches(run, pictures, index):
    runner = CliRunner()
    evaluated = runner.invoke(cli.app, ["evaluate", str(run)])
    assert evaluated.exit_code == 0, evaluated.output
    catalogue = next(pictures.glob("synthetic-*/images"))
    command = ["index", str(run), "--items", str(catalogue), "--to", str(index)]
    assert runner.invoke(cli.app, command).exit_code == 0
    picture = str(sorted(catalogue.iterdir())[0])
    found = runner.invoke(cli.app, ["search", str(run), picture, "-k", "2", "--index", str(index)])
    assert found.exit_code == 0, found.output


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

    evaluates_indexes_and_searches(run, pictures, tmp_path / "index")


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


def drawn(goldens: str, case: str) -> dict[str, np.ndarray]:
    shapes = json.loads(str(np.load(REFERENCE / goldens)[f"{case}|shapes"]))
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}


def pixels(case: str) -> np.ndarray:
    """The pictures of a case as they are before the model's own preprocessing."""
    return (inputs(case) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)).astype("float32") * 255


@pytest.fixture
def published(tmp_path):
    """A folder as Hugging Face's hub has it, of a small model."""
    folder = tmp_path / "published"
    folder.mkdir()
    arrays = drawn("swinv2_goldens.npz", PRETRAINED)
    arrays = {f"swinv2.{name}": array for name, array in arrays.items()}
    arrays["classifier.weight"] = np.zeros((5, 32), np.float32)
    save_file(arrays, folder / "model.safetensors")
    config = {"model_type": "swinv2", "patch_size": 4, **CASES[PRETRAINED]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_of_swin_v2_embeds_as_hugging_faces_does(published, tmp_path, pictures):
    run = tmp_path / "swin v2"
    code, output = convert(
        published / "model.safetensors", "--to", run, "--set", "dataset=synthetic",
        "--set", "dataset.classes=12", "--set", "dataset.views=4", "--set", "dataset.size=32",
        "--set", f"data_path={pictures}", kind="swinv2",
    )  # fmt: skip
    assert (code, output.strip()) == (0, f"run in {run}")
    assert {path.name for path in run.iterdir()} == {
        "config.cnf", "config.json", "environment.json", "model.keras", "model",
    }  # fmt: skip
    facts = json.loads((run / "environment.json").read_text())
    assert facts["converted_from"]["file"] == "model.safetensors"
    model = keras.saving.load_model(run / "model.keras")
    expected = np.load(REFERENCE / "swinv2_goldens.npz")[f"{PRETRAINED}|pooled"]
    np.testing.assert_allclose(model(pixels(PRETRAINED)), expected, atol=1e-4)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("uint8")
    found = Embedder(run / "model").embed_images(images)
    np.testing.assert_allclose(found, model(images), atol=1e-4)

    # The same file by a job's config, which names no window of its own.
    config = JobConfig.load(run / "config.cnf")
    values = {**config.parameters["model"], "weights": str(published / "model.safetensors")}
    assert "window=6, pretrained_windows=(4, 3)" in values["trunk"]
    direct = models.build("mildnet", image_size=config.image_size, **values)
    np.testing.assert_array_equal(direct(images), model(images))

    evaluates_indexes_and_searches(run, pictures, tmp_path / "index")


def test_a_checkpoint_of_timm_is_converted_by_the_window_that_is_given(tmp_path, monkeypatch):
    # The export takes most of the time and is looked at above.
    monkeypatch.setattr("trainer.serving.export.export", lambda *_, **__: None)
    values = TIMM_CASES["timm"]
    write_zip(tmp_path / "model.pth", drawn("swinv2_timm_goldens.npz", "timm"))
    code, output = convert(
        tmp_path / "model.pth", "--to", tmp_path / "run", "--window", values["window_size"],
        "--image-size", values["img_size"], kind="swinv2",
    )  # fmt: skip
    assert code == 0, output
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    expected = np.load(REFERENCE / "swinv2_timm_goldens.npz")["timm|map"].mean(axis=(1, 2))
    np.testing.assert_allclose(model(pixels("timm")), expected, atol=1e-4)


def test_a_published_size_is_called_by_its_name():
    from trainer.launch.converting import _swinv2_trunk
    from trainer.models.weights.swinv2_sizes import Sizes

    base = Sizes(128, (2, 2, 18, 2), (4, 8, 16, 32), 4, 16, 256, (12, 12, 12, 6))
    assert _swinv2_trunk(base) == (
        "swinv2(preset='base', window=16, pretrained_windows=(12, 12, 12, 6))"
    )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("gone", [], "no such file"),
        ("cut", [], "cannot be read as a safetensors file"),
        ("less", [], "has no weights for norm/beta"),
        ("other", [], "holds no Swin V2 by the names of"),
        ("silent", [], "does not tell the side of its windows"),
        ("config", [], "embed_dim is 96, in the weights 16"),
        ("", ["--set", "image_size=64"], "image_size=64; use --image-size"),
        ("", ["--image-size", "16"], "needs an image size of 32 or more"),
    ],
)
def test_swin_v2_that_cannot_be_converted_is_one_line_and_leaves_nothing(
    published, tmp_path, change, options, message
):
    file, config = published / "model.safetensors", published / "config.json"
    if change == "gone":
        file.unlink()
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif change == "less":
        arrays = drawn("swinv2_goldens.npz", PRETRAINED)
        del arrays["layernorm.bias"]
        save_file(arrays, file)
    elif change == "other":
        save_file({"conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}, file)
    elif change == "silent":
        config.unlink()
    elif change == "config":
        config.write_text(json.dumps({**json.loads(config.read_text()), "embed_dim": 96}))
    code, output = convert(file, *options, "--to", tmp_path / "run", kind="swinv2")
    assert code == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_swin_v2_does_not_replace_what_is_there(published, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    code, output = convert(published / "model.safetensors", "--to", tmp_path / "run", kind="swinv2")
    assert (code, "choose a new folder" in output) == (2, True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.fixture
def clip(tmp_path):
    """A small OpenCLIP model, as Hugging Face's hub has them."""
    folder = tmp_path / "published"
    folder.mkdir()
    save_file(convnext_nets.checkpoint("linear"), folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"vision_cfg": {"image_size": 64}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder / "open_clip_model.safetensors"


def test_a_run_of_open_clip_embeds_as_its_visual_tower_does(clip, tmp_path, pictures):
    run = tmp_path / "run"
    code, output = convert(
        clip, "--to", run, "--epsilon", "1e-5", "--set", "dataset=synthetic",
        "--set", "dataset.classes=12", "--set", "dataset.views=4", "--set", "dataset.size=32",
        "--set", f"data_path={pictures}", kind="open-clip",
    )  # fmt: skip
    assert (code, output.strip()) == (0, f"run in {run}")
    facts = json.loads((run / "environment.json").read_text())
    assert facts["converted_from"]["file"] == clip.name
    config = JobConfig.load(run / "config.cnf")
    assert config.image_size == 64
    assert config.parameters["model"]["preprocessing"] == "clip"

    # Pixels that the model scales to the golden's pictures.
    images = (convnext_cases.pictures("linear") * CLIP_STD + CLIP_MEAN) * 255
    expected = convnext_nets.GOLDENS["linear|output"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    model = keras.saving.load_model(run / "model.keras")
    np.testing.assert_allclose(model(images.astype("float32")), expected, atol=1e-4)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    found = Embedder(run / "model").embed_images(images)
    np.testing.assert_allclose(found, model(images), atol=1e-4)

    # The same file by a job's config.
    values = {**config.parameters["model"], "weights": str(clip)}
    direct = models.build("mildnet", image_size=config.image_size, **values)
    np.testing.assert_array_equal(direct(images), model(images))
    evaluates_indexes_and_searches(run, pictures, tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("gone", [], "no such file"),
        ("cut", [], "cannot be read as a safetensors file"),
        ("less", [], "has no weights for stage1_block1_norm/beta"),
        ("more", [], "does not: odd"),
        ("other", [], "holds no ConvNeXt by the names of OpenCLIP or timm"),
        ("", ["--image-size", "16"], "needs an image size of 32 or more"),
        ("", ["--epsilon", "0"], "epsilon above 0"),
        ("", ["--set", "image_size=96"], "image_size=96; use --image-size"),
        ("", ["--set", "model.embedding_dim=4"], "model.embedding_dim=4 does not go with the file"),
        ("", ["--set", "model.preprocessing=none"], "model.preprocessing=none does not go with"),
        ("", ["--set", "model.hidden=8"], "would have 2 weights that the file has not"),
    ],
)
def test_open_clip_that_cannot_be_converted_is_one_line_and_leaves_nothing(
    clip, tmp_path, change, options, message
):
    arrays = convnext_nets.checkpoint("linear")
    if change == "gone":
        clip.unlink()
    elif change == "cut":
        clip.write_bytes(clip.read_bytes()[:5000])
    elif change == "less":
        del arrays["visual.trunk.stages.0.blocks.0.norm.bias"]
        save_file(arrays, clip)
    elif change == "more":
        save_file({**arrays, "visual.odd": np.ones(3, np.float32)}, clip)
    elif change == "other":
        save_file({"visual.conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}, clip)
    code, output = convert(clip, *options, "--to", tmp_path / "run", kind="open-clip")
    assert code == 2
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["published"]

"""A run's model in other forms: exported, measured, timed, and not mixed with each other."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.launch.conftest import SMALL, small_config
from trainer import models
from trainer.cli import app
from trainer.config import UserError
from trainer.launch import benchmark_model
from trainer.launch.benchmark_model import forms_of, measure_speed
from trainer.launch.evaluating import ModelForm, export_run, load_model
from trainer.launch.run_folder import RunFolder
from trainer.serving.catalogue import load_catalogue
from trainer.serving.embedder import Embedder
from trainer.serving.timing import ColdTiming, Timing

RUNNER = CliRunner()
FORM = ["--precision", "float16", "--image-size", "40", "--tta", "flip"]


@pytest.fixture(scope="module")
def run(finished):
    return RunFolder.open(finished[1].run_dir)


@pytest.fixture(scope="module")
def narrow(run, tmp_path_factory):
    """The run's model in float16, for larger pictures, with mirrored views."""
    folder = tmp_path_factory.mktemp("forms") / "narrow"
    out = RUNNER.invoke(app, ["export", run.path, "--to", str(folder), *FORM])
    assert out.exit_code == 0, out.output
    return folder


def test_an_export_in_another_form(run, narrow):
    embedder = Embedder(narrow)
    assert (embedder.precision, embedder.image_size, embedder.tta) == ("float16", 40, "flip")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype("float32")
    exact = models.build(
        "mildnet",
        image_size=40,
        trunk=SMALL["model.trunk"],
        embedding_dim=SMALL["model.embedding_dim"],
    )
    exact.set_weights(load_model(run).get_weights())
    both = exact(np.concatenate([images, images[:, :, ::-1]])).numpy()
    want = both[:2] + both[2:]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert (embedder.embed_images(images) * want).sum(axis=1).min() > 0.999


def test_forms_are_measured_as_they_are(run, narrow, tmp_path, monkeypatch):
    results = {}
    for name, options in (("plain", []), ("narrow", FORM)):
        file = tmp_path / f"{name}.json"
        out = RUNNER.invoke(app, ["evaluate", run.path, *options, "--json", str(file)])
        assert out.exit_code == 0, out.output
        results[name] = json.loads(file.read_text())["metrics"]
    assert results["plain"] == run.read_json("evaluation.json")["trained"]["metrics"]
    assert results["narrow"] != results["plain"]
    # What is measured is what such an export gives.
    file = run.file
    monkeypatch.setattr(run, "file", lambda name: str(narrow) if name == "model" else file(name))
    from trainer.launch.evaluating import evaluate_run

    again = evaluate_run(run).metrics
    assert again == pytest.approx(results["narrow"], abs=0.02)


def test_exports_are_not_mixed_in_an_index(run, narrow, tmp_path):
    items = load_catalogue(run.file("index")).items.select(np.arange(6))
    items.to_csv(tmp_path / "items.csv")
    source, index = str(tmp_path / "items.csv"), str(tmp_path / "index")
    model = ["--model", str(narrow)]
    build = ["index", run.path, "--items", source, "--to", index, *model]
    assert RUNNER.invoke(app, build).exit_code == 0
    search = ["search", run.path, items.path[0], "--index", index, "-k", "1"]
    found = RUNNER.invoke(app, [*search, *model, "--json", str(tmp_path / "found.json")])
    assert found.exit_code == 0, found.output
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert row["id"] == items.path[0]
    add = ["index", "add", run.path, "--items", source, "--to", index]
    for command in (search, add):
        refused = RUNNER.invoke(app, command)
        assert refused.exit_code == 2
        assert "built with another model" in " ".join(refused.output.split())
    assert RUNNER.invoke(app, [*add, *model]).exit_code == 0


def bound(tmp_path, **changes) -> RunFolder:
    """A run, but for its training, of a net that takes one size only."""
    config = small_config(tmp_path, **{"image_size": 64, "model.embedding_dim": 8, **changes})
    run = RunFolder.claim(str(tmp_path / "run"), config)
    config.build("model", config.image_size).save(run.file("model.keras"))
    return run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.shallow": "visnet"}, r"bound to pictures of 64: its weights .* that size"),
        ({"model.pooling": "none", "model.skips": "none"}, "would go from 512 to 1152 numbers"),
    ],
)
def test_nets_bound_to_their_size_say_so(tmp_path, changes, words):
    run = bound(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        export_run(run, tmp_path / "model", ModelForm(image_size=96))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_sizes_that_a_net_does_not_take_are_refused(tmp_path):
    run = bound(tmp_path, **{"model.trunk": "mobilenet"})
    with pytest.raises(UserError, match=r"image_size=8: no such net .* 32 or more"):
        export_run(run, tmp_path / "model", ModelForm(image_size=8))


def test_embeddings_in_a_file_have_no_form(tmp_path):
    out = RUNNER.invoke(app, ["evaluate", "--embeddings", "some.npz", "--tta", "flip"])
    assert out.exit_code == 2
    assert "are for the model of a RUN" in " ".join(out.output.split())


def test_speed_of_several_forms(run, narrow, tmp_path, monkeypatch):
    timed = []

    def time_cold(folder, batch, seconds):
        timed.append((str(folder), batch, seconds))
        timing = Timing(batch, 20, 0.004, 0.003, 0.005, 0.006, 1.25)
        return ColdTiming("float32", 32, "none", 0.5, timing)

    monkeypatch.setattr("trainer.serving.timing.time_cold", time_cold)
    file = tmp_path / "speed.json"
    words = ["benchmark-model", run.path, "--batch", "1", "--batch", "4", "--json", str(file)]
    out = RUNNER.invoke(app, [*words, "--seconds", "0.5"])
    assert out.exit_code == 0, out.output
    assert timed == [(run.file("model"), batch, 0.5) for batch in (1, 4)]
    for words in ("1.25", "0.50", "4.0", "6.0", "float32"):
        assert words in out.output
    rows = json.loads(file.read_text())["rows"]
    assert [row["timing"]["batch"] for row in rows] == [1, 4]
    assert [row["images_per_second"] for row in rows] == [250, 1000]
    assert rows[0]["bytes"] > 10_000

    found = measure_speed(str(narrow), forms_of((), (), ()), (2,))
    assert (timed[-1][:2], len(found.rows)) == ((str(narrow), 2), 1)
    with pytest.raises(UserError, match="not a run"):
        measure_speed(str(narrow), forms_of(("float16",), (), ()))
    with pytest.raises(UserError, match="'float64': allowed are float32, float16, bfloat16"):
        forms_of(("float64",), (), ())
    forms = forms_of(("float16", "bfloat16"), (32, 40), ("none", "flip"))
    assert len(forms) == len(set(forms)) == 8
    assert benchmark_model.BATCHES == (1, 8, 32)

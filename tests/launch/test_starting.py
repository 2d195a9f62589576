"""The weights that a job starts with; above all those of another run."""

import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import execute
import trainer.cli
import trainer.task
from tests.training import wandb_file
from trainer.config import UserError
from trainer.data.pipeline import eval_batches
from trainer.launch import job, summary
from trainer.launch.evaluating import load_model, measure
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import embed_items
from trainer.launch.splits import read_split
from trainer.launch.starting import check_start, starting_model
from trainer.models.weights.assign import assign_matching
from trainer.retrieval.embed import embed
from trainer.serving.embedder import Embedder
from trainer.training.interrupts import Interrupted
from trainer.training.strategy import get_strategy
from trainer.training.trackers.csv_log import CsvLog

from .conftest import small_config

#: A short job on classes that the finished run has never seen. There is no such file of weights:
#: it would be read in vain, as all weights come from the run.
NEW_CLASSES = (
    "dataset.seed=7",
    "model.weights=/nowhere.h5",
    "steps=20",
    "train.log_every=5",
    "train.checkpoint_every=10",
    "train.validate_every=10",
    "trackers=csv,tensorboard,wandb",
    "tracker.wandb.mode=offline",
    "tracker.wandb.tags=new, from",
)


def arrays(model):
    return {weight.path: np.asarray(weight.value) for weight in model.weights}


def saved(run_dir):
    return arrays(load_model(RunFolder(str(run_dir))))


def assert_same(one, other):
    assert set(one) == set(other)
    for path, value in one.items():
        assert value.tobytes() == other[path].tobytes(), path


@pytest.fixture(scope="module")
def continued(finished, pictures, tmp_path_factory):
    """(config, result) of a job on new classes that begins with the weights of `finished`."""
    config = small_config(pictures, *NEW_CLASSES, f"init_from={finished[1].run_dir}")
    return config, job.run(config, run_dir=str(tmp_path_factory.mktemp("continued") / "new"))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_job_from_a_run_starts_with_exactly_its_weights(finished, pictures, tmp_path, replicas):
    source = finished[1].run_dir
    config = small_config(pictures, *NEW_CLASSES, f"init_from={source}")
    with get_strategy("mirrored" if replicas > 1 else "one", replicas).scope():
        model = starting_model(config, RunFolder(str(tmp_path)))
    assert_same(arrays(model), saved(source))
    scratch = starting_model(small_config(pictures), RunFolder(str(tmp_path)))
    assert any(
        not np.array_equal(a, b) for a, b in zip(*map(_values, (scratch, model)), strict=True)
    )


def _values(model):
    return [value for _, value in sorted(arrays(model).items())]


def test_before_training_the_source_is_measured_on_the_new_classes(finished, continued, tmp_path):
    config, result = continued
    table = read_split(config, None)
    source = measure(config, table, embed_items(Embedder(f"{finished[1].run_dir}/model"), table))
    assert result.untrained == pytest.approx(source.metrics, abs=1e-6)
    random = starting_model(
        small_config(config.data_path, "dataset.seed=7"), RunFolder(str(tmp_path))
    )
    batches = eval_batches(table, image_size=config.image_size, batch_size=32)
    scratch = measure(config, table, embed(random.predict_on_batch, batches, len(table)))
    assert result.untrained["map_at_r"] > scratch.metrics["map_at_r"] + 0.02


def test_it_trains_on(finished, continued):
    before, after = saved(finished[1].run_dir), saved(continued[1].run_dir)
    assert set(before) == set(after)
    assert any(not np.array_equal(before[path], after[path]) for path in before)
    assert continued[1].steps == 20


def test_the_run_tells_what_it_was_made_from(finished, continued):
    config, result = continued
    text = (Path(result.run_dir) / "config.cnf").read_text()
    assert f'init_from="{finished[1].run_dir}"' in text
    assert config.fingerprint() != small_config(config.data_path, *NEW_CLASSES).fingerprint()


def test_stopped_it_goes_on_to_the_same_weights_without_its_source(
    finished, continued, pictures, tmp_path, monkeypatch
):
    source = tmp_path / "source"
    shutil.copytree(finished[1].run_dir, source)
    config = small_config(pictures, *NEW_CLASSES, f"init_from={source}")
    log = CsvLog.log

    def stop(self, step, values):
        log(self, step, values)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(CsvLog, "log", stop)
        with pytest.raises(Interrupted, match="step 5"):
            job.run(config, run_dir=str(run_dir))
    shutil.rmtree(source)
    result = job.run(config, run_dir=str(run_dir))
    assert_same(saved(run_dir), saved(continued[1].run_dir))
    assert result.untrained == continued[1].untrained

    # And in Weights & Biases it is one run.
    first, second = wandb_file.read_all(run_dir)
    assert first.run_id == second.run_id
    steps = [[row["_step"] for row in kept.rows] for kept in (first, second)]
    assert steps == [[5], [10, 15, 20]]
    assert (first.exit_code, second.exit_code) == (1, 0)


def test_wandb_holds_what_the_run_folder_holds(continued):
    config, result = continued
    (kept,) = wandb_file.read_all(result.run_dir)
    assert (kept.name, kept.tags) == ("new", ("new", "from"))
    assert kept.config == config.to_dict()
    assert [row["_step"] for row in kept.rows] == [5, 10, 15, 20]
    assert all(row["loss"] >= 0 for row in kept.rows)
    assert ["recall_at_1" in row for row in kept.rows] == [False, True, False, True]
    for stage in ("untrained", "color_histogram", "trained"):
        metrics = getattr(result, stage)
        found = {name: kept.summary[f"{stage}/{name}"] for name in metrics}
        assert found == pytest.approx(metrics)
    for stage, name in job.NEIGHBOURS.items():
        shown = kept.folder / "files" / kept.rows[-1][f"neighbours/{stage}/path"]
        there = np.asarray(Image.open(Path(result.run_dir) / name))
        np.testing.assert_array_equal(np.asarray(Image.open(shown)), there)


def test_tensorboard_shows_the_neighbours_before_and_after(continued):
    events = EventAccumulator(str(Path(continued[1].run_dir) / "logs"))
    events.Reload()
    tags = events.Tags()["tensors"]
    assert {"neighbours/untrained", "neighbours/trained", "trained/recall_at_1"} <= set(tags)


def test_a_model_of_another_shape_is_refused_naming_the_first_difference(
    finished, pictures, tmp_path
):
    source = finished[1].run_dir
    for changes, message in (
        (["model.embedding_dim=16"], r"has shape \(\d+, 16\), the file's is \(\d+, 32\)"),
        (["model.hidden=8"], "has no weights for"),
        (
            ["model.trunk=convnet_small(widths=(16, 32))"],
            r"project/kernel of mildnet has shape \(48, 32\)",
        ),
    ):
        config = small_config(pictures, f"init_from={source}", *changes)
        with pytest.raises(UserError, match=message) as error:
            starting_model(config, RunFolder(str(tmp_path)))
        assert str(error.value).startswith(f"init_from={source}")
        assert "\n" not in str(error.value)


def test_a_run_that_cannot_be_built_on_is_one_line_before_anything_is_made(
    finished, pictures, tmp_path
):
    config, result = finished
    unfinished = tmp_path / "unfinished"
    RunFolder.claim(str(unfinished), config)
    link = tmp_path / "link"
    link.symlink_to(result.run_dir)
    for source, run_dir, message in (
        (tmp_path / "none", "run", "not a run folder"),
        (unfinished, "run", "has not finished"),
        (result.run_dir, link, "begin with itself"),
    ):
        other = small_config(pictures, f"init_from={source}")
        with pytest.raises(UserError, match=message) as error:
            job.run(other, run_dir=str(tmp_path / run_dir), fresh=True)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
        assert RunFolder(result.run_dir).exists("model.keras")


def test_weights_that_match_are_taken_and_every_weight_is_accounted_for(
    finished, pictures, tmp_path, caplog
):
    source = f"{finished[1].run_dir}"
    changes = ["model.embedding_dim=16", "model.trunk=convnet_small(widths=(16, 32))"]
    folder = RunFolder(str(tmp_path))
    keras.utils.set_random_seed(0)
    alone = arrays(starting_model(small_config(pictures, *changes), folder))
    found, logged = {}, {}
    for place in (source, f"{source}/model.keras", f"{source}/checkpoints/best.npz"):
        config = small_config(pictures, *changes, f"init_from={place}", "init_match=matching")
        check_start(config, str(tmp_path))
        with caplog.at_level("INFO", logger="trainer"):
            caplog.clear()
            keras.utils.set_random_seed(0)
            found[place] = arrays(starting_model(config, folder))
        logged[place] = caplog.messages[-1]
        report = folder.read_json("restored.json")
    assert report["source"] == place
    theirs, mine = saved(source), found[source]
    same_shape = {p for p in mine if p in theirs and theirs[p].shape == mine[p].shape}
    assert set(report["taken"]) == same_shape
    assert 0 < len(same_shape) < len(mine)
    assert "project/kernel" not in same_shape
    for path, value in mine.items():
        expected = theirs[path] if path in same_shape else alone[path]
        assert value.tobytes() == expected.tobytes(), path
    reshaped = {line.partition(":")[0] for line in report["reshaped"]}
    assert {*report["taken"], *report["missing"], *reshaped} == set(mine)
    assert set(report["unused"]) == set(theirs) - set(mine)
    for place in found:
        assert_same(found[place], mine)
        assert f"{len(same_shape)} of {len(mine)} weights taken" in logged[place]


def test_weights_of_which_nothing_matches_are_refused(finished, pictures, tmp_path):
    model = starting_model(small_config(pictures), RunFolder(str(tmp_path)))
    with pytest.raises(UserError, match=r"^there: no weight of .* 0 of \d+ weights taken; \d+ not"):
        assign_matching(model, {"elsewhere/kernel": np.zeros(3)}, "there")
    gone = small_config(pictures, f"init_from={tmp_path}/gone.keras")
    with pytest.raises(UserError, match=r"gone\.keras: no such file"):
        check_start(gone, str(tmp_path))


def test_a_source_that_is_gone_matters_only_to_a_start(finished, continued, pictures, tmp_path):
    gone = small_config(pictures, f"init_from={tmp_path}/gone")
    check_start(gone, continued[1].run_dir)
    with pytest.raises(UserError, match="gone: not a run folder"):
        check_start(gone, continued[1].run_dir, fresh=True)


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (trainer.cli.app, ["train", "job_configs/demo/synthetic.cnf"]),
        (trainer.task.app, ["job_configs/demo/synthetic.cnf"]),
        (execute.app, ["--local", "--yes", "--config", "synthetic"]),
    ],
)
def test_every_way_to_start_a_job_takes_from(app, arguments, monkeypatch):
    asked = []
    monkeypatch.setattr(summary, "run_and_show", lambda config, **options: asked.append(config))
    out = CliRunner().invoke(app, [*arguments, "--from", "runs/shop/", "--set", "lr=0.5"])
    assert out.exit_code == 0, out.output
    assert (asked[0].init_from, asked[0].lr) == ("runs/shop", 0.5)
    assert asked[0].origin("init_from") == asked[0].origin("lr")

"""Searching a finished run, and indexing a catalogue of one's own with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import UserError
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import index_catalogue, search_images
from trainer.serving.catalogue import load_catalogue

RUNNER = CliRunner()


def some_items(run_dir, count=3):
    return load_catalogue(f"{run_dir}/index").items.path[:count].tolist()


def test_a_picture_of_the_catalogue_finds_itself(finished):
    _, result = finished
    images = some_items(result.run_dir)
    rows = search_images(RunFolder.open(result.run_dir), images, 5)
    assert len(rows) == 15
    for image, first in zip(images, rows[::5], strict=True):
        assert (first["query"], first["id"], first["rank"]) == (image, image, 1)
        assert first["score"] == pytest.approx(1.0, abs=1e-3)
        assert first["label"]


def test_the_command_writes_table_json_and_picture(finished, tmp_path):
    _, result = finished
    image = some_items(result.run_dir)[0]
    out = RUNNER.invoke(
        app,
        [
            "search", result.run_dir, image, "-k", "4",
            "--json", str(tmp_path / "found.json"), "--picture", str(tmp_path / "found.png"),
        ],
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert Image.open(tmp_path / "found.png").size[0] > 500
    assert "rank" in out.output


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_catalogue_of_ones_own_is_indexed_and_searched(finished, tmp_path, kind):
    """A flat folder of pictures, without a table and without labels."""
    _, result = finished
    catalogue = tmp_path / "shop"
    (catalogue / "new").mkdir(parents=True)
    for number, path in enumerate(some_items(result.run_dir, 12)):
        shutil.copy(path, catalogue / ("new" if number % 2 else "") / f"{number}.jpg")
    out = RUNNER.invoke(
        app,
        ["index", result.run_dir, "--items", str(catalogue), "--to", str(tmp_path / "index"),
         "--set", f"index={kind}"],
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    assert "12 items" in out.output
    run = RunFolder.open(result.run_dir)
    image = str(catalogue / "new" / "3.jpg")
    rows = search_images(run, [image], 20, index_folder=str(tmp_path / "index"))
    assert rows[0]["id"] == image
    assert rows[0]["label"] == "new/3.jpg"
    assert len(rows) == 12
    # Building it again replaces it.
    (catalogue / "0.jpg").unlink()
    assert index_catalogue(run, str(catalogue), tmp_path / "index") == 11
    assert len(load_catalogue(tmp_path / "index").items) == 11


def test_two_boxes_in_one_picture_are_two_items(finished, tmp_path):
    _, result = finished
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "items.csv").write_text(
        "path,label,x,y,w,h\na.png,left,0,0,40,80\na.png,right,40,0,40,80\n"
    )
    run = RunFolder.open(result.run_dir)
    assert index_catalogue(run, str(tmp_path / "items.csv"), tmp_path / "index") == 2
    rows = search_images(run, [str(tmp_path / "a.png")], 2, index_folder=str(tmp_path / "index"))
    assert {row["label"] for row in rows} == {"left", "right"}
    assert len({row["id"] for row in rows}) == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [("missing.jpg", "missing.jpg"), ("text.jpg", "text.jpg"), ("empty.jpg", "empty.jpg")],
)
def test_a_query_that_is_no_picture_is_one_line(finished, tmp_path, image, message):
    _, result = finished
    (tmp_path / "text.jpg").write_text("this is not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    out = RUNNER.invoke(app, ["search", result.run_dir, str(tmp_path / image)])
    assert out.exit_code == 2
    assert message in out.output.replace("\n", "")
    assert "Traceback" not in out.output


def test_folders_that_are_not_runs_or_indexes_are_one_line(finished, tmp_path):
    _, result = finished
    run = RunFolder.open(result.run_dir)
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder.open(str(tmp_path))
    with pytest.raises(UserError, match="no index"):
        search_images(run, some_items(result.run_dir), 3, index_folder=str(tmp_path))
    with pytest.raises(UserError, match=r"neither an items\.csv nor pictures"):
        index_catalogue(run, str(tmp_path), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_index_or_model_is_one_line(finished, tmp_path):
    _, result = finished
    image = some_items(result.run_dir)[0]
    for part in ("index/items.csv", "index/ids.json", "model/saved_model.pb"):
        copy = tmp_path / part.replace("/", "-")
        shutil.copytree(result.run_dir, copy)
        damaged = copy / part
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
        out = RUNNER.invoke(app, ["search", str(copy), image])
        assert out.exit_code == 2, part
        assert "Traceback" not in out.output


def test_an_index_of_another_model_is_refused(finished, tmp_path):
    _, result = finished
    copy = tmp_path / "run"
    shutil.copytree(result.run_dir, copy)
    catalogue = load_catalogue(copy / "index")
    wide = np.random.default_rng(0).normal(size=(len(catalogue.items), 5)).astype(np.float32)
    from trainer.launch.searching import build_index

    build_index(RunFolder.open(str(copy)).config(), catalogue.items, wide, copy / "index")
    with pytest.raises(UserError, match="built with another model"):
        search_images(RunFolder.open(str(copy)), some_items(result.run_dir), 3)


def test_evaluate_an_embeddings_file(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 5)
    embeddings = rng.normal(size=(10, 8))[labels] + 0.01 * rng.normal(size=(50, 8))
    np.savez(tmp_path / "e.npz", embeddings=embeddings.astype(np.float32), labels=labels)
    out = RUNNER.invoke(
        app,
        ["evaluate", "--embeddings", str(tmp_path / "e.npz"), "--json", str(tmp_path / "m.json")],
    )
    assert out.exit_code == 0, out.output
    result = json.loads((tmp_path / "m.json").read_text())
    assert result["metrics"]["recall_at_1"] == 1.0
    assert result["queries"] == 50


def test_evaluate_prints_the_published_columns_first(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(1100) % 275
    embeddings = rng.normal(size=(275, 8))[labels] + rng.normal(size=(1100, 8))
    for count in (1100, 1000):
        path = tmp_path / f"{count}.npz"
        rows = slice(count)
        np.savez(path, embeddings=embeddings[rows].astype(np.float32), labels=labels[rows])
        numbers = tmp_path / "m.json"
        out = RUNNER.invoke(app, ["evaluate", "--embeddings", str(path), "--json", str(numbers)])
        metrics = json.loads(numbers.read_text())["metrics"]
        lines = out.stdout.splitlines()
        assert max(map(len, lines)) <= 80
        published = next(line for line in lines if line.startswith("│"))
        names = ["recall_at_1", "recall_at_10", "recall_at_100", "recall_at_1000"]
        names += ["shifted_reciprocal_rank", "map", "map_at_r", "r_precision"]
        wanted = [f"{100 * metrics[name]:.2f}" for name in names]
        if count == 1000:  # all of the gallery is within the first 1,000
            assert metrics["recall_at_1000"] == 1.0
            wanted[3] = "-"
            assert "not shown: metrics at 1000, there being no more items than that" in out.stdout
        assert [cell.strip() for cell in published.strip("│").split("│")] == wanted
        said = {line.split("│")[1].strip() for line in lines if line.startswith("│")}
        assert (set(metrics) <= said) == (count == 1100)
        assert {"recall_at_100", "map_at_100", "mrr"} <= said
        assert ("precision_at_1000" in said) == (count == 1100)


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["evaluate", "RUN", "--embeddings", "x.npz"],
        ["evaluate", "--embeddings", "missing.npz"],
        ["evaluate", "no-such-run"],
        ["search", "no-such-run", "a.jpg"],
        ["index", "no-such-run", "--items", "x", "--to", "y"],
        ["export", "no-such-run", "--to", "y"],
        ["train", "no-such.cnf"],
        ["describe", "los"],
    ],
    ids=" ".join,
)
def test_commands_refuse_what_is_not_there_in_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = RUNNER.invoke(app, arguments)
    assert out.exit_code == 2
    assert out.output.strip().startswith("error: ")
    assert "Traceback" not in out.output
    assert list(Path().iterdir()) == []


def test_export_writes_a_model_that_gives_the_same_embeddings(finished, tmp_path):
    from trainer.serving.embedder import Embedder

    _, result = finished
    out = RUNNER.invoke(app, ["export", result.run_dir, "--to", str(tmp_path / "model")])
    assert out.exit_code == 0, out.output
    images = some_items(result.run_dir)
    one, two = (
        Embedder(folder).embed_files(images)
        for folder in (tmp_path / "model", f"{result.run_dir}/model")
    )
    np.testing.assert_allclose(one, two, atol=1e-5)

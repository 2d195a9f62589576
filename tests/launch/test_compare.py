"""Pages that compare runs: what they show is what the runs' files and models say."""

import base64
import functools
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import trainer.models.layers  # noqa: F401 - registers the layers that model.keras names
from trainer.cli import app
from trainer.config import UserError
from trainer.launch import compare, job, pages
from trainer.launch.compare import compare_runs
from trainer.launch.costs import folder_bytes, training_seconds
from trainer.launch.pages import METRICS, STAGES, clock, draw_curves, side_by_side
from trainer.launch.run_folder import RunFolder
from trainer.launch.splits import read_split
from trainer.serving.embedder import Embedder
from trainer.serving.timing import Timing, time_model

from .conftest import small_config
from .pages import Page

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def runs(finished, pictures, tmp_path_factory):
    """Folders of two finished runs, the second with other parameters, on the same data."""
    folder = tmp_path_factory.mktemp("second") / "wider"
    changes = ("loss.margin=0.5", "model.embedding_dim=48", "steps=10", "train.trainable=kernel")
    job.run(small_config(pictures, *changes), run_dir=str(folder))
    return [finished[1].run_dir, str(folder)]


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    """(page, numbers of --json) of the two runs, made by the command."""
    folder = tmp_path_factory.mktemp("page")
    page, numbers = folder / "runs.html", folder / "runs.json"
    with pytest.MonkeyPatch.context() as patch:
        short = functools.partial(time_model, seconds=0.05, least=3)
        patch.setattr("trainer.serving.timing.time_model", short)
        out = RUNNER.invoke(
            app, ["report", *runs, "--to", str(page), "--json", str(numbers), "--failures", "3"]
        )
    assert out.exit_code == 0, out.output
    assert "measuring 2. wider" in out.output
    return Page(page), json.loads(numbers.read_text())


@pytest.fixture
def quick(monkeypatch):
    """Comparisons that neither time a model nor draw curves."""
    timing = Timing(1, 7, 0.002, 0.001, 0.003, 0.004, 0.1)
    monkeypatch.setattr("trainer.serving.timing.time_model", lambda model, batch: timing)
    png = io.BytesIO()
    Image.new("RGB", (9, 9)).save(png, "PNG")
    monkeypatch.setattr("trainer.launch.pages._plot", lambda *_: png.getvalue())


@pytest.fixture
def quickest(quick, monkeypatch):
    """Comparisons that do not load the models either, and so have no failures to show."""
    model = SimpleNamespace(dim=32)
    monkeypatch.setattr("trainer.serving.embedder.Embedder", lambda folder: model)


@pytest.fixture
def copies(runs, tmp_path):
    """Copies of the two runs that a test may spoil."""
    return [shutil.copytree(run, tmp_path / Path(run).name) for run in runs]


def change(run, name, **values):
    content = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(content | values))


def read(run, name):
    return json.loads((Path(run) / name).read_text())


def test_metrics_and_intervals_are_those_of_the_runs(compared, runs):
    page, numbers = compared
    rows = page.tables["Retrieval metrics"]
    assert rows[0].cells == ["Run", "Stage", *METRICS.values()]
    evaluations = [read(run, "evaluation.json") for run in runs]
    assert evaluations[0]["color_histogram"] == evaluations[1]["color_histogram"]
    expected = [(evaluations[0], "color_histogram")]
    expected += [(one, stage) for one in evaluations for stage in ("untrained", "trained")]
    assert len(rows) == 1 + len(expected)
    for row, (evaluation, stage) in zip(rows[1:], expected, strict=True):
        cells = row.cells[-len(METRICS) :]
        classes = row.cell_classes[-len(METRICS) :]
        assert STAGES[stage] == row.cells[-len(METRICS) - 1]
        for metric, cell, kind in zip(METRICS, cells, classes, strict=True):
            value = evaluation[stage]["metrics"][metric]
            low, high = evaluation[stage]["intervals"][metric]
            best = value == max(part[name]["metrics"][metric] for part, name in expected)
            words = f"{100 * value:.1f} {100 * low:.1f} to {100 * high:.1f}"
            assert cell == ("best" if best else "") + words
            assert (kind == "best") == best
    assert numbers["same_test_data"] is True
    assert "different" not in page.text
    for run, told in zip(runs, numbers["runs"], strict=True):
        assert told["evaluation"] == read(run, "evaluation.json")
        assert told["config"] == read(run, "config.json")


def test_differences_are_marked_where_values_differ_and_nowhere_else(compared, runs):
    page, numbers = compared
    one, two = (read(run, "config.json") for run in runs)
    differ = {key for key in one | two if one.get(key, "gone") != two.get(key, "gone")}
    assert {"loss.margin", "model.embedding_dim", "steps", "train.trainable"} <= differ
    assert set(numbers["differences"]) == differ
    different = page.tables["Configs, what differs"][1:]
    same = page.tables["Configs, the same for all"][1:]
    assert {row.cells[0].removeprefix("differs: ") for row in different} == differ
    assert all(row.classes == "differs" and row.cells[0].startswith("differs") for row in different)
    assert {row.cells[0] for row in same} == set(one | two) - differ
    assert all(row.classes == "" for row in same)
    margin = next(row for row in different if row.cells[0].endswith("loss.margin"))
    assert margin.cells[1:] == ["0.2", "0.5"]
    # In a <details>, so that what differs is what is seen.
    assert "details" in [tag for tag, _ in page.tags]


def test_rows_of_one_component_stay_together_and_lacking_keys_are_told():
    rows = side_by_side(
        [{"loss": "a", "loss.x": 1, "lr": 0.5}, {"loss": "b", "lr": 0.5, "loss.y": ""}]
    )
    assert [(row.key, row.values, row.differs) for row in rows] == [
        ("loss", ("a", "b"), True),
        ("loss.x", ("1", "(not set)"), True),
        ("loss.y", ("(not set)", "(empty)"), True),
        ("lr", ("0.5", "0.5"), False),
    ]


def test_costs_are_those_of_the_files_and_of_keras(compared, runs):
    page, numbers = compared
    for column, (run, told) in enumerate(zip(runs, numbers["runs"], strict=True), start=1):
        shown = page.column("Size, speed and cost", column)
        model = keras.saving.load_model(f"{run}/model.keras", compile=False)
        costs = told["costs"]
        assert costs["parameters"] == model.count_params()
        trained = model.trainable_variables
        if column == 2:
            trained = [weight for weight in trained if "kernel" in weight.path]
        assert costs["trainable"] == sum(int(np.prod(weight.shape)) for weight in trained)
        assert costs["embedding_dim"] == model.output_shape[-1] == Embedder(f"{run}/model").dim
        for part in ("model", "index"):
            files = [path for path in Path(run, part).rglob("*") if path.is_file()]
            assert costs[f"{part}_bytes"] == sum(path.stat().st_size for path in files) > 1000
        assert shown["parameters"] == f"{costs['parameters']:,}"
        assert shown["trainable parameters"] == f"{costs['trainable']:,}"
        assert shown["model on disk (SavedModel)"] == f"{costs['model_bytes'] / 1e6:.2f} MB"
        one, many = told["latency"]
        assert (one["batch"], many["batch"]) == (1, 32)
        for timing in (one, many):
            milliseconds = 1000 * timing["seconds"] / timing["batch"]
            words = shown[f"latency an image, batch of {timing['batch']}"]
            assert float(words.removesuffix(" ms").replace(",", "")) == pytest.approx(
                milliseconds, rel=0.01
            )
        assert shown["throughput, batch of 32"] == f"{many['images_per_second']:,.0f} images/s"
        assert costs["training_seconds"] > 0
        assert shown["training time, without validation"] == clock(costs["training_seconds"])
    assert numbers["machine"] in page.text


def test_training_time_adds_up_the_rows(pictures):
    config = small_config(pictures, "train.accumulate=2")
    rows = [
        {"step": 20.0, "images_per_second": 64.0},
        {"step": 30.0, "images_per_second": 320.0},
    ]
    assert training_seconds(config, rows) == 20 * 64 / 64 + 10 * 64 / 320
    between = [rows[0], {"step": 25.0, "hard": 0.5}, *rows[1:], {"step": 40.0, "hard": 0.5}]
    assert training_seconds(config, between) == training_seconds(config, rows)
    triplets = small_config(pictures, "loss=triplet_margin", "train.accumulate=2")
    assert training_seconds(triplets, rows) == 3 * (20 + 2)
    assert training_seconds(config, []) is None
    assert training_seconds(config, [{"step": 20.0}]) is None


def test_a_run_that_did_not_note_its_size_is_counted_from_its_model(copies, quickest, tmp_path):
    noted = read(copies[1], "evaluation.json").pop("model")
    evaluation = read(copies[1], "evaluation.json")
    del evaluation["model"]
    (copies[1] / "evaluation.json").write_text(json.dumps(evaluation))
    costs = compare_runs([str(copies[1])], str(tmp_path / "a.html"), failures=0)["runs"][0]["costs"]
    assert {key: costs[key] for key in noted} == noted
    (copies[1] / "model.keras").unlink()
    numbers = compare_runs([str(copies[1])], str(tmp_path / "a.html"), failures=0)
    assert numbers["runs"][0]["costs"]["parameters"] is None
    assert (
        Page(tmp_path / "a.html").column("Size, speed and cost", 1)["parameters"] == "not recorded"
    )


def slow_failures(run, count):
    """Plain loops over the run's test split: query, rank of the right item, wrong items."""
    table = read_split(RunFolder.open(run).config())
    vectors = Embedder(f"{run}/model").embed_files(table.path.tolist()).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for query in range(len(table)):
        scores = {item: vectors[query] @ vectors[item] for item in range(len(table))}
        order = sorted((item for item in scores if item != query), key=lambda item: -scores[item])
        right = [table.label[item] == table.label[query] for item in order].index(True)
        if right:
            names = [str(table.path[item]) for item in order]
            key = (-right, -scores[order[0]], query)
            found.append(
                (key, (str(table.path[query]), right + 1, names[right], names[:right][:5]))
            )
    found.sort()
    return len(found), [part for _, part in found[:count]]


def test_failures_are_those_of_a_slow_count_and_shown_as_pictures(compared, runs):
    page, numbers = compared
    shown = 0
    for run, told in zip(runs, numbers["runs"], strict=True):
        failed, expected = slow_failures(run, 3)
        part = told["failures"]
        assert (part["failed"], part["problem"], part["note"]) == (failed, "", "")
        assert failed > 3
        assert [
            (
                one["query"]["path"],
                one["right"]["rank"],
                one["right"]["path"],
                [item["path"] for item in one["wrong"]],
            )
            for one in part["hardest"]
        ] == expected
        for one in part["hardest"]:
            assert [item["rank"] for item in one["wrong"]] == list(range(1, len(one["wrong"]) + 1))
            assert one["query"]["label"] == one["right"]["label"]
            assert one["query"]["label"] not in [item["label"] for item in one["wrong"]]
            assert f"rank {one['right']['rank']}, {one['right']['score']:.3f}" in page.text
            shown += 2 + len(one["wrong"])
        assert f"of {failed} of {part['queries']} queries is wrong" in page.text
    pictures = [image for image in page.images if "labelled" in image["alt"]]
    assert len(pictures) == shown
    for image in page.images:
        assert image["alt"]
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            assert (max(opened.size) == pages.SIDE) == (image in pictures)


def test_curves_tell_their_last_values_to_those_who_cannot_see_them(compared, runs):
    page, _ = compared
    curves = [image["alt"] for image in page.images if "against steps" in image["alt"]]
    assert [alt.partition(" against")[0] for alt in curves] == [
        "Training loss",
        "Validation Recall@1, percent",
        "Validation MAP@R, percent",
    ]
    last = (Path(runs[0]) / "training.csv").read_text().splitlines()
    recall = dict(zip(last[0].split(","), last[-1].split(","), strict=True))["recall_at_1"]
    assert f"1. small ends at {100 * float(recall):.4g} (step 60)" in curves[1]
    assert "2. wider" in curves[1]


def test_runs_without_a_column_are_left_out_of_its_plot():
    rows = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": 1.0, "map_at_r": 0.5}]
    curves = draw_curves([("_a $x^$", rows), ("b", rows[:1]), ("c", [])])
    assert [curve.title for curve in curves] == ["Training loss", "Validation MAP@R, percent"]
    assert "b has none" in curves[1].alt
    assert draw_curves([("a", [])]) == []


def test_the_page_needs_nothing_else_and_holds_names_as_text(copies, quickest, tmp_path):
    name = '<script>alert("x")&amp;$1$'
    nasty = copies[0].rename(tmp_path / name)
    compare_runs([str(nasty), str(copies[1])], str(tmp_path / "a.html"), failures=0)
    page = Page(tmp_path / "a.html")
    assert f"1. {name}" in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.html.startswith("<!doctype html>")
    for _, values in page.tags:
        assert not values.get("src", "data:").startswith(("http", "//", "/"))
        assert "href" not in values
    assert not re.search(r"url\(|@import", page.html)


def test_runs_measured_on_other_data_are_told_apart(copies, quick, tmp_path):
    data = read(copies[1], "environment.json")["data"]
    data["test"]["fingerprint"] = "f" * 64
    change(copies[1], "environment.json", data=data)
    numbers = compare_runs([str(run) for run in copies], str(tmp_path / "a.html"), failures=1)
    page = Page(tmp_path / "a.html")
    assert numbers["same_test_data"] is False
    assert "measured on 2 different sets of test" in " ".join(page.text.split())
    assert "trained on different data" not in page.text
    # A table for each, with the best of its own.
    best = [row for row in page.tables["Retrieval metrics"] if "best" in row.cell_classes]
    assert [row.cells[0] for row in page.tables["Retrieval metrics"]].count("Run") == 2
    assert len(best) >= 2
    # The pictures that are there are not those that the second was tested on.
    assert numbers["runs"][0]["failures"]["note"] == ""
    assert "was tested on" in numbers["runs"][1]["failures"]["note"]


def test_runs_trained_on_other_data_or_tested_on_another_split_are_told_apart(
    copies, quickest, tmp_path
):
    data = read(copies[1], "environment.json")["data"]
    data["train"]["fingerprint"] = "f" * 64
    change(copies[1], "environment.json", data=data)
    compare_runs([str(run) for run in copies], str(tmp_path / "a.html"), failures=0)
    text = " ".join(Page(tmp_path / "a.html").text.split())
    assert "trained on different data" in text
    assert "measured on" not in text
    change(copies[1], "evaluation.json", split="val")
    assert not compare_runs([str(r) for r in copies], str(tmp_path / "a.html"), failures=0)[
        "same_test_data"
    ]


def own_pictures(run, folder):
    """Let a run find its data in `folder`: copies of its test pictures with an items.csv."""
    folder.mkdir()
    table = read_split(RunFolder.open(str(run)).config())
    lines = ["path,label,split"]
    for number, path in enumerate(table.path):
        shutil.copy(path, folder / f"{number}.jpg")
        for split in ("train", "val", "test") if number < 4 else ("test",):
            lines.append(f"{number}.jpg,{table.label[number]},{split}")
    (folder / "items.csv").write_text("\n".join(lines))
    config = {k: v for k, v in read(run, "config.json").items() if not k.startswith("dataset.")}
    config |= {"dataset": "items", "data_path": str(folder)}
    (run / "config.json").write_text(json.dumps(config))
    return len(table)


def test_missing_pictures_are_said_on_the_page(copies, quick, tmp_path):
    run, page = copies[0], tmp_path / "a.html"
    count = own_pictures(run, tmp_path / "shop")
    (tmp_path / "shop" / "7.jpg").unlink()
    (tmp_path / "shop" / "9.jpg").write_bytes(b"damaged")
    part = compare_runs([str(run)], str(page), failures=2)["runs"][0]["failures"]
    assert len(part["hardest"]) == 2
    assert f"among the {count - 2} that are there now" in Page(page).text
    shutil.rmtree(tmp_path / "shop")
    part = compare_runs([str(run)], str(page), failures=2)["runs"][0]["failures"]
    assert "shop does not exist" in part["problem"]
    assert "No pictures: data path" in Page(page).text
    # Without failures nobody looks for pictures.
    compare_runs([str(run)], str(page), failures=0)
    assert "No pictures" not in Page(page).text
    assert "Hardest failures" not in Page(page).text


def test_a_page_of_its_own_is_replaced_whole_or_not_at_all(runs, quickest, tmp_path, monkeypatch):
    page = tmp_path / "a.html"
    compare_runs(runs[:1], str(page), failures=0)
    before = page.read_text()
    assert "No key differs" not in before
    compare_runs(runs, str(page), failures=0)
    after = page.read_text()
    assert "2. wider" in after
    assert "2. wider" not in before
    monkeypatch.setattr(compare, "_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare_runs(runs[:1], str(page), failures=0)
    assert page.read_text() == after
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_runs_of_the_same_name_are_told_apart_by_their_folders(runs, quickest, tmp_path):
    others = [
        shutil.copytree(run, tmp_path / place / "x") for run, place in zip(runs, "ab", strict=True)
    ]
    numbers = compare_runs([str(run) for run in others], str(tmp_path / "a.html"), failures=0)
    assert [run["name"] for run in numbers["runs"]] == ["1. a/x", "2. b/x"]


def unfinished(run):
    evaluation = read(run, "evaluation.json")
    del evaluation["trained"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))


SPOILT = {
    "no run": (lambda run: (run / "config.json").unlink(), "not a run folder"),
    "no folder": (shutil.rmtree, "not a run folder"),
    "not trained": (unfinished, "not finished"),
    "no evaluation": (lambda run: (run / "evaluation.json").unlink(), "not finished"),
    "no model": (lambda run: shutil.rmtree(run / "model"), "not finished"),
    "half a model": (lambda run: (run / "model" / "saved_model.pb").write_bytes(b""), "0 bytes"),
    "other JSON": (lambda run: (run / "evaluation.json").write_text('{"trained": 1}'), "damaged"),
    "no JSON": (lambda run: (run / "environment.json").write_text("{"), "damaged"),
    "other CSV": (lambda run: (run / "training.csv").write_text("step,loss\n1,two\n"), "damaged"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_what_is_no_finished_run_is_one_line(copies, quick, tmp_path, spoil, message):
    spoil(copies[1])
    page = tmp_path / "a.html"
    out = RUNNER.invoke(app, ["report", *map(str, copies), "--to", str(page)])
    assert out.exit_code == 2
    assert out.output.startswith("error: ")
    assert out.output.count("\n") == 1
    assert message in out.output
    assert str(copies[1]) in out.output
    assert not page.exists()


def test_the_same_run_twice_and_files_in_the_way_are_one_line(runs, tmp_path):
    (tmp_path / "link").symlink_to(runs[0])
    (tmp_path / "thesis.html").write_text("<html>years of work</html>")
    report = Path(runs[0]) / "report.html"
    before = report.read_bytes()
    for given, to, message in (
        ([runs[0], runs[0]], "a.html", "the same run"),
        ([runs[0], str(tmp_path / "link")], "a.html", "the same run"),
        ([runs[0], f"{runs[0]}/"], "a.html", "the same run"),
        (runs, "thesis.html", "choose another file"),
        (runs, str(report), "choose another file"),
        (runs, "none/a.html", "there is no folder"),
        (runs, ".", "is a folder"),
    ):
        out = RUNNER.invoke(app, ["report", *given, "--to", str(tmp_path / to)])
        assert out.exit_code == 2, to
        assert out.output.startswith("error: ")
        assert out.output.count("\n") == 1
        assert message in out.output
    assert (tmp_path / "thesis.html").read_text() == "<html>years of work</html>"
    assert report.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "thesis.html"]
    with pytest.raises(UserError, match="one or more"):
        compare_runs([], str(tmp_path / "a.html"))


def test_sizes_of_remote_folders_are_counted_too(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "one").write_bytes(b"12345")
    (tmp_path / "a" / "two").write_bytes(b"123")
    assert folder_bytes(str(tmp_path)) == folder_bytes(f"file://{tmp_path}") == 8
    assert folder_bytes(str(tmp_path / "none")) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_read_as_people_say_them(seconds, words):
    assert clock(seconds) == words

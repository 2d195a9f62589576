"""`mildnet rank` and `mildnet benchmark-rerank`: lists in, an array and tables out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import UserError
from trainer.launch import benchmark_rerank, summary
from trainer.launch.ranking import ProductRanker, read_list, write_ranks
from trainer.launch.searched import Searched
from trainer.launch.splits import read_split
from trainer.retrieval.rerank.cost import measure_here
from trainer.retrieval.rerank.options import METHODS, rank
from trainer.serving.embedder import Embedder

RUNNER = CliRunner()
BOX = ["bbox_x", "bbox_y", "bbox_w", "bbox_h"]


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    """A folder with lists as the challenge has them: 6 queries in 12 pictures, of 4 products.

    Queries are the gallery's pictures, in the middle of a larger one, with a box around them.
    Pictures of the gallery have a white border.
    """
    folder = tmp_path_factory.mktemp("challenge")
    random = np.random.default_rng(0)
    gallery, queries = [["img_path", "product_id"]], [["img_path", "product_id", *BOX]]
    for number in range(12):
        colours = random.integers(0, 200, (4, 4, 3), np.uint8)
        picture = Image.fromarray(colours).resize((40, 40), Image.Resampling.NEAREST)
        bordered = Image.new("RGB", (60, 50), "white")
        bordered.paste(picture, (10, 5))
        (folder / "gallery").mkdir(exist_ok=True)
        bordered.save(folder / "gallery" / f"{number}.png")
        gallery.append([f"gallery/{number}.png", f"p{number % 4}"])
        if number % 2:
            around = Image.effect_noise((90, 80), 90).convert("RGB")
            around.paste(picture, (30, 20))
            around.save(folder / f"query-{number}.png")
            queries.append([f"query-{number}.png", f"p{number % 4}", 30, 20, 40, 40])
    write(folder / "gallery.csv", gallery)
    write(folder / "queries.csv", queries)
    return folder


@pytest.fixture(scope="module")
def run(finished):
    return finished[1].run_dir


def words_of(challenge, run, to, *more):
    lists = ["--gallery", str(challenge / "gallery.csv"), "--queries", challenge / "queries.csv"]
    return ["rank", "--model", run, *map(str, lists), "--to", str(to), *more]


def test_boxes_and_borders_are_cut_and_an_array_of_rows_is_written(challenge, run, tmp_path):
    to, numbers = tmp_path / "ranks.npy", tmp_path / "ranks.json"
    out = RUNNER.invoke(app, words_of(challenge, run, to, "--json", str(numbers)))
    assert out.exit_code == 0, out.output
    rows = np.load(to)
    assert (rows.shape, rows.dtype) == ((6, 12), np.int64)
    # Cut to box and inside of the border, query and item are the same picture.
    assert rows[:, 0].tolist() == [1, 3, 5, 7, 9, 11]
    assert all(sorted(row) == list(range(12)) for row in rows.tolist())
    assert "6 queries, 12 items for each (there are no more for the 1,000 asked for)" in out.output
    assert "Recall@1 100.00% of 6 queries" in out.output
    found = json.loads(numbers.read_text())
    assert (found["shape"], found["recall_at_1"], found["queries"]) == ([6, 12], 1.0, 6)
    assert sorted(os.listdir(tmp_path)) == ["ranks.json", "ranks.npy"]


def test_the_class_gives_the_array_of_a_run_or_an_export(challenge, run):
    lists = challenge / "gallery.csv", challenge / "queries.csv"
    post = METHODS["challenge"]
    ranks = ProductRanker(challenge, *lists, model=run, post=post, k=7).predict_product_ranks()
    assert ranks.shape == (6, 7)
    exported = ProductRanker(challenge, *lists, model=f"{run}/model", post=post, k=7)
    np.testing.assert_array_equal(exported.predict_product_ranks(), ranks)
    embedder = Embedder(f"{run}/model")
    pixels = [np.asarray(Image.open(path)) for path in exported.gallery.path]
    gallery = np.concatenate([embedder.embed_images(image[None, 5:45, 10:50]) for image in pixels])
    queries = gallery[1::2]
    np.testing.assert_array_equal(rank(queries, gallery, 7, post).rows, ranks)


def test_without_borders_products_or_boxes(challenge, run, tmp_path):
    bare = write(tmp_path / "bare.csv", [["img_path"], ["query-1.png"], ["query-1.png"]])
    gallery = challenge / "gallery.csv"
    found = ProductRanker(challenge, gallery, bare, model=run, borders=False).rank()
    assert found.quality is None
    assert found.to_dict() == {"shape": [2, 12]}
    assert found.rows[0].tolist() == found.rows[1].tolist()


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([], "the header has no column img_path"),
        ([["path"], ["a.png"]], "the header has no column img_path"),
        ([["img_path"]], "has no rows"),
        ([["img_path", "product_id"], ["a.png"]], ":2: not as many fields"),
        ([["img_path"], ["a.png"], [" "]], ":3: no img_path"),
        ([["img_path", *BOX[:3]], ["a.png", 1, 2, 3]], "a box needs all of bbox_x"),
        ([["img_path", *BOX], ["a.png", 1, 2, 3, "x"]], ":2: the box 1, 2, 3, x is not four num"),
        ([["img_path", *BOX], ["a.png", 1, 2, 0, 4]], ":2: the box 1, 2, 0, 4 is not four num"),
        ([["img_path", *BOX], ["a.png", 1, "", 3, 4]], ":2: the box 1, , 3, 4 is not four num"),
        ([["img_path", *BOX], ["a.png", 1, "nan", 3, 4]], "is not four numbers"),
    ],
)
def test_every_row_of_a_list_counts(rows, error, tmp_path):
    with pytest.raises(UserError, match=error):
        read_list(write(tmp_path / "list.csv", rows), str(tmp_path))


def test_a_list_may_repeat_pictures_and_leave_boxes_out(tmp_path):
    rows = [
        ["img_path", "other", *BOX],
        ["a.png", "x", 1, 2, 3, 4],
        ["/b.png", "y", "", "", "", ""],
    ]
    table, known = read_list(write(tmp_path / "list.csv", [*rows, rows[1]]), str(tmp_path))
    assert not known
    assert table.path.tolist() == [f"{tmp_path}/a.png", "/b.png", f"{tmp_path}/a.png"]
    np.testing.assert_array_equal(table.box, [[1, 2, 3, 4], [np.nan] * 4, [1, 2, 3, 4]])
    with pytest.raises(UserError, match=r"there is no none\.csv"):
        read_list("none.csv", str(tmp_path))


def test_a_picture_that_is_missing_or_broken_is_named(challenge, run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("missing.png", str(tmp_path / "broken.png")):
        bad = write(tmp_path / "bad.csv", [["img_path"], ["query-1.png"], [name]])
        with pytest.raises(UserError, match=rf"the first: .*{os.path.basename(name)}"):
            ProductRanker(challenge, challenge / "gallery.csv", bad, model=run).rank()


@pytest.mark.parametrize("box", [(5000, 5000, 10, 10), (-50, -50, 10, 10), (0, 0, 500, 10)])
def test_a_box_outside_of_its_picture_is_named(box, challenge, run, tmp_path):
    bad = write(tmp_path / "bad.csv", [["img_path", *BOX], ["query-1.png", *box]])
    with pytest.raises(UserError, match=r"query-1\.png: the box .* reaches out of the picture"):
        ProductRanker(challenge, challenge / "gallery.csv", bad, model=run)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--post", "chalenge"], "unknown post-processing 'chalenge'"),
        (["--set", "k1=0"], "k1: 0 is too small"),
        (["--model", "none"], "no exported model: there is no folder none"),
        (["--to", "nowhere/ranks.npy"], "nowhere/ranks.npy: there is no folder"),
        (["--json", "."], r"\. is a folder; give a file"),
        (["--data", "none"], "data path .*none does not exist"),
    ],
)
def test_mistakes_end_in_one_line(more, error, challenge, run, tmp_path):
    out = RUNNER.invoke(app, words_of(challenge, run, tmp_path / "r.npy", *more))
    assert out.exit_code == 2
    assert out.stderr.startswith("error: ")
    assert out.stderr.count("\n") == 1
    assert re.search(error, out.stderr), out.stderr
    assert not (tmp_path / "r.npy").exists()


def test_an_array_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_ranks(tmp_path / "ranks.npy", np.arange(6).reshape(2, 3))

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="cannot write"):
        write_ranks(tmp_path / "ranks.npy", np.zeros((1, 1)))
    assert np.load(tmp_path / "ranks.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert os.listdir(tmp_path) == ["ranks.npy"]


@pytest.fixture
def here(monkeypatch):
    """Methods are measured in this process, which takes less time."""
    monkeypatch.setattr(benchmark_rerank, "measure", measure_here)


def test_methods_are_compared_on_a_run(finished, tmp_path, here):
    config, result = finished
    numbers = tmp_path / "rerank.json"
    out = RUNNER.invoke(app, ["benchmark-rerank", result.run_dir, "--json", str(numbers)])
    assert out.exit_code == 0, out.output
    found = json.loads(numbers.read_text())
    test = read_split(config)
    assert [row["method"] for row in found["rows"]] == list(METHODS)
    assert (found["items"], found["queries"], found["inside"]) == (len(test), len(test), True)
    plain = found["rows"][0]["quality"]
    trained = json.loads(Path(result.run_dir, "evaluation.json").read_text())["trained"]
    metrics = trained.get("metrics", trained)
    assert plain["recall_at_1"] == pytest.approx(metrics["recall_at_1"], abs=0.02)
    assert plain["truncated_map"] == pytest.approx(metrics["map"], abs=0.01)
    assert "challenge_k_reciprocal" in out.output


def test_methods_are_compared_on_a_file(tmp_path, here, monkeypatch):
    random = np.random.default_rng(0)
    path = tmp_path / "embeddings.npz"
    labels = np.array([f"p{number}" for number in np.arange(300) % 60])
    np.savez(
        path,
        embeddings=random.standard_normal((300, 16)).astype(np.float32),
        labels=labels,
        is_query=np.arange(300) < 50,
    )
    words = ["benchmark-rerank", "--embeddings", str(path), "--post", "k_reciprocal", "-k", "20"]
    numbers = tmp_path / "rerank.json"
    out = RUNNER.invoke(app, [*words, "--set", "k1=4", "--json", str(numbers)])
    assert out.exit_code == 0, out.output
    found = json.loads(numbers.read_text())
    (row,) = found["rows"]
    assert (row["method"], row["options"]["k1"], row["options"]["reciprocal"]) == (
        "k_reciprocal", 4, True,
    )  # fmt: skip
    assert (found["items"], found["queries"], found["k"], found["inside"]) == (250, 50, 20, False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    out = RUNNER.invoke(app, [*words, "--post", "none"])
    assert "k_reciprocal left out: k-reciprocal re-ranking needs SciPy" in out.output
    with pytest.raises(UserError, match="nothing could be measured; k_reciprocal left out"):
        benchmark_rerank.compare_methods(
            Searched.of_file(path), [("k_reciprocal", METHODS["k_reciprocal"])]
        )


def test_the_table_fits_80_columns(tmp_path, here):
    path = tmp_path / "embeddings.npz"
    random = np.random.default_rng(0)
    np.savez(path, embeddings=random.standard_normal((90, 8)), labels=np.arange(90) % 30)
    found = benchmark_rerank.compare_methods(Searched.of_file(path))
    out = io.StringIO()
    summary.show_reranking(found, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("@89" in line for line in lines)
    assert all(any(f" {name} " in line for line in lines) for name in METHODS)
    assert lines[-1] == "90 queries; each leaves itself out, 90 items of 8 dimensions"

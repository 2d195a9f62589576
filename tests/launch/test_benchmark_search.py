"""`mildnet benchmark-search`: whose embeddings are searched, what is said, what is drawn."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import UserError
from trainer.launch import benchmark_search, summary
from trainer.launch.benchmark_search import (
    SearchComparison,
    SearchOptions,
    compare_file,
    draw_comparison,
    read_settings,
)
from trainer.launch.splits import read_split
from trainer.retrieval import speed
from trainer.retrieval.speed import SearchSpeed

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    for name, value in (("WARM_UP", 1), ("LEAST", 5), ("MOST", 5)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "_resident_bytes", lambda folder, task, kind: 2_500_000)


@pytest.fixture
def file(tmp_path):
    """Embeddings of 40 street pictures and 260 of shops; the first 50 rows search."""
    random = np.random.default_rng(0)
    path = tmp_path / "embeddings.npz"
    np.savez(
        path,
        embeddings=random.standard_normal((300, 16)).astype(np.float32),
        labels=np.arange(300) % 60,
        is_query=np.arange(300) < 50,
        is_gallery=np.arange(300) >= 40,
    )
    return str(path)


def row(**changes):
    values = {
        "index": "hnsw", "gpu": False, "setting": {"ef_search": 64}, "build_seconds": 12.3,
        "file_bytes": 1_500_000, "resident_bytes": 2_000_000, "queries_per_second": 23456.7,
        "p50": 0.0005, "p95": 0.001, "p99": 0.1234, "calls": 1000, "recall": 0.98765,
    }  # fmt: skip
    return SearchSpeed(**{**values, **changes})


def comparison(*rows):
    return SearchComparison(
        source="e.npz", items=60_000, dimensions=128, queries=1000, k=10, inside=True, threads=2,
        repeats=5, machine={}, rows=rows, notes=("annoy left out: [mildnet]",),
    )  # fmt: skip


def test_a_run_is_searched_with_its_model_on_its_test_split(finished, tmp_path):
    config, result = finished
    numbers, plot = tmp_path / "speed.json", tmp_path / "speed.png"
    words = ["benchmark-search", result.run_dir, "--index", "flat", "--index", "hnsw", "-k", "3"]
    words += ["--queries", "20", "--repeats", "1", "--threads", "1", "--set", "hnsw.m=4"]
    out = RUNNER.invoke(app, [*words, "--json", str(numbers), "--plot", str(plot)])
    assert out.exit_code == 0, out.output
    test = read_split(config)
    found = json.loads(numbers.read_text())
    assert (found["source"], found["items"], found["dimensions"]) == (
        result.run_dir,
        len(test),
        32,
    )
    assert (found["queries"], found["k"], found["inside"], found["threads"]) == (20, 3, True, 1)
    assert {row["index"] for row in found["rows"]} == {"flat", "hnsw"}
    assert found["rows"][0]["recall"] == 1.0
    assert found["machine"]["cores"] >= 1
    assert "measuring hnsw" in out.output
    assert f"20 queries; each leaves itself out, {len(test)} items of 32 dim" in out.output
    assert out.output.count("no GPU: FAISS sees none") == 1
    with Image.open(plot) as picture:
        assert picture.size == (1080, 720)


def test_a_file_says_what_searches_what(file, monkeypatch):
    found = compare_file(file, SearchOptions(kinds=("flat", "flat"), k=4, repeats=1))
    assert (found.queries, found.items, found.inside) == (50, 260, True)
    assert [row.recall for row in found.rows] == [1.0]
    drawn = compare_file(file, SearchOptions(kinds=("flat",), k=4, repeats=1, queries=7))
    assert drawn.queries == 7


def test_what_cannot_be_built_is_left_out_with_its_reason(file, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "annoy", None)
    out = RUNNER.invoke(
        app,
        ["benchmark-search", "--embeddings", file, "--repeats", "1", "--index", "annoy"]
        + ["--index", "ivf_pq", "--index", "flat", "--set", "ivf_pq.nlist=500"],
    )
    assert out.exit_code == 0, out.output
    lines = [line for line in out.output.splitlines() if "left out" in line]
    assert lines[0].startswith("annoy left out: this index needs Annoy: pip install 'mildnet[ann")
    assert lines[1].startswith("ivf_pq left out: ivf_pq with nlist=500 and bits=8 needs at least")
    with pytest.raises(UserError, match=r"no index could be measured; annoy left out: .*\[annoy\]"):
        compare_file(file, SearchOptions(kinds=("annoy",)))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "give a run folder or --embeddings FILE.npz, one of the two"),
        (["some", "--embeddings", "x.npz"], "give a run folder or --embeddings FILE.npz"),
        (["some/folder"], "some/folder: not a run folder"),
        (["--embeddings", "none.npz"], "embeddings file none.npz does not exist"),
        (["--embeddings", "FILE", "--index", "hsnw"], "unknown index 'hsnw'; did you mean 'hnsw'"),
        (["--embeddings", "FILE", "-k", "260"], "k=260: a query can find 1 to 259 items"),
        (["--embeddings", "FILE", "--set", "m=4"], "--set m=4: INDEX.PARAMETER=VALUE is needed"),
        (["--embeddings", "FILE", "--set", "hnsw.n=4"], "index 'hnsw' has no parameter 'n'"),
        (["--embeddings", "FILE", "--set", "hnsw.m=many"], "index.m: "),
    ],
)
def test_mistakes_end_in_one_line(words, error, file):
    words = [file if word == "FILE" else word for word in words]
    out = RUNNER.invoke(app, ["benchmark-search", *words])
    assert out.exit_code == 2
    assert out.stderr.startswith(f"error: {error}"), out.stderr
    assert out.stderr.count("\n") == 1


def test_settings_have_the_types_of_their_index():
    assert read_settings(["hnsw.m=16", "annoy.trees = 9", "hnsw.ef_search=5"]) == {
        "hnsw": {"m": 16, "ef_search": 5},
        "annoy": {"trees": 9},
    }
    with pytest.raises(UserError, match="threads=0: at least 1 is needed"):
        compare_file("none.npz", SearchOptions(threads=0))


def test_the_tables_fit_80_columns():
    out = io.StringIO()
    found = comparison(
        row(),
        row(setting={"ef_search": 512}, queries_per_second=10.4),
        row(index="annoy", setting={"search_k": 30_000}),
        row(index="flat", gpu=True, setting={}, resident_bytes=None),
    )
    summary.show_search_speed(found, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert ["hnsw", "12.30", "2.0", "1.5"] in cells
    assert ["flat, GPU", "12.30", "-", "1.5"] in cells
    assert ["hnsw", "ef_search=64", "23,457", "0.50", "1.00", "123.40", "0.9877"] in cells
    assert ["", "ef_search=512", "10", "0.50", "1.00", "123.40", "0.9877"] in cells
    assert lines[-1] == "annoy left out: [mildnet]"


def test_each_index_is_a_line_and_each_setting_a_dot(tmp_path, monkeypatch):
    import matplotlib.figure

    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *words, **options: figures.append(self) or save(self, *words, **options),
    )
    found = comparison(
        row(recall=0.91),
        row(recall=1.0, setting={"ef_search": 512}, queries_per_second=900),
        row(recall=1.0, setting={"ef_search": 513}, queries_per_second=899),
        row(index="flat", recall=1.0, setting={}),
        row(index="flat", gpu=True, recall=1.0, setting={}, queries_per_second=1e6),
    )
    draw_comparison(found, tmp_path / "plot.png")
    ((axes,),) = (figure.axes for figure in figures)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        "hnsw (ef_search)": [[0.91, 23456.7], [1.0, 900], [1.0, 899]],
        "flat": [[1.0, 23456.7]],
        "flat, GPU": [[1.0, 1e6]],
    }
    # The third dot lies on the second and shares its number.
    assert [text.get_text() for text in axes.texts] == ["64", "512"]
    assert axes.get_xlim()[0] == pytest.approx(0.9)
    # All found, and none found, can be drawn as well.
    draw_comparison(comparison(row(recall=1.0)), tmp_path / "plot.png")
    draw_comparison(comparison(row(recall=0.0)), tmp_path / "plot.png")
    with pytest.raises(UserError, match="cannot write"):
        draw_comparison(found, tmp_path / "none" / "plot.png")


def test_with_a_gpu_what_can_use_it_is_measured_on_both(file, monkeypatch):
    asked = []

    def measured(kind, task, *, gpu, **options):
        asked.append((kind, gpu))
        return [row(index=kind, gpu=gpu)]

    monkeypatch.setattr(benchmark_search, "measure_index", measured)
    monkeypatch.setattr("trainer.retrieval.indexes.faiss.gpus", lambda: 2)
    found = compare_file(file, SearchOptions(kinds=("flat", "hnsw", "ivf_pq")))
    both = [False, True]
    assert asked == [("flat", g) for g in both] + [("hnsw", False)] + [("ivf_pq", g) for g in both]
    assert found.notes == ()
    assert dataclasses.replace(found, rows=()).to_dict()["rows"] == ()

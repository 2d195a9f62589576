"""Pages of deep evaluations: what they show is what plain loops over every pair find."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import UserError
from trainer.launch import deep_report
from trainer.launch.clearing import find_old_run
from trainer.launch.deep_plots import draw_confusion
from trainer.launch.deep_report import report_file, report_run
from trainer.launch.evaluating import embed_split, measure
from trainer.launch.run_folder import RunFolder
from trainer.retrieval.deep import Confusion

from .pages import Page

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A finished run that these tests may write to."""
    folder = tmp_path_factory.mktemp("deep") / "small"
    return Path(shutil.copytree(finished[1].run_dir, folder))


@pytest.fixture(scope="module")
def reported(run):
    """(page, finds, numbers of --json, output) of the command."""
    numbers = run.parent / "numbers.json"
    out = RUNNER.invoke(
        app, ["evaluate", str(run), "--report", "--neighbours", "7", "--json", str(numbers)]
    )
    assert out.exit_code == 0, out.output
    finds = json.loads((run / "evaluation_retrieved.json").read_text())
    return Page(run / "evaluation.html"), finds, json.loads(numbers.read_text()), out.output


@pytest.fixture(scope="module")
def embedded(run):
    """(table, embeddings) of the test split, made once for the tests that only need numbers."""
    return embed_split(RunFolder.open(str(run)))


@pytest.fixture
def quick(embedded, undrawn, monkeypatch):
    """Reports that do not load the model either."""
    monkeypatch.setattr(deep_report, "embed_split", lambda *_: embedded)


@pytest.fixture
def undrawn(monkeypatch):
    """Reports whose plots are not rendered."""
    png = io.BytesIO()
    Image.new("RGB", (9, 9)).save(png, "PNG")
    monkeypatch.setattr("trainer.launch.deep_plots.as_png", lambda figure: png.getvalue())


def slow(table, embeddings, queries=None, items=None):
    """{query: [(similarity, item), ...] nearest first}, by loops in float64."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows = range(len(table))
    return {
        query: sorted(
            (
                (float(unit[query] @ unit[item]), item)
                for item in (rows if items is None else items)
                if item != query
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for query in (rows if queries is None else queries)
    }


def check_finds(finds, table, rankings, limit):
    """Compare what a JSON file says of each query with plain rankings."""
    names = table.label_names
    margins = {}
    for query, ranking in rankings.items():
        right = [pair for pair in ranking if table.label[pair[1]] == table.label[query]]
        wrong = [pair for pair in ranking if table.label[pair[1]] != table.label[query]]
        if right:
            margins[query] = right[0][0] - wrong[0][0], right[0]
    assert finds["queries"] == len(finds["retrieved"]) == len(margins)
    assert finds["skipped"] == len(rankings) - len(margins)
    told = [entry["margin"] for entry in finds["retrieved"]]
    assert told == sorted(told, reverse=True)
    assert {entry["row"] for entry in finds["retrieved"]} == set(margins)
    for entry in finds["retrieved"]:
        query = entry["row"]
        margin, (score, item) = margins[query]
        assert entry["margin"] == pytest.approx(margin, abs=3e-6)
        assert entry["label"] == names[table.label[query]]
        assert entry["path"] == table.path[query]
        assert entry["category"] == table.category[query]
        assert entry["domain"] == table.domain[query]
        nearest = entry["nearest_right"]
        assert nearest["score"] == pytest.approx(score, abs=3e-6)
        assert nearest["label"] == entry["label"]
        assert nearest["row"] == item
        assert [item for _, item in rankings[query]].index(item) == nearest["rank"] - 1
        assert len(entry["neighbours"]) == limit
        for found, (score, item) in zip(entry["neighbours"], rankings[query], strict=False):
            assert found["row"] == item
            assert found["path"] == table.path[item]
            assert found["score"] == pytest.approx(score, abs=3e-6)
            assert found["correct"] == (table.label[item] == table.label[query])


def test_the_finds_of_every_query_are_those_of_slow_rankings(reported, embedded):
    _, finds, _, _ = reported
    check_finds(finds, embedded[0], slow(*embedded), 7)
    assert finds["split"] == "test"
    assert "margin" in finds["difficulty"]


def test_the_numbers_are_those_of_plain_evaluation_and_of_a_slow_count(reported, run, embedded):
    page, _, numbers, output = reported
    plain = measure(RunFolder.open(str(run)).config(), *embedded)
    assert numbers["metrics"] == pytest.approx(plain.metrics, abs=1e-6)
    assert numbers["intervals"].keys() == plain.intervals.keys()
    table, _ = embedded
    rankings = slow(*embedded)
    sums = np.zeros((50, 4))
    for query, ranking in rankings.items():
        right = np.array([table.label[item] == table.label[query] for _, item in ranking])
        for k in range(1, 51):
            hits = right[:k].sum()
            sums[k - 1] += hits > 0, hits / right.sum(), hits / k, min(k, right.sum()) / k
    expected = 100 * sums / len(rankings)
    rows = page.tables["Precision and recall at every K"][1:]
    assert [row.cells[0] for row in rows] == [str(k) for k in range(1, 51)]
    for row, values in zip(rows, expected, strict=True):
        assert [float(cell) for cell in row.cells[1:]] == pytest.approx(values, abs=0.051)
    some = page.tables["Precision and recall at some K"][1:]
    assert [row.cells for row in some] == [
        row.cells for row in rows if row.cells[0] in ("1", "2", "3", "5", "10", "20", "30", "50")
    ]
    assert f"{len(rankings)} queries" in page.text
    for name in ("evaluation.html", "evaluation_retrieved.json"):
        assert str(run / name) in output.replace("\n", "")
    assert "Recall" in output


def test_categories_come_with_bars_and_confusions(reported, embedded):
    page, _, numbers, _ = reported
    table, _ = embedded
    right, total, pairs = {}, {}, {}
    for query, ranking in slow(*embedded).items():
        category, first = table.category[query], ranking[0][1]
        total[category] = total.get(category, 0) + 1
        right[category] = right.get(category, 0) + (table.label[first] == table.label[query])
        pair = category, table.category[first]
        pairs[pair] = pairs.get(pair, 0) + 1
    rows = page.tables["Recall@1 by category"]
    shares = []
    for row in rows[1:]:
        category = row.cells[0]
        share = 100 * right[category] / total[category]
        shares.append(share)
        assert float(row.cells[1]) == pytest.approx(share, abs=0.051)
        assert row.cells[-1] == str(total[category])
    assert len(rows) - 1 == len(total) > 2
    assert shares == sorted(shares, reverse=True)
    widths = [values["style"] for tag, values in page.tags if tag == "span" and "style" in values]
    assert widths == [f"width: {row.cells[1]}%" for row in rows[1:]]

    accuracy = sum(n for (true, found), n in pairs.items() if true == found) / len(table)
    assert f"By category: {100 * accuracy:.1f}% right" in page.text
    assert numbers["deep"]["first_neighbour"]["category"]["accuracy"] == pytest.approx(accuracy)
    assert {
        (part["category"], part["found"]): part["queries"] for part in numbers["deep"]["confusion"]
    } == pairs
    worst = max(n for (true, found), n in pairs.items() if true != found)
    mistakes = page.tables["Most frequent mistakes by category"][1:]
    assert [int(row.cells[2]) for row in mistakes] == sorted(
        (n for (true, found), n in pairs.items() if true != found), reverse=True
    )[:10]
    drawn = [image["alt"] for image in page.images if "Confusion matrix" in image["alt"]]
    assert f"over {len(total)} category names: {accuracy:.1%} of" in drawn[0]
    assert f"{worst} times" in drawn[0]
    assert f"over {len(np.unique(table.label))} label names" in drawn[1]
    assert f"By label: {100 * numbers['metrics']['recall_at_1']:.1f}% right" in page.text


def test_galleries_show_queries_from_easy_to_hard(reported):
    page, finds, _, _ = reported
    count = finds["queries"]
    galleries = [name for name in page.tables if re.search(r", from \d+$", name)]
    assert len(galleries) == 5
    starts = [int(name.rpartition(" ")[2]) for name in galleries]
    assert starts == [int(place * (count - 8)) + 1 for place in (0, 0.25, 0.5, 0.75, 1)]
    shown = 0
    for name, start in zip(galleries, starts, strict=True):
        rows = page.tables[name][1:]
        assert len(rows) == 8
        for row, entry in zip(rows, finds["retrieved"][start - 1 :], strict=False):
            cells = [cell.strip() for cell in row.cells]
            assert cells[0] == f"{entry['label']}margin {entry['margin']:+.3f}"
            for cell, item in zip(cells[1:6], entry["neighbours"], strict=False):
                mark = "✓" if item["correct"] else "✗"
                assert cell == f"{item['label']}{mark} {item['score']:.3f}"
            shown += 6
            nearest = entry["nearest_right"]
            if nearest["rank"] > 5:
                words = f"✓ rank {nearest['rank']}, {nearest['score']:.3f}"
                assert cells[6] == nearest["label"] + words
                shown += 1
            else:
                assert "".join(cells[6:]) == ""
    pictures = [image for image in page.images if "labelled" in image["alt"]]
    assert len(pictures) == shown
    for image in pictures:
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as opened:
            assert max(opened.size) == 112
            assert opened.format == "JPEG"


def test_the_page_needs_nothing_else_and_is_small(reported, run):
    page, _, _, _ = reported
    assert page.html.startswith("<!doctype html>")
    assert len(page.html) < 4e6
    for _, values in page.tags:
        assert not values.get("src", "data:").startswith(("http", "//", "/"))
        assert "href" not in values
    assert not re.search(r"url\(|@import", page.html)
    assert all(image["alt"] for image in page.images)
    assert not [name for name in os.listdir(run) if name.startswith(".evaluation")]
    # A fresh start may delete what the command wrote.
    assert find_old_run(RunFolder.open(str(run)).config(), str(run)) is not None


def test_queries_of_one_domain_search_the_other(run, embedded, quick, tmp_path):
    shutil.copy(run / "config.json", tmp_path / "config.json")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"query_domain": "street", "gallery_domain": "shop"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    table, embeddings = embedded
    written = report_run(RunFolder.open(str(tmp_path)))
    finds = json.loads(Path(written.retrieved).read_text())
    queries = np.flatnonzero(table.domain == "street").tolist()
    items = np.flatnonzero(table.domain == "shop").tolist()
    check_finds(finds, table, slow(table, embeddings, queries, items), 10)
    text = " ".join(Page(written.page).text.split())
    assert f"{len(queries)} queries from the domain “street” search {len(items)} images" in text
    assert "of the domain “shop”. An item is right" in text


def test_few_queries_are_all_shown_once_and_pictures_that_are_gone_are_named(
    run, embedded, monkeypatch, quick, tmp_path
):
    table, embeddings = embedded
    classes = np.unique(table.label)[:3]
    rows = np.flatnonzero(np.isin(table.label, classes))
    few = table.select(rows)
    paths = few.path.copy()
    paths[0] = str(tmp_path / "gone.jpg")
    few = dataclasses.replace(few, path=paths)
    monkeypatch.setattr(deep_report, "embed_split", lambda *_: (few, embeddings[rows]))
    written = report_run(RunFolder.open(str(run)), str(tmp_path / "few.html"), neighbours=2)
    page = Page(written.page)
    galleries = [rows[1:] for name, rows in page.tables.items() if ", from " in name]
    assert sum(map(len, galleries)) == len(few) < 40
    assert "cannot be read" in page.text
    finds = json.loads(Path(written.retrieved).read_text())
    assert {len(entry["neighbours"]) for entry in finds["retrieved"]} == {2}
    assert "Confusion matrix over 3 label names" in page.html


def save(path, **arrays):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(90, 8)).astype(np.float32)
    labels = np.arange(90) % 30
    np.savez(path, **({"embeddings": embeddings, "labels": labels} | arrays))
    return str(path)


def test_embeddings_in_a_file_have_a_page_without_pictures(undrawn, tmp_path):
    names = np.array(['<b>"x"&$', "shop"])[np.arange(90) % 2]
    file = save(tmp_path / "e.npz", domains=names)
    to = tmp_path / "page.html"
    out = RUNNER.invoke(app, ["evaluate", "--embeddings", file, "--report", "--to", str(to)])
    assert out.exit_code == 0, out.output
    page = Page(to)
    assert "no pictures to show" in page.text
    assert {row.cells[0] for row in page.tables["Recall@1 by domain"][1:]} == set(names)
    assert "Confusion matrix over 30 label names" in page.html
    finds = json.loads((tmp_path / "page_retrieved.json").read_text())
    assert finds["split"] is None
    assert set(finds["retrieved"][0]) == {
        *("row", "label", "domain", "margin", "nearest_right", "neighbours")
    }
    # Its own page is replaced.
    assert (
        RUNNER.invoke(
            app, ["evaluate", "--embeddings", file, "--report", "--to", str(to)]
        ).exit_code
        == 0
    )


def test_without_categories_and_domains_a_line_says_so(undrawn, tmp_path):
    written = report_file(save(tmp_path / "e.npz"), str(tmp_path / "page.html"))
    assert "neither several categories nor several domains" in Page(written.page).text


def test_more_classes_than_can_be_seen_are_not_drawn(undrawn, tmp_path):
    labels = np.arange(90) % 45
    written = report_file(save(tmp_path / "e.npz", labels=labels), str(tmp_path / "page.html"))
    page = Page(written.page)
    assert "A matrix is drawn for up to 40" in page.text
    assert "Confusion matrix" not in page.html
    assert "Most frequent mistakes by label" in page.tables


def test_a_matrix_may_have_any_names_and_many_classes():
    rng = np.random.default_rng(0)
    keys = rng.choice(40 * 40, 200, replace=False)
    names = tuple(f"$x^{{{n}}}$ 帽子" if n else "" for n in range(40))
    confusion = Confusion(names, keys // 40, keys % 40, rng.integers(1, 99, 200), 0)
    with np.errstate(all="raise"):
        drawn = draw_confusion(confusion, "category")
    with Image.open(io.BytesIO(drawn.png)) as picture:
        assert picture.width < 2000
    assert "(none)" in drawn.alt or "帽子" in drawn.alt


def fails(*arguments):
    out = RUNNER.invoke(app, ["evaluate", *arguments])
    assert out.exit_code == 2, out.output
    assert len(out.output.strip().splitlines()) == 1, out.output
    return out.output


def test_mistakes_are_told_in_one_line_before_any_work(run, tmp_path, monkeypatch):
    file = save(tmp_path / "e.npz")
    assert "give --report as well" in fails(str(run), "--to", "x.html")
    assert "give --to FILE.html" in fails("--embeddings", file, "--report")
    with pytest.raises(UserError, match="not a run folder"):
        report_run(RunFolder.open(str(tmp_path)))
    monkeypatch.setattr(deep_report, "embed_split", lambda *_: 1 / 0)
    for to, words in (
        (tmp_path / "page.txt", "ends in .html"),
        (tmp_path / "none" / "page.html", "there is no folder"),
        (tmp_path / "mine.html", "not a page of"),
        (tmp_path / "other.html", "not a page of"),
    ):
        (tmp_path / "mine.html").write_text("<p>my notes")
        (tmp_path / "other_retrieved.json").write_text("{}")
        with pytest.raises(UserError, match=words):
            report_run(RunFolder.open(str(run)), str(to))
    assert (tmp_path / "mine.html").read_text() == "<p>my notes"


def test_a_run_that_has_not_finished_is_named(run, tmp_path):
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(UserError, match="model"):
        report_run(RunFolder.open(str(tmp_path)))
    assert os.listdir(tmp_path) == ["config.json"]

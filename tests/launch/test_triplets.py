"""The command that writes lists of triplets, from its arguments to training on what it wrote."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.launch.conftest import SMALL
from trainer.cli import app
from trainer.config import JobConfig, Settings, UserError, get
from trainer.launch.triplets import Depths, TripletOptions, make_triplets
from trainer.retrieval.descriptors import SCORERS, describe

RUNNER = CliRunner()
PARAMETERS = {
    name.split(".")[1]: value for name, value in SMALL.items() if name.startswith("dataset.")
}


@pytest.fixture(scope="session")
def shop(pictures):
    """Folder of a generated catalogue: items.csv with boxes, domains and categories; images/."""
    table = get("dataset", "synthetic").build(str(pictures), **PARAMETERS)
    return Path(table.path[0]).parents[1]


def facts(shop):
    """What items.csv says of each name, read without the library."""
    with (shop / "items.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)]


def product(name):
    """The product that a generated picture shows: its file name begins with the number."""
    return name.rsplit("/", 1)[-1].split("-")[0]


def command(*arguments):
    result = RUNNER.invoke(app, ["triplets", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_labels_every_row_is_what_it_says(shop, tmp_path):
    out = command(
        shop, "--to", tmp_path / "new" / "train.csv", "--val", tmp_path / "val.csv",
        "--val-share", 0.25, "--in-class-share", 0.4, "--query-domain", "street",
        "--gallery-domain", "shop", "--per-anchor", 3, "--json", tmp_path / "made.json",
        "--picture", tmp_path / "sheet.png",
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    known = facts(shop)
    lists = [rows_of(tmp_path / "new" / "train.csv"), rows_of(tmp_path / "val.csv")]
    made = json.loads((tmp_path / "made.json").read_text())
    products = []
    for rows, written in zip(lists, made["files"], strict=True):
        assert len(rows) == len(set(rows)) == written["triplets"]
        in_class = 0
        for anchor, positive, negative in (map(known.get, row) for row in rows):
            assert anchor["label"] == positive["label"] != negative["label"]
            assert (anchor["domain"], positive["domain"], negative["domain"]) == (
                "street", "shop", "shop",
            )  # fmt: skip
            assert {row["split"] for row in (anchor, positive, negative)} == {"train"}
            in_class += anchor["category"] == negative["category"]
        assert in_class == written["in_class"]
        products.append({known[name]["label"] for row in rows for name in row})
    # All street pictures of the split are anchors, in either list.
    anchors = {row[0] for rows in lists for row in rows}
    assert anchors == {
        name for name, row in known.items() if (row["split"], row["domain"]) == ("train", "street")
    }
    assert not products[0] & products[1]
    assert len(products[1]) == 6  # a quarter of 24
    share = (made["files"][0]["in_class"] + made["files"][0]["replaced"]) / len(lists[0])
    assert share == pytest.approx(0.4, abs=0.05)
    assert Image.open(tmp_path / "sheet.png").size[0] > 1000
    assert f"data_path={shop}" in out.output


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_the_rows(shop, tmp_path):
    with (shop / "items.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    twisted = tmp_path / "shop"
    twisted.mkdir()
    (twisted / "images").symlink_to(shop / "images")
    with (twisted / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *reversed(rows)])
    for flags in ([], ["--hard"], ["--unlabelled", "--in-class-from", 4, "--in-class-to", 20]):
        found = []
        for number, (source, seed) in enumerate(((shop, 3), (twisted, 3), (shop, 4))):
            paths = tmp_path / f"{number}.csv", tmp_path / f"{number}-val.csv"
            out = command(
                source, "--to", paths[0], "--val", paths[1], "--seed", seed, "--overwrite",
                "--val-share", 0.3, *flags,
            )  # fmt: skip
            assert out.exit_code == 0, out.output
            found.append(b"".join(path.read_bytes() for path in paths))
        assert found[0] == found[1] != found[2]


def test_a_job_trains_on_what_was_written(shop, tmp_path):
    from trainer.launch import job

    lists = {"train_csv": tmp_path / "train.csv", "val_csv": tmp_path / "val.csv"}
    options = TripletOptions(unlabelled=True, depths=Depths(3, 2, 4, 20), val_share=0.3)
    made = make_triplets(str(shop), str(lists["train_csv"]), options, val=str(lists["val_csv"]))
    values = {
        **{
            name: value for name, value in SMALL.items() if not name.startswith(("dataset", "loss"))
        },
        **{name: str(path) for name, path in lists.items()},
        "dataset": "triplets",
        "dataset.images": made.images,
        "data_path": made.images,
        "loss": "hinge_loss",
        "sampler": "triplets",
        "batch_size": 8,
        "steps": 2,
        "train.validate_every": 2,
    }
    config = JobConfig.from_mapping(values, [], Settings({}), name="written")
    result = job.run(config, run_dir=str(tmp_path / "run"))
    assert result.trained
    table = config.build("dataset", made.images)
    listed = [tuple(str(table.path[row]) for row in rows) for rows in table.triplets]
    written = rows_of(lists["train_csv"]) + rows_of(lists["val_csv"])
    assert listed == [tuple(f"{shop}/{name}" for name in row) for row in written]
    assert table.problems == ()


@pytest.fixture(scope="session")
def likeness(shop, tmp_path_factory):
    """(rows, how often each scorer alone is right) of bare pictures, without table or labels."""
    to = tmp_path_factory.mktemp("likeness") / "triplets.csv"
    out = command(shop / "images", "--unlabelled", "--to", to, "--per-anchor", 1)
    assert out.exit_code == 0, out.output
    names = sorted(path.name for path in (shop / "images").iterdir())
    assert len(names) == 384
    vectors = describe([str(shop / "images" / name) for name in names]).vectors
    right = {}
    for name, table in vectors.items():
        similar = table @ table.T
        np.fill_diagonal(similar, -1)
        nearest = similar.argmax(axis=1)
        right[name] = np.mean(
            [product(names[a]) == product(names[b]) for a, b in enumerate(nearest)]
        )
    return rows_of(to), right


def test_agreement_is_right_far_more_often_than_chance_and_any_scorer_alone(likeness):
    rows, alone = likeness
    right = np.mean([product(a) == product(p) for a, p, _ in rows])
    chance = 7 / 383
    assert set(alone) == set(SCORERS)
    assert right > 15 * chance
    assert right >= max(alone.values())
    assert len(rows) > 0.2 * 384


def test_negatives_by_likeness_hardly_ever_show_the_anchors_product(likeness):
    rows, _ = likeness
    assert np.mean([product(a) == product(n) for a, _, n in rows]) < 0.04


def test_folders_may_name_categories(shop, tmp_path):
    for name, row in facts(shop).items():
        folder = tmp_path / "shop" / row["category"] / "deeper"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(shop / name, folder)
    out = command(
        tmp_path / "shop", "--unlabelled", "--folder-categories", "--to", tmp_path / "t.csv",
        "--in-class-from", 5, "--in-class-to", 15, "--scorers", "color, shape",
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    kinds = [tuple(name.split("/")[0] for name in row) for row in rows_of(tmp_path / "t.csv")]
    assert all(a == p for a, p, _ in kinds)
    assert np.mean([a == n for a, _, n in kinds]) == pytest.approx(0.5, abs=0.05)


def test_trunk_and_run_are_scorers(shop, finished, tmp_path):
    _, result = finished
    to = tmp_path / "t.csv"
    out = command(
        shop / "images", "--unlabelled", "--to", to, "--scorers", "", "--run", result.run_dir,
        "--trunk", "convnet_small(widths=(8, 16))", "--weights", "none", "--image-size", 32,
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    rows = rows_of(to)
    assert np.mean([product(a) == product(p) for a, p, _ in rows]) > 0.15
    out = command(shop, "--unlabelled", "--to", to, "--trunk", "convnet_smal", "--overwrite")
    assert "did you mean 'convnet_small'" in out.output


def paint(path, seed, side=24):
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(path)


@pytest.fixture
def small(tmp_path):
    """A folder of labels with three pictures each."""
    for number in range(12):
        paint(tmp_path / "shop" / f"label-{number // 3}" / f"{number}.png", number)
    return tmp_path / "shop"


def test_folders_of_labels(small, tmp_path):
    made = make_triplets(str(small), str(tmp_path / "t.csv"), TripletOptions())
    rows = rows_of(tmp_path / "t.csv")
    assert len(rows) == made.files[0].triplets == 24
    for row in rows:
        anchor, positive, negative = (name.split("/")[0] for name in row)
        assert anchor == positive != negative
    assert made.left_out == 0
    assert not Path(made.log).exists()


def test_what_cannot_be_used_is_left_out_and_named(small, tmp_path):
    (small / "label-0" / "0.png").write_bytes(b"broken")
    (small / "label-1" / "notes.txt").write_text("no picture")
    paint(small / " label-4" / "12.png", 12)
    out = command(small, "--to", tmp_path / "t.csv")
    assert out.exit_code == 0, out.output
    log = (tmp_path / "t.csv.bad_images.log").read_text()
    assert len(log.splitlines()) == 3
    assert "label-0/0.png: not a picture" in log
    assert "label-1/notes.txt:0: its ending" in log
    assert " label-4/12.png: a list of triplets cannot name" in log
    assert "3 pictures and rows left out" in out.output
    assert len(rows_of(tmp_path / "t.csv")) == 22
    assert not any(
        "0.png" in name.split("/")[1:] for row in rows_of(tmp_path / "t.csv") for name in row
    )
    # Once they are gone, so is the complaint.
    for path in ("label-0/0.png", "label-1/notes.txt", " label-4/12.png"):
        (small / path).unlink()
    assert command(small, "--to", tmp_path / "t.csv", "--overwrite").exit_code == 0
    assert (tmp_path / "t.csv.bad_images.log").read_text() == ""


def test_copies_are_no_positives_and_no_negatives(shop, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    names = sorted(path.name for path in (shop / "images").iterdir())[:120]
    for name in names:
        shutil.copy(shop / "images" / name, folder)
    options = TripletOptions(unlabelled=True, depths=Depths(3, 2, 10, 40))
    alone = make_triplets(str(folder), str(tmp_path / "alone.csv"), options)
    assert alone.left_out == 0
    for name in names[:40]:
        shutil.copy(folder / name, folder / f"{name[:-4]}-copy.jpg")
    made = make_triplets(str(folder), str(tmp_path / "t.csv"), options)
    assert made.left_out == 40
    log = Path(made.log).read_text().splitlines()
    assert len(log) == 40
    assert all("a copy of" in line for line in log)
    assert made.files[0].triplets == alone.files[0].triplets
    # One of each pair stays, and it is the same one everywhere.
    used = {name for row in rows_of(tmp_path / "t.csv") for name in row}
    assert not {name for name in used if name.replace("-copy", "") in used - {name}}


def test_a_file_that_shows_several_products_is_left_out(small, tmp_path):
    lines = ["path,label,x,y,w,h"]
    lines += [f"label-{n // 3}/{n}.png,p{n // 3},,,," for n in range(12)]
    lines += ["label-0/0.png,p1,2,2,9,9", "label-0/1.png,p0,2,2,9,9"]
    (small / "items.csv").write_text("\n".join(lines))
    made = make_triplets(str(small), str(tmp_path / "t.csv"), TripletOptions(per_anchor=9))
    assert made.left_out == 3
    used = {name for row in rows_of(tmp_path / "t.csv") for name in row}
    assert used == {f"label-{n // 3}/{n}.png" for n in range(1, 12)}


def test_names_count_from_the_folder_that_the_pictures_share(small, tmp_path):
    table = tmp_path / "tables" / "items.csv"
    table.parent.mkdir()
    rows = [f"../shop/label-{n // 3}/{n}.png,{n // 3}" for n in range(12)]
    table.write_text("\n".join(["path,label", *rows]))
    made = make_triplets(str(table), str(tmp_path / "t.csv"), TripletOptions())
    assert made.images == str(small)
    reader = get("dataset", "triplets")
    read = reader.build(made.images, train_csv=str(tmp_path / "t.csv"))
    assert len(read.triplets) == 24
    assert read.problems == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-anchor", 0], "per-anchor 0: at least 1"),
        (["--per-label", 0], "per-label 0: at least 1"),
        (["--in-class-share", 1.5], "in-class-share 1.5: a share is from 0 to 1"),
        (["--val-share", 1], "val-share 1.0: above 0 and below 1"),
        (["--seed", -1], "seed -1: a seed is 0 or more"),
        (["--unlabelled", "--hard"], "hard and per-label need labels"),
        (["--folder-categories"], "folder-categories is for catalogues without labels"),
        (["--unlabelled", "--scorers", ""], "there is no scorer"),
        (["--unlabelled", "--scorers", "color,form"], "unknown scorer 'form'"),
        (["--unlabelled", "--agree", 4], "4 scorers have to agree, and there are 3"),
        (["--unlabelled", "--in-class-from", 2], "the three have to ascend"),
        (["--query-domain", "street"], "query-domain 'street': .*it names no domains"),
        (["--split", "test"], "split='test' has no pictures"),
        (["--val", "val.csv", "--val-share", 0.9], "too few are left to train on"),
        (["--unlabelled", "--agree", 3, "--near", 1, "--scorers", "color,shape,texture"],
         "no triplet can be made for .*3 scorers have among their first 1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_ends_in_one_line(small, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for path in small.glob("label-[23]/*"):
        path.unlink()
    with pytest.raises(UserError, match=message) as caught:
        command(small, "--to", "t.csv", *arguments, "--debug")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t.csv").exists()


def test_missing_and_existing_files(small, tmp_path):
    to = tmp_path / "t.csv"
    assert "does not exist" in command(tmp_path / "none", "--to", to).output
    (tmp_path / "empty").mkdir()
    assert "holds no pictures laid out" in command(tmp_path / "empty", "--to", to).output
    out = command(tmp_path / "empty", "--unlabelled", "--to", to).output
    assert "holds neither an items.csv nor pictures" in out
    to.write_text("mine")
    assert "exists: choose another name, or replace it with --overwrite" in (
        command(small, "--to", to).output
    )
    assert to.read_text() == "mine"
    assert "give them two names" in command(small, "--to", to, "--val", to).output
    assert command(small, "--to", to, "--overwrite").exit_code == 0
    assert len(rows_of(to)) == 24
    for path in small.glob("label-[123]/*"):
        path.unlink()
    result = command(small, "--to", to, "--overwrite")
    assert result.exit_code == 2
    assert "no triplet can be made" in result.output
    assert len(rows_of(to)) == 24  # what was there stays

"""`python -m trainer.task` with MILDNet's own flags, on MILDNet's own kind of data."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer.config import get
from trainer.launch import summary
from trainer.task import app

RUNNER = CliRunner()


@pytest.fixture
def asked(monkeypatch):
    """The (config, options) that a command would run."""
    calls = []
    monkeypatch.setattr(
        summary, "run_and_show", lambda config, **options: calls.append((config, options))
    )
    return calls


def test_the_released_flags_make_the_released_job(asked, monkeypatch):
    monkeypatch.setenv("HYPERDASH_KEY", "")  # which the flag sets
    flags = (
        "--job-dir out/mildnet --data-path dataset/tops --model-id mildnet_vgg16 "
        "--loss contrastive_loss --optimizer mo --train-csv tops_train_shuffle.csv "
        "--val-csv tops_val_full.csv --train-epocs 30 --batch-size 16 --lr 0.001 "
        "--weights-path None --is-tpu False --hyperdash-key k"
    )
    out = RUNNER.invoke(app, flags.split())
    assert out.exit_code == 0, out.output
    config, options = asked[0]
    assert options == {"fresh": False, "yes": False, "run_dir": "out/mildnet"}
    values = config.to_dict()
    expected = {
        "model_id": "mildnet_vgg16",
        "loss": "contrastive_loss",
        "optimizer": "mo",
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "data_path": "dataset/tops",
        "dataset": "triplets",
        "sampler": "triplets",
        "augment": "mildnet",
        "train_csv": "tops_train_shuffle.csv",
        "val_csv": "tops_val_full.csv",
        "train_epochs": 30.0,
        "batch_size": 16,
        "lr": 0.001,
        "model.weights": "none",
        "train.strategy": "auto",
        "trackers": ["csv", "tensorboard", "hyperdash"],
    }
    assert {key: values[key] for key in expected} == expected
    assert os.environ["HYPERDASH_KEY"] == "k"


def test_flags_win_over_a_config_and_set_over_flags(asked, tmp_path):
    path = tmp_path / "a.cnf"
    path.write_text("model_id=mildnet\nloss=triplet_semihard\nlr=0.5\nbatch_size=8\n")
    out = RUNNER.invoke(app, [str(path), "--lr", "0.1", "--batch-size", "16", "--set", "lr=0.2"])
    assert out.exit_code == 0, out.output
    config = asked[0][0]
    assert (config.name, config.lr, config.batch_size) == ("a", 0.2, 16)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "give a job config"),
        ("--model-id mildnet", "--loss"),
        ("--model-id mildnet --loss hinge_lss", "hinge_loss"),
        ("--model-id mildnet --loss hinge_loss --lr fast", "lr"),
        ("--model-id mildnet --loss hinge_loss --is-tpu maybe", "--is-tpu maybe: say true or fal"),
        ("no-such.cnf", "no-such.cnf"),
    ],
)
def test_what_is_wrong_with_the_flags_is_one_line(asked, flags, message):
    out = RUNNER.invoke(app, flags.split())
    assert out.exit_code == 2
    assert message in out.output
    assert "Traceback" not in out.output
    assert asked == []


def test_a_job_on_triplet_files_and_a_zip_of_images(pictures, tmp_path):
    table = get("dataset", "synthetic").build(str(pictures), classes=48, views=8, size=64)
    data = tmp_path / "tops"
    data.mkdir()
    with zipfile.ZipFile(data / "tops.zip", "w") as archive:
        for path in table.path:
            archive.write(path, Path(path).name)
    names = [Path(path).name for path in table.path]
    assert len(set(names)) == len(names)
    by_class = {code: [i for i, c in enumerate(table.label) if c == code] for code in table.classes}
    codes = list(by_class)
    for file, chosen in (("train.csv", codes[:20]), ("val.csv", codes[20:30])):
        rows = []
        for code, other in zip(chosen, chosen[1:] + chosen[:1], strict=True):
            anchor, positive, third = by_class[code][:3]
            rows.append((anchor, positive, by_class[other][0]))
            rows.append((positive, third, by_class[other][1]))
        text = "".join(",".join(names[i] for i in row) + "\n" for row in rows)
        (data / file).write_text(text)
    out = RUNNER.invoke(
        app,
        [
            "--job-dir", str(tmp_path / "run"), "--data-path", str(data), "--model-id", "mildnet",
            "--loss", "hinge_loss", "--optimizer", "mo", "--train-csv", "train.csv",
            "--val-csv", "val.csv", "--train-epocs", "2", "--batch-size", "4", "--lr", "0.01",
            "--set", "image_size=32", "--set", "model.trunk=convnet_small(widths=(8, 16))",
            "--set", "train.log_every=10",
        ],
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    header, *rows = (tmp_path / "run" / "training.csv").read_text().splitlines()
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert last["step"] == "20"  # 40 rows, 4 triplets a step, 2 epochs
    assert 0 <= float(last["triplet_accuracy"]) <= 100
    assert float(last["val_loss"]) > 0
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    # MILDNet keeps the weights of the least validation loss.
    losses = [
        float(dict(zip(header.split(","), row.split(","), strict=True))["val_loss"] or "inf")
        for row in rows
    ]
    assert evaluation["training"]["best_score"] == pytest.approx(min(losses), rel=1e-5)

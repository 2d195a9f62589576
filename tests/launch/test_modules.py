"""Jobs on modules of the user's own: what they must give, and that they train, stop and go on."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import trainer.cli
import trainer.examples.ranker
import trainer.task
import trainer.training.loop
from trainer.config import JobConfig, UserError
from trainer.config.settings import Settings
from trainer.launch import job, summary
from trainer.launch.evaluating import evaluate_run, load_model
from trainer.launch.modules import build_loss, build_model, read_datasets, training_loop
from trainer.launch.run_folder import RunFolder
from trainer.training.interrupts import Interrupted

EXAMPLE = "trainer.examples.ranker"

#: Makes the example a matter of seconds.
SMALL = ("steps=6", "image_size=32", "batch_size=16", "train.validate_every=3", "train.log_every=1")

HEAD = """
import keras
from trainer.data.table import ItemTable

config = {"loss": "triplet_semihard", "image_size": 8}

def table(*names, label="l"):
    return ItemTable.from_columns([f"/d/{n}.jpg" for n in names], [label] * len(names))

def datasets():
    return {"trn": table("a", "b"), "vld": table("c")}

def build(image_size):
    images = keras.Input((image_size, image_size, 3))
    return keras.Model(images, keras.layers.Dense(4)(keras.layers.Flatten()(images)))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the working folder and return the config that names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, *overrides, name="module_of_mine"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return JobConfig.from_module(name, overrides, Settings({}))

    return write


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the pictures of the example are drawn, once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILDNET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """(config, result) of a whole job on the example module."""
    config = JobConfig.from_module(EXAMPLE, SMALL, Settings({}))
    return config, job.run(config, run_dir=str(tmp_path_factory.mktemp("runs") / "ranker"))


def test_the_example_goes_through_a_whole_job(trained):
    config, result = trained
    folder = Path(result.run_dir)
    assert result.steps == 6
    assert (folder / "report.html").is_file()
    assert (folder / "index" / "items.csv").is_file()
    assert JobConfig.load(folder / "config.cnf") == config
    assert 'model_module="trainer.examples.ranker"' in (folder / "config.cnf").read_text()


def test_a_run_keeps_the_source_of_its_module(trained):
    _, result = trained
    folder = Path(result.run_dir)
    source = Path(trainer.examples.ranker.__file__).read_bytes()
    assert (folder / "code" / f"{EXAMPLE}.py").read_bytes() == source
    noted = json.loads((folder / "environment.json").read_text())["model_module"]
    assert noted["name"] == EXAMPLE
    assert noted["sha256"] == hashlib.sha256(source).hexdigest()


def test_a_run_finds_data_and_layers_of_its_module_again(trained):
    _, result = trained
    run = RunFolder.open(result.run_dir)
    assert evaluate_run(run).metrics == pytest.approx(result.trained, abs=1e-9)
    assert load_model(run).output_shape == (None, 64)


def test_a_module_that_has_changed_is_kept_beside_its_older_form(trained, tmp_path, caplog):
    from trainer.launch.modules import note_sources

    config, _ = trained
    (tmp_path / "code").mkdir()
    old = tmp_path / "code" / f"{EXAMPLE}.py"
    old.write_text("# as it was\n")
    digest = note_sources(RunFolder(str(tmp_path)), config)["model_module"]["sha256"]
    assert f"{EXAMPLE} has changed since the run began" in caplog.text
    assert old.read_text() == "# as it was\n"
    newer = tmp_path / "code" / f"{EXAMPLE}.{digest[:8]}.py"
    assert newer.read_bytes() == Path(trainer.examples.ranker.__file__).read_bytes()


CHANGE = """                with open("steps.txt", "a") as file:
                    file.write(f"{step}\\n")
                if step == 4 and not os.path.exists("stopped"):
                    open("stopped", "w").close()
                    os.kill(os.getpid(), 15)
"""


def test_a_copy_of_the_loop_trains_in_place_of_it_and_goes_on_exactly(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = Path(trainer.training.loop.__file__).read_text()
    after = "                progress.advance()\n"
    assert source.count(after) == 1
    text = source.replace("import logging\n", "import logging\nimport os\n", 1)
    (tmp_path / "loop_of_mine.py").write_text(text.replace(after, after + CHANGE))
    own = JobConfig.from_module(EXAMPLE, (*SMALL, "trainer=loop_of_mine"), Settings({}))
    whole = JobConfig.from_module(EXAMPLE, SMALL, Settings({}))

    job.run(whole, run_dir="whole", training_only=True)
    assert not Path("steps.txt").exists()
    with pytest.raises(Interrupted, match="step 4"):
        job.run(own, run_dir="parts", training_only=True)
    assert Path("steps.txt").read_text() == "1\n2\n3\n4\n"
    job.run(own, run_dir="parts", training_only=True)
    assert Path("steps.txt").read_text() == "1\n2\n3\n4\n5\n6\n"
    assert Path("parts/code/loop_of_mine.py").read_text() == text.replace(after, after + CHANGE)

    one, two = (
        np.load(f"{run}/checkpoints/step-000000006.npz", allow_pickle=False)
        for run in ("whole", "parts")
    )
    assert set(one.files) == set(two.files)
    for key in set(one.files) - {"meta"}:
        assert one[key].tobytes() == two[key].tobytes(), key
    with pytest.raises(UserError, match=r"another config \(trainer: , not loop_of_mine\)"):
        job.run(whole, run_dir="parts")


def test_tables_of_a_module_become_one_with_splits(module):
    config = module(HEAD.replace('"vld": table("c")', '"test": table("c", "d", label="m")'))
    table = read_datasets(config)
    assert table.path.tolist() == ["/d/a.jpg", "/d/b.jpg", "/d/c.jpg", "/d/d.jpg"]
    assert table.split.tolist() == ["train", "train", "test", "test"]
    assert [table.label_names[code] for code in table.label] == ["l", "l", "m", "m"]


def test_labels_are_the_same_where_their_text_is_and_triplets_keep_their_rows(module):
    text = HEAD.replace(
        'return {"trn": table("a", "b"), "vld": table("c")}',
        """
    def part(labels, triplets):
        names = [f"/d/{label}{n}.jpg" for n, label in enumerate(labels)]
        boxes = [[0, 0, 3, n + 1] for n in range(len(labels))]
        return ItemTable.from_columns(
            names, labels, box=boxes, triplets=triplets, domain=labels, problems=["x:1: bad"]
        )
    return {"train": part("zyz", [[0, 2, 1]]), "val": part("ayy", [[1, 2, 0]])}
""",
    )
    table = read_datasets(module(text))
    assert [table.label_names[code] for code in table.label] == list("zyzayy")
    assert table.triplets.tolist() == [[0, 2, 1], [4, 5, 3]]
    assert table.domain.tolist() == list("zyzayy")
    assert table.box[:, 3].tolist() == [1, 2, 3, 1, 2, 3]
    assert table.problems == ("x:1: bad",)
    assert len(table.in_split("val").triplets) == 1


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ("None", "returns nothing, not a mapping of train, val, test"),
        ("[table('a')]", "returns a list, not a mapping"),
        ("{'train': table('a'), 'valid': table('b')}", r"gives 'valid'; allowed are train"),
        ("{'train': table('a'), 'trn': table('b')}", "gives train under two names"),
        ("{'train': table('a'), 'val': ['b.jpg']}", r"\['val'\] is a list, not an ItemTable"),
        ("{'val': table('a')}", "gives no train; it has val"),
        ("{'trn': table('a')}", "gives train alone; give test or val too"),
    ],
)
def test_datasets_that_are_none_are_one_line(module, datasets, message):
    config = module(HEAD.replace('{"trn": table("a", "b"), "vld": table("c")}', datasets))
    with pytest.raises(UserError, match=rf"^model_module=module_of_mine: datasets\(\).*{message}"):
        read_datasets(config)


def test_names_of_layers_do_not_depend_on_what_was_built_before(module):
    config = module(HEAD)
    paths = [[weight.path for weight in build_model(config).weights] for _ in range(2)]
    assert paths[0] == paths[1] == ["dense/kernel", "dense/bias"]


LAYER = """
class Twice(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def call(self, x):
        return x * self.factor
"""
DENSE = "keras.layers.Dense(4)(keras.layers.Flatten()(images))"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return keras.Model", "keras.Model", r"build\(8\) returns nothing, not a keras.Model"),
        ("Input((image_size", "Input((16", r"takes \(None, 16, 8, 3\), not images \(8, 8, 3\)"),
        ("image_size, 3))", "image_size, 1))", r"takes \(None, 8, 8, 1\)"),
        ("keras.Model(images", "keras.Model([images, keras.Input((2,))]", "takes several of shape"),
        (DENSE, "images", r"gives \(None, 8, 8, 3\), not one embedding an image: \(None, D\)"),
        (DENSE, f"[{DENSE}, {DENSE}]", "gives several of shapes"),
        (
            "keras.Model(images, " + DENSE,
            "keras.Sequential([keras.layers.Dense(4)]",
            "shapes are not known before it is called",
        ),
        (DENSE, f"keras.layers.Lambda(lambda x: x)({DENSE})", "can't be saved and loaded.*Lambda"),
        (DENSE, f"Twice(2)({DENSE})", "can't be saved and loaded"),
        (
            DENSE,
            "keras.layers.Dense(4, name='a')(keras.layers.Dense(5, name='a')"
            "(keras.layers.Flatten()(images)))",
            "name",
        ),
    ],
)
def test_a_model_that_is_no_embedding_model_is_one_line(module, old, new, message):
    assert old in HEAD
    config = module(HEAD.replace(old, new, 1) + LAYER)
    # Keras itself refuses two layers of one name.
    with pytest.raises((UserError, ValueError), match=message) as error:
        build_model(config)
    if isinstance(error.value, UserError):
        assert "\n" not in str(error.value)


LOSS = """
def loss():
    made = lambda labels, embeddings: 0.0
    made.takes = "triplets"
    return made
"""


def test_the_loss_is_the_configs_else_the_modules(module):
    without = HEAD.replace('"loss": "triplet_semihard", ', "")
    assert build_loss(module(HEAD + LOSS)).__class__.__name__ == "TripletSemihard"
    own = build_loss(module(without + LOSS, "sampler=random_triplets"))
    assert own(0, 0) == 0.0
    with pytest.raises(UserError, match=r"learns from triplets, but sampler 'classes_per_batch'"):
        build_loss(module(without + LOSS))
    with pytest.raises(UserError, match=r"set loss in its config, or define loss\(\)"):
        build_loss(module(without))
    with pytest.raises(UserError, match=r"takes 'graphs'; allowed are labels, pairs, triplets"):
        build_loss(module(without + LOSS.replace('"triplets"', '"graphs"')))
    with pytest.raises(UserError, match=r"loss\(\) returns a str, not a loss"):
        build_loss(module(without + "def loss():\n    return 'hinge'\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "module loop_x has no function 'fit'"),
        ("fit = 3", "module loop_x has no function 'fit'"),
        ("def fit(task):\n    return 7", r"fit\(task\) returns an int, not an Outcome"),
    ],
)
def test_a_loop_that_is_none_is_one_line(module, tmp_path, monkeypatch, text, message):
    config = module(HEAD, "trainer=loop_x")
    (tmp_path / "loop_x.py").write_text(text)
    monkeypatch.delitem(sys.modules, "loop_x", raising=False)
    with pytest.raises(UserError, match=message):
        training_loop(config)(None)


def test_a_loop_that_is_not_there_ends_a_job_before_anything_is_made(module, tmp_path):
    with pytest.raises(UserError, match=r"^trainer=no_such_loop"):
        job.run(module(HEAD, "trainer=no_such_loop"), run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("app", [trainer.cli.app, trainer.task.app], ids=["mildnet", "task"])
def test_commands_take_a_module_or_a_config(app, monkeypatch):
    calls = []
    monkeypatch.setattr(
        summary, "run_and_show", lambda config, **options: calls.append((config, options))
    )
    command = ["train"] if app is trainer.cli.app else []
    words = [*command, "--model-module", EXAMPLE, "--set", "lr=0.5"]
    out = CliRunner().invoke(app, words)
    assert out.exit_code == 0, out.output
    config, _ = calls[0]
    assert (config.model_module, config.lr, config.name) == (EXAMPLE, 0.5, "ranker")
    out = CliRunner().invoke(app, [*words, "job.cnf"])
    assert out.exit_code == 2
    assert "--model-module, one of the two" in out.output
    out = CliRunner().invoke(app, command)
    assert (out.exit_code, len(calls)) == (2, 1)


def test_the_example_embeds_pictures_as_vectors_of_unit_length():
    model = trainer.examples.ranker.build(32)
    embeddings = model.predict(np.zeros((2, 32, 32, 3), np.uint8), verbose=0)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx([1, 1], abs=1e-5)

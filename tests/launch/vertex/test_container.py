"""Jobs as Vertex AI runs them: the files of the image, its entry point, and the variables.

There is no Docker here: tests/launch/vertex/image.py does what the Dockerfile says.
"""

import filecmp
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.data.gcs import Server
from trainer.training.trackers.csv_log import COLUMNS

from . import image as images

STEPS = 16
CONFIG = f"""
model_id=mildnet
model.trunk=convnet_small(widths=(8, 16))
model.embedding_dim=16
model.dropout=0.3
image_size=32
dataset=synthetic
dataset.classes=18
dataset.views=6
dataset.size=40
augment=mildnet
loss=triplet_semihard
loss.margin=0.2
batch_size=16
optimizer=adam
lr=0.003
steps={STEPS}
train.validate_every=8
train.checkpoint_every=8
train.log_every=2
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return images.build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket that is mounted, with a config in it."""
    folder = tmp_path_factory.mktemp("gcs") / "bucket"
    (folder / "configs").mkdir(parents=True)
    text = f"{CONFIG}data_path={folder}/data\n"
    (folder / "configs/shop.cnf").write_text(text)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder, with what matplotlib puts there once."""
    return tmp_path_factory.mktemp("home")


def start(image, home, bucket, base, **more):
    """Start a container with the variables that a job of one machine gets."""
    cluster = {
        "cluster": {"workerpool0": ["cmle-training-workerpool0-ab-0:2222"]},
        "environment": "cloud",
        "task": {"type": "workerpool0", "index": 0},
    }
    environment = {
        **image.environment,
        "HOME": str(home),
        "PATH": os.path.dirname(sys.executable),
        "PYTHONPATH": os.pathsep.join([str(image.packages), f"{images.__file__[:-8]}mounted"]),
        "AIP_MODEL_DIR": f"{base}/model/",
        "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
        "CLOUD_ML_JOB_ID": "4711",
        "CLUSTER_SPEC": json.dumps(cluster),
        **more,
    }
    return subprocess.Popen(
        image.command(str(bucket / "configs/shop.cnf")),
        cwd=image.place("."),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    return output


def arrays(file):
    with np.load(file) as archive:
        return {name: archive[name].tobytes() for name in archive.files if name != "meta"}


@pytest.fixture(scope="module")
def undisturbed(image, home, bucket):
    """Run folder of a job that had its outputs in the mounted bucket, and what was there before."""
    before = image.files()
    finish(start(image, home, bucket, bucket / "jobs/shop-1"))
    return bucket / "jobs/shop-1", before


def test_the_image_holds_the_library_whole_and_nothing_else(image):
    made = {name.split("/")[2] for name in image.files() if name.startswith("/mildnet/")}
    made -= {"build", "mildnet.egg-info"}
    assert made == {"setup.py", "pyproject.toml", "constraints.txt", "README.md", "trainer"}
    tracked = ["git", "ls-files", "trainer", "job_configs"]
    listed = subprocess.run(tracked, cwd=images.ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in listed.stdout.split() if (images.ROOT / name).is_file()}
    library = {name for name in ours if name.startswith("trainer/")}
    sources, installed = image.place("/mildnet"), image.packages
    assert library <= {path.relative_to(installed).as_posix() for path in files_of(image)}
    # Whole: what was there before the library, for its requirements, is not in it.
    assert filecmp.cmpfiles(sources, installed, library, shallow=False)[1:] == ([], [])
    configs = {name for name in ours if name.startswith("job_configs/")}
    assert {f"/job/{name}" for name in configs} <= image.files()
    assert not [name for name in image.files() if "settings.cfg" in name or "/." in name]
    assert image.entrypoint == ["python", "-m", "trainer.task"]


def files_of(image):
    return [path for path in (image.packages / "trainer").rglob("*") if path.is_file()]


def test_all_is_installed_in_the_versions_of_the_constraints(image):
    needed, library = image.installed
    assert needed[:2] == ["-c", "constraints.txt"]
    assert needed[2].startswith(".[gpu,")
    assert library == ["--no-deps", "--force-reinstall", "."]


@pytest.mark.parametrize(
    ("patterns", "name", "through"),
    [
        ("", "settings.cfg", True),
        ("*", "trainer/task.py", False),
        ("*\n!trainer", "trainer/task.py", True),
        ("*\n!trainer\n**/*.py[co]", "trainer/launch/a.pyc", False),
        ("*\n!trainer\n*.py", "trainer/task.py", True),
        ("**/__pycache__", "trainer/data/__pycache__/a.txt", False),
        ("*\n!.env\n**/.*", ".env", False),
    ],
)
def test_the_rules_of_dockerignore(patterns, name, through, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROOT", tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert images.sent(patterns) == ({name} if through else set())


def test_a_job_leaves_all_where_the_variables_say(undisturbed, image, home, bucket):
    run, before = undisturbed
    assert (run / "model/saved_model.pb").is_file()
    assert (run / f"checkpoints/step-{STEPS:09d}.npz").is_file()
    assert list((run / "logs").glob("*events.out.tfevents*"))
    assert json.loads((run / "evaluation.json").read_text())["trained"]["metrics"]
    assert (run / "index/meta.json").is_file()
    assert (run / "report.html").is_file()
    # Neither into the image, whose layers may be read-only, nor beside the run.
    assert image.files() == before
    assert sorted(path.name for path in bucket.iterdir()) == ["configs", "data", "jobs"]
    assert [path.name for path in (bucket / "jobs").iterdir()] == ["shop-1"]
    assert not [name for name in os.listdir(run) if name.startswith(".")]
    assert {path.name for path in home.iterdir()} <= {".cache", ".config", ".keras"}


def last_step(content):
    rows = (content or b"").decode().splitlines()
    return int(rows[-1].split(",")[0]) if len(rows) > 1 else 0


def test_a_spot_machine_that_is_taken_away_costs_nothing(
    undisturbed, image, home, bucket, tmp_path
):
    base = "bucket/jobs/shop-2"
    with Server(tmp_path) as storage:
        process = start(image, home, bucket, f"gs://{base}", **storage.environment)
        give_up = time.monotonic() + 300
        while last_step(storage.objects.get(f"{base}/training.csv")) < 4:
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < give_up
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
        # Not 0, which would tell Vertex AI that the job is done.
        assert process.returncode == 128 + signal.SIGTERM, output[-3000:]
        saved = storage.names(f"{base}/checkpoints/step-")
        assert saved
        assert max(saved) < f"{STEPS:09d}.npz"
        # On another machine, with nothing but the bucket.
        output = finish(start(image, home, bucket, f"gs://{base}", **storage.environment))
        assert f"going on from step {int(max(saved)[:9])}" in output
        objects = dict(storage.objects)
        assert not [request for request in storage.requests if request[2] >= 500]

    run, _ = undisturbed
    newest = f"checkpoints/step-{STEPS:09d}.npz"
    expected, found = arrays(run / newest), arrays(io.BytesIO(objects[f"{base}/{newest}"]))
    assert expected == found
    for name in ("model/saved_model.pb", "model.keras", "index/meta.json", "report.html"):
        assert objects[f"{base}/{name}"]
    rows = objects[f"{base}/training.csv"].decode().splitlines()
    assert rows[0] == ",".join(COLUMNS)
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(2, STEPS + 1, 2))
    assert recalls(objects, f"{base}/logs/", tmp_path)[-1][0] == STEPS


def recalls(objects, prefix, folder):
    """What TensorBoard reads in the event files of a bucket: step and Recall@1."""
    for name, content in objects.items():
        if "tfevents" in name:
            place = folder / name.removeprefix(prefix)
            place.write_bytes(content)
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.tensor_proto) for event in events.Tensors("recall_at_1")]

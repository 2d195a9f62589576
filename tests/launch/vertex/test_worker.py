"""What `trainer.task` makes of Vertex AI's variables; the texts are those of its documentation."""

import json

import pytest
from typer.testing import CliRunner

from trainer.config import UserError
from trainer.launch import summary
from trainer.launch.vertex.worker import run_folder, tf_config
from trainer.task import app

BASE = "gs://bucket/jobs/shop-3"
OUTPUTS = {
    "AIP_MODEL_DIR": f"{BASE}/model/",
    "AIP_CHECKPOINT_DIR": f"{BASE}/checkpoints/",
    "AIP_TENSORBOARD_LOG_DIR": f"{BASE}/logs/",
}
HOSTS = {
    "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
    "workerpool1": ["cmle-training-workerpool1-ab-0:2222", "cmle-training-workerpool1-ab-1:2222"],
}


def cluster_spec(pool="workerpool0", index=0, **pools):
    told = {
        "cluster": {**HOSTS, **pools},
        "environment": "cloud",
        "task": {"type": pool, "index": index, "trial": "1"},
        "job": '{"python_module":"","package_uris":[],"job_args":[]}',
        "open_ports": [3333],
    }
    return {"CLUSTER_SPEC": json.dumps(told)}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (OUTPUTS, BASE),
        ({"AIP_MODEL_DIR": f"{BASE}/model"}, BASE),
        (
            {"AIP_CHECKPOINT_DIR": "/gcs/bucket/a/checkpoints/", "AIP_MODEL_DIR": ""},
            "/gcs/bucket/a",
        ),
        # A trial of a hyperparameter tuning job has a folder of its own.
        ({"AIP_TENSORBOARD_LOG_DIR": f"{BASE}/7/logs/"}, f"{BASE}/7"),
        ({"AIP_MODEL_DIR": "gs://bucket/model/"}, "gs://bucket"),
        ({}, None),
    ],
)
def test_the_run_folder_is_what_holds_the_three_outputs(environment, expected):
    assert run_folder(environment) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AIP_MODEL_DIR": f"{BASE}/export/"}, f"AIP_MODEL_DIR={BASE}/export/: .*'model'.*job-dir"),
        ({"AIP_CHECKPOINT_DIR": "gs://checkpoints"}, "AIP_CHECKPOINT_DIR=gs://checkpoints"),
        (
            {"AIP_TENSORBOARD_LOG_DIR": "gs://other/logs/"},
            "AIP_MODEL_DIR is in .*shop-3, but AIP_TENSORBOARD_LOG_DIR in gs://other, .*--job-dir",
        ),
    ],
)
def test_outputs_that_are_no_run_folder_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        run_folder({**OUTPUTS, **changes})


@pytest.mark.parametrize(
    ("pool", "index", "task"),
    [("workerpool0", 0, ("chief", 0)), ("workerpool1", 1, ("worker", 1))],
)
def test_the_pools_are_chief_and_workers(pool, index, task):
    told = json.loads(tf_config(cluster_spec(pool, index)))
    assert told["cluster"] == {"chief": HOSTS["workerpool0"], "worker": HOSTS["workerpool1"]}
    assert (told["task"]["type"], told["task"]["index"]) == task
    assert "job" not in told


def test_tf_config_wins_and_the_master_is_the_chief():
    given = {
        "cluster": {"master": ["a:1"], "worker": ["b:1"]},
        "task": {"type": "master", "index": 0},
        "rpc_layer": "grpc",
    }
    told = json.loads(tf_config({**cluster_spec(), "TF_CONFIG": json.dumps(given)}))
    assert told["cluster"] == {"chief": ["a:1"], "worker": ["b:1"]}
    assert (told["task"], told["rpc_layer"]) == ({"type": "chief", "index": 0}, "grpc")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"CLUSTER_SPEC": ""},
        cluster_spec(workerpool1=[]),
        {"CLUSTER_SPEC": '{"cluster":{"chief":["localhost:1"]},"task":{"type":"chief","index":0}}'},
        {"CLUSTER_SPEC": '{"environment":"cloud","task":{"type":"workerpool0","index":0}}'},
    ],
)
def test_one_machine_needs_no_cluster(environment):
    assert tf_config(environment) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (cluster_spec(workerpool2=["p:1"]), r"do not train \(ps\).* leave out workerpool2"),
        (cluster_spec("workerpool3"), r"do not train \(evaluator\).* leave out workerpool3"),
        (cluster_spec(spare=["p:1"]), "CLUSTER_SPEC has replicas called spare"),
        (cluster_spec("workerpool1", 2), "the cluster has no worker 2"),
        ({"CLUSTER_SPEC": "{"}, "CLUSTER_SPEC is not the JSON of a cluster"),
        ({"TF_CONFIG": "[1]", **cluster_spec()}, "TF_CONFIG is not the JSON of a cluster"),
        ({"CLUSTER_SPEC": '{"cluster": {"workerpool0": "a:1"}}'}, "is not the JSON of a cluster"),
    ],
)
def test_a_cluster_that_is_not_for_training_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        tf_config(environment)


@pytest.fixture
def task(monkeypatch, tmp_path):
    """Run `trainer.task` with variables and arguments, and return its output and what it ran."""
    config = tmp_path / "shop.cnf"
    config.write_text("model_id=mildnet\nloss=triplet_semihard\nsteps=1\n")
    seen = {}

    def run(config, **options):
        import os

        seen.update(options, tf_config=os.environ.get("TF_CONFIG"))

    def started(environment, *arguments):
        # What the task sets is gone again after the test.
        monkeypatch.setenv("TF_CONFIG", "")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(summary, "run_and_show", run)
        return CliRunner().invoke(app, [str(config), *arguments]), seen

    return started


def test_a_job_on_vertex_runs_in_its_output_directory_with_the_others(task):
    out, seen = task({**OUTPUTS, **cluster_spec("workerpool1", 1)})
    assert out.exit_code == 0, out.output
    assert seen["run_dir"] == BASE
    assert json.loads(seen["tf_config"])["task"]["type"] == "worker"


def test_the_job_dir_of_the_command_wins(task):
    out, seen = task({**OUTPUTS, "AIP_MODEL_DIR": "gs://else/where"}, "--job-dir", "out/run")
    assert out.exit_code == 0, out.output
    assert seen["run_dir"] == "out/run"


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        (cluster_spec(), ["--set", "train.strategy=mirrored"], "train.strategy is mirrored"),
        (cluster_spec(), ["--is-tpu", "true"], "train.strategy is tpu"),
        (OUTPUTS, ["--fresh", "--yes"], "--fresh on Vertex AI"),
        (cluster_spec(workerpool2=["p:1"]), [], "leave out workerpool2"),
    ],
)
def test_what_does_not_go_together_is_one_line(task, environment, arguments, message):
    out, seen = task(environment, *arguments)
    assert out.exit_code == 2
    assert message in out.output
    assert len(out.output.strip().splitlines()) == 1
    assert not seen

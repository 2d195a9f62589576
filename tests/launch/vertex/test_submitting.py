"""A whole submission: the real clients against the job service and the bucket on this machine."""

import io
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from google.cloud.aiplatform_v1.types import CustomJob
from rich.console import Console
from typer.testing import CliRunner

from tests.launch.vertex.service import Step, VertexServer, permission, quota
from tests.launch.vertex.storage import StorageServer
from trainer.cli import app
from trainer.config import JobConfig, Settings, Stopped, UserError
from trainer.launch.vertex import package
from trainer.launch.vertex.jobs import JobService, Pace
from trainer.launch.vertex.package import Package
from trainer.launch.vertex.settings import VertexSettings
from trainer.launch.vertex.shapes import Shape
from trainer.launch.vertex.staging import Bucket
from trainer.launch.vertex.submitting import Submission, check_places, shape_name

BUCKET = "gs://shop-jobs/mildnet"
CLOUD = VertexSettings("shop", "europe-west4", BUCKET)
#: Stands for the real one, which test_package.py builds.
PACKAGE = Package("mildnet-9.tar.gz", b"package", "0123456789ab", "numpy==2\n")
GOOD = {"model_id": "mildnet", "loss": "triplet_semihard", "data_path": "gs://shop-data/tops"}


def config(*overrides: str, **values: object) -> JobConfig:
    return JobConfig.from_mapping({**GOOD, **values}, overrides, Settings(), name="shop")


def prepare(*overrides: str, settings: VertexSettings = CLOUD, **options: str) -> Submission:
    return Submission.prepare(config(*overrides), settings, **{"shape": "one_gpu", **options})


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The extras that packages were asked for with."""
    extras: list[tuple[str, ...]] = []

    def build(job: JobConfig, names: tuple[str, ...]) -> Package:
        extras.append(tuple(names))
        return PACKAGE

    monkeypatch.setattr(package, "build", build)
    return extras


def submit(submission: Submission, vertex: VertexServer, **options: object) -> tuple[str, str]:
    """Return the job's name, and what was printed."""
    out = io.StringIO()
    service = JobService("shop", "europe-west4", channel=vertex.channel(), sleep=lambda _: None)
    bucket = Bucket(BUCKET, "shop")
    name = submission.submit(
        Console(file=out, width=40), service=service, bucket=bucket, pace=Pace(0, 0), **options
    )
    return name, out.getvalue()


def test_a_job_from_here_to_its_end(vertex: VertexServer, storage: StorageServer):
    vertex.script = [
        Step("QUEUED"),
        Step("PENDING"),
        Step("RUNNING", ["epoch 1 of 1"]),
        Step("SUCCEEDED"),
    ]
    name, out = submit(prepare("lr=0.25"), vertex)
    assert name == "shop_1"
    assert set(storage.objects) == {
        "mildnet/configs/shop_1.cnf",
        "mildnet/packages/0123456789ab/mildnet-9.tar.gz",
        "mildnet/packages/0123456789ab/constraints.txt",
    }
    made = vertex.request("CreateCustomJob")
    assert made.parent == "projects/shop/locations/europe-west4"
    assert made.custom_job.display_name == "shop_1"
    spec = made.custom_job.job_spec
    assert spec.base_output_directory.output_uri_prefix == f"{BUCKET}/shop_1"
    assert list(spec.worker_pool_specs[0].container_spec.args) == [
        *("/gcs/shop-jobs/mildnet/configs/shop_1.cnf", "--job-dir", f"{BUCKET}/shop_1")
    ]
    for said in (
        f"staged {BUCKET}/packages/0123456789ab/mildnet-9.tar.gz\n",
        f"run folder   {BUCKET}/shop_1\n",
        "console      https://console.cloud.google.com/vertex-ai/locations/europe-west4/training/",
        "Ctrl-C stops watching, not the job.\n",
        "  pending: machines are being made ready\n",
        "epoch 1 of 1",
        "  succeeded\n",
    ):
        assert said in out


def test_the_config_that_the_job_reads(storage: StorageServer, vertex: VertexServer, tmp_path):
    submission = prepare("lr=0.25", shape="four_gpus")
    submit(submission, vertex, wait=False)
    path = tmp_path / "shop_1.cnf"
    path.write_bytes(storage.objects["mildnet/configs/shop_1.cnf"])
    found = JobConfig.load(path, settings=Settings())
    assert (found.name, found.job_dir) == ("shop_1", BUCKET)
    assert (found.lr, found.data_path) == (0.25, "gs://shop-data/tops")
    assert found.training.strategy == "mirrored"
    assert replace(found, job_dir="runs") == replace(submission.config, job_dir="runs")


def test_the_next_free_name_and_what_is_staged_already(
    vertex: VertexServer, storage: StorageServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MILDNET_PROJECT", "shop")
    monkeypatch.setenv("MILDNET_REGION", "europe-west4")
    vertex.add("shop_2", "SUCCEEDED")
    vertex.add("shop_x_9", "RUNNING")
    storage.objects["mildnet/shop_4/config.json"] = b"{}"  # a run whose job is forgotten
    name, out = submit(prepare(), vertex, wait=False)
    assert name == "shop_5"
    assert "watch it     mildnet jobs logs shop_5 --follow\n" in out
    assert "stop it      mildnet jobs cancel shop_5\n" in out
    assert vertex.requests("GetCustomJob") == []
    name, out = submit(prepare(), vertex, wait=False)
    assert name == "shop_6"
    assert f"there is {BUCKET}/packages/0123456789ab/mildnet-9.tar.gz\n" in out
    assert len(storage.uploads) == 4


def test_commands_that_look_where_the_job_is(
    vertex: VertexServer, run: JobConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MILDNET_PROJECT", "other-shop")
    monkeypatch.setenv("MILDNET_REGION", "us-east1")
    place = "--project shop --region europe-west4"
    out = submit(prepare(resume="shop_3"), vertex, wait=False)[1]
    assert f"watch it     mildnet jobs logs shop_4 --follow {place}\n" in out
    assert f"stop it      mildnet jobs cancel shop_4 {place}\n" in out
    with pytest.raises(UserError, match=f"stop it with `mildnet jobs cancel shop_4 {place}`$"):
        submit(prepare(resume="shop_3"), vertex)


def test_a_name_is_one_job_s_in_all_regions(vertex: VertexServer, storage: StorageServer):
    # Its job is in another region, and has no run folder yet.
    storage.objects["mildnet/configs/shop_3.cnf"] = b"theirs"
    submission = prepare(settings=replace(CLOUD, image="a/mildnet:1"))
    assert submit(submission, vertex, wait=False)[0] == "shop_4"
    assert storage.objects["mildnet/configs/shop_3.cnf"] == b"theirs"


def test_two_that_submit_at_the_same_moment(
    vertex: VertexServer, storage: StorageServer, monkeypatch: pytest.MonkeyPatch
):
    submission = prepare(settings=replace(CLOUD, image="a/mildnet:1"))
    same = submission.files("shop_1")[0].content
    storage.objects |= {f"mildnet/configs/shop_{number}.cnf": same for number in (1, 2)}
    monkeypatch.setattr(Bucket, "configs", lambda self, prefix: [])  # they were not there yet
    assert submit(submission, vertex, wait=False)[0] == "shop_3"
    assert vertex.request("CreateCustomJob").custom_job.display_name == "shop_3"
    assert storage.uploads == ["mildnet/configs/shop_3.cnf"]


def test_a_job_that_is_made_is_told_of_at_once(vertex: VertexServer, storage: StorageServer):
    vertex.fail("GetCustomJob", permission("aiplatform.customJobs.get", "projects/shop"))
    out = io.StringIO()
    service = JobService("shop", "europe-west4", channel=vertex.channel())
    with pytest.raises(UserError, match=r"roles/aiplatform\.user"):
        prepare().submit(Console(file=out), service=service, bucket=Bucket(BUCKET, "shop"))
    (made,) = vertex.jobs
    assert f"job          shop_1\nmachines     {Shape.load('one_gpu')}\n" in out.getvalue()
    assert f"/training/{made.rpartition('/')[2]}?project=shop\n" in out.getvalue()


def test_an_image_needs_no_package(vertex: VertexServer, storage: StorageServer, asked: list):
    submission = prepare(settings=replace(CLOUD, image="a/mildnet:1"))
    assert (submission.package, asked) == (None, [])
    submit(submission, vertex, wait=False)
    assert set(storage.objects) == {"mildnet/configs/shop_1.cnf"}


@pytest.mark.parametrize(
    ("overrides", "shape", "extras"),
    [
        ([], "one_gpu", ("gpu",)),
        ([], "cpu", ("cpu",)),
        (["trackers=csv, wandb", "dataset=cars196"], "four_gpus", ("gpu", "wandb", "mat")),
        (["index=annoy"], "cpu", ("cpu", "annoy")),
    ],
)
def test_extras_that_a_job_needs(overrides: list, shape: str, extras: tuple, asked: list):
    prepare(*overrides, shape=shape)
    prepare(*overrides, shape=shape, settings=replace(CLOUD, extras=("mat",)))
    assert asked == [extras, ("mat",)]


def test_a_job_that_fails_ends_the_command(vertex: VertexServer, storage: StorageServer):
    vertex.script = [Step("RUNNING"), Step("FAILED", error="The replica exited with 1.")]
    with pytest.raises(UserError, match=r"^job shop_1 failed: The replica exited with 1\.$"):
        submit(prepare(), vertex)


def test_ctrl_c_leaves_the_job_running(vertex: VertexServer, storage: StorageServer):
    class Impatient(JobService):
        def get(self, name: str):
            signal.raise_signal(signal.SIGINT)
            return super().get(name)

    service = Impatient("shop", "europe-west4", channel=vertex.channel())
    # Tests that run in the background of a shell are deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Stopped) as caught:
            prepare().submit(
                Console(file=io.StringIO()), service=service, bucket=Bucket(BUCKET, "shop")
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.exit_code == 130
    assert "the job goes on: `mildnet jobs logs " in str(caught.value)
    assert "`mildnet jobs cancel " in str(caught.value)
    assert vertex.requests("CancelCustomJob") == []


def test_nothing_is_made_where_the_bucket_refuses(vertex: VertexServer, storage: StorageServer):
    storage.refusal = (403, "me@x.org does not have storage.objects.list access.")
    with pytest.raises(UserError, match=r"roles/storage\.objectAdmin"):
        submit(prepare(), vertex)
    assert vertex.calls == []


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (quota("custom_model_training_nvidia_t4_gpus"), "a quota of project shop is used up"),
        (permission("aiplatform.customJobs.create", "projects/shop"), "roles/aiplatform.user"),
    ],
)
def test_what_the_service_refuses(
    failure: object, said: str, vertex: VertexServer, storage: StorageServer
):
    vertex.fail("CreateCustomJob", failure)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        submit(prepare(), vertex)


@pytest.fixture
def run(storage: StorageServer) -> JobConfig:
    """A run that was begun as `shop_3`, on one GPU."""
    begun = prepare().config
    storage.objects["mildnet/shop_3/config.json"] = json.dumps(begun.to_dict()).encode()
    return begun


def test_going_on_with_a_run(vertex: VertexServer, run: JobConfig, storage: StorageServer):
    with pytest.raises(UserError, match=r"^--resume shop_2: there is no run in gs://.*shop_2 \(no"):
        submit(prepare(resume="shop_2"), vertex)
    again = prepare(resume="shop_3")
    old = vertex.add("shop_3", "RUNNING", output=f"{BUCKET}/shop_3/")
    with pytest.raises(UserError, match="--resume shop_3: job shop_3 is running and writes to"):
        submit(again, vertex)
    vertex.jobs[old].state = 5  # cancelled
    name, out = submit(again, vertex, wait=False)
    assert name == "shop_4"
    assert f"run folder   {BUCKET}/shop_3\n" in out
    spec = vertex.request("CreateCustomJob").custom_job.job_spec
    assert spec.base_output_directory.output_uri_prefix == f"{BUCKET}/shop_3"
    assert list(spec.worker_pool_specs[0].container_spec.args) == [
        *("/gcs/shop-jobs/mildnet/configs/shop_4.cnf", "--job-dir", f"{BUCKET}/shop_3")
    ]
    assert b'name="shop_3"' in storage.objects["mildnet/configs/shop_4.cnf"]


@pytest.mark.parametrize(
    ("overrides", "shape", "difference"),
    [
        ([], "four_gpus", "train.strategy: mirrored, not one"),
        (["lr=0.5"], "one_gpu", "lr: 0.5, not 0.001"),
        (["lr=0.5", "seed=3"], "one_gpu", "lr: 0.5, not 0.001 and 1 more"),
    ],
)
def test_a_run_of_another_config_is_not_gone_on_with(
    overrides: list, shape: str, difference: str, vertex: VertexServer, run: JobConfig, storage
):
    with pytest.raises(UserError) as caught:
        submit(prepare(*overrides, shape=shape, resume="shop_3"), vertex)
    assert str(caught.value) == (
        f"{BUCKET}/shop_3: holds a run of another config ({difference}); --resume takes the "
        "config, and the kind of machines, of that run"
    )
    assert storage.uploads == vertex.requests("CreateCustomJob") == []


def test_a_run_goes_on_where_only_the_machines_are_others(
    vertex: VertexServer, run: JobConfig, storage: StorageServer
):
    submission = prepare("train.checkpoint_every=9", shape="one_a100", resume="shop_3")
    assert submit(submission, vertex, wait=False)[0] == "shop_4"
    storage.objects["mildnet/shop_3/config.json"] = b"\xff"
    with pytest.raises(UserError, match=r"shop_3/config\.json: damaged, or not written by mildn"):
        submit(submission, vertex, wait=False)


def test_of_two_that_resume_a_run_at_the_same_moment_the_younger_is_cancelled(
    vertex: VertexServer, run: JobConfig, monkeypatch: pytest.MonkeyPatch
):
    create = JobService.create
    other: list[str] = []

    def second(self: JobService, message: CustomJob) -> str:
        if not other:
            other.append(vertex.add("shop_8", "PENDING", output=f"{BUCKET}/shop_3"))
        return create(self, message)

    monkeypatch.setattr(JobService, "create", second)
    vertex.add("work_7", output=f"{BUCKET}/shop_30")
    with pytest.raises(UserError) as caught:
        submit(prepare(resume="shop_3"), vertex)
    assert str(caught.value) == (
        "--resume shop_3: job shop_8, which was submitted a moment before, writes to that run "
        "folder as well; shop_4 was cancelled"
    )
    states = {job.display_name: job.state.name for job in vertex.jobs.values()}
    assert states == {
        "work_7": "JOB_STATE_RUNNING",
        "shop_8": "JOB_STATE_PENDING",
        "shop_4": "JOB_STATE_CANCELLING",
    }


def test_of_two_that_resume_a_run_at_the_same_moment_the_older_goes_on(
    vertex: VertexServer, run: JobConfig, monkeypatch: pytest.MonkeyPatch
):
    create = JobService.create

    def first(self: JobService, message: CustomJob) -> str:
        made = create(self, message)
        vertex.add("shop_8", "PENDING", output=f"{BUCKET}/shop_3")
        return made

    monkeypatch.setattr(JobService, "create", first)
    assert submit(prepare(resume="shop_3"), vertex, wait=False)[0] == "shop_4"
    assert vertex.requests("CancelCustomJob") == []


def test_machines_of_the_config():
    assert shape_name(config(config="training_configs/one_gpu.yaml")) == (
        "training_configs/one_gpu.yaml"
    )
    assert shape_name(config(config="x.yaml"), "cpu") == "cpu"
    with pytest.raises(UserError, match=r"^no machines are named; give --shape, one of cpu, four_"):
        shape_name(config())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data_path="], "no data path is set: copy the data to the bucket, and set MILDNET_DATA"),
        (["data_path=/data/tops"], "--set: data_path=/data/tops is a place on this machine"),
        (["data_path=tops"], "--set: data_path=tops is a place on this machine"),
        (["data_path=file:///data/tops"], "data_path=file:///data/tops is a place on this machine"),
        (["data_path=https://a.org/b"], "=https://a.org/b is an address that a job can't read; co"),
        (
            ["init_from=file:///runs/a"],
            "--set: init_from=file:///runs/a is a place on this machine",
        ),
        (["init_from=https://a.org/b"], "--set: init_from=https://a.org/b is an address that a j"),
        (["model.weights=gs://a/w.h5"], "gs://a/w.h5 is an address that a job can't read there; "),
        (["model.weights=gs://a/w.h5"], "and give its path /gcs/bucket/..."),
        (["init_from=runs/first"], "--set: init_from=runs/first is a place on this machine"),
        (["model.weights=here/w.h5"], "--set: model.weights=here/w.h5 is a place on this machine"),
        (["model.weights=there.keras"], "model.weights=there.keras is a place on this machine"),
        (["init_from=~/runs/first"], "--set: init_from=~/runs/first is a place on this machine"),
        (["model.trunk=hub:/home/me/net"], "=hub:/home/me/net: /home/me/net is a place on this m"),
        (["model.trunk=hub(handle='/home/me/net')"], ": /home/me/net is a place on this machine"),
        (["model.trunk=hub(handle='~/net', size=96)"], ": ~/net is a place on this machine, wh"),
        (["model.trunk=hub:file:///net"], ": file:///net is a place on this machine"),
        (["model.trunk=hub:../net"], "=hub:../net: ../net is a place on this machine"),
        (["model.trunk=hub:nets/mine"], ": nets/mine is a place on this machine"),
        (["model.trunk=kerashub:nets/mine"], ": nets/mine is a place on this machine"),
        (["model_id=hub_embedding", "model.hub_handle=/net"], "model.hub_handle=/net is a place"),
        (
            ["dataset=concat", "dataset.parts=items, cub200:/data/birds"],
            "--set: dataset.parts=items, cub200:/data/birds: /data/birds is a place on this machi",
        ),
        (
            ["dataset=concat", 'dataset.parts=a=items(file="/data/a.csv"):a, b=items:b'],
            ": /data/a.csv is a place on this machine, which a remote job does not see; copy it to",
        ),
        (["train_csv=~/a.csv"], "--set: train_csv=~/a.csv is a place on this machine, which a re"),
        (["train_csv=a.csv", "dataset.images=~/a.zip"], "dataset.images=~/a.zip is a place on th"),
        *(
            (["index=milvus", "index.collection=shop", f"index.uri=http://{host}"], said)
            for host in ("localhost:19530", "127.0.0.1:19530", "127.1", "[::1]:1", "LOCALHOST")
            for said in [f"--set: index.uri=http://{host} is an address of this machine, which a"]
        ),
        (
            ["dataset.file=/data/a.csv"],
            "--set: dataset.file=/data/a.csv is a place on this machine",
        ),
    ],
)
def test_what_is_on_this_machine_alone(
    overrides: list, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets" / "mine").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        check_places(config(*overrides))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data_path=/gcs/shop-data/tops"],
        ["dataset=synthetic", "data_path="],
        ["dataset=synthetic", "data_path=/data/tops"],  # a default for jobs on this machine
        ["init_from=gs://shop-jobs/mildnet/shop_1"],
        ["model.weights=/gcs/shop-data/w.h5"],
        ["model.trunk=hub:https://tfhub.dev/a/b/1"],
        ["model.trunk=hub:https://a.org/net.zip"],
        ["model.trunk=hub:gs://shop-data/net"],
        ["model.trunk=hub(handle='/gcs/shop-data/net', size=96)"],
        ["model.trunk=kerashub:hf://timm/resnet18.a1_in1k"],
        ["model.trunk=convnet_small(widths=(8, 16))"],
        ["dataset=concat", "dataset.parts=items(file='lists/items.csv'):a, cub200:../birds"],
        ["dataset=concat", "dataset.parts=items:gs://shop-data/a, cub200:/gcs/shop-data/b"],
        ["train_csv=lists/items.csv"],
        ["index=milvus", "index.collection=shop", "index.uri=http://localhost.shop.org:19530"],
        ["index=milvus", "index.collection=shop", "index.uri=http://10.0.0.3:19530"],
        ["dataset.file=lists/items.csv"],
        ["model.weights=imagenet"],
    ],
)
def test_what_a_job_finds(overrides: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "items.csv").write_text("")
    (tmp_path / "imagenet").mkdir()
    check_places(config(*overrides))


def test_generated_data_needs_no_place():
    made = prepare("dataset=synthetic", "data_path=/data/tops")
    assert made.config.data_path == ""


OPTIONS = [
    *("--shape", "one_gpu", "--project", "my-shop", "--region", "europe-west4"),
    *("--bucket", BUCKET, "--data-path", "gs://shop-data/tops"),
]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.cnf").write_text("model_id=mildnet\nloss=triplet_semihard\n")
    (tmp_path / "settings.cfg").write_text("")
    return "shop.cnf"


def test_a_dry_run_prints_the_exact_request(job: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
    more = [*("--label", "team=search", "--label", "stage=test"), "--spot", "--timeout", "2h30m"]
    result = CliRunner().invoke(app, ["submit", job, *OPTIONS, *more, "--dry-run"])
    assert result.exit_code == 0, result.output
    made = CustomJob.from_json(result.stdout)
    assert made.display_name == "shop_1"
    assert dict(made.labels) == {"team": "search", "stage": "test"}
    assert made.job_spec.scheduling.strategy.name == "SPOT"
    assert json.loads(result.stdout)["jobSpec"]["scheduling"]["timeout"] == "9000s"
    *staged, sent, end = result.stderr.splitlines()
    assert [line.split()[2].removeprefix(BUCKET) for line in staged] == [
        "/configs/shop_1.cnf",
        "/packages/0123456789ab/mildnet-9.tar.gz",
        "/packages/0123456789ab/constraints.txt",
    ]
    assert sent == (
        "would then send to https://europe-west4-aiplatform.googleapis.com/v1/projects/my-shop/"
        "locations/europe-west4/customJobs:"
    )
    assert end.startswith("nothing was sent; ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--region", "europe"], "error: --region europe: not a region of Google Cloud"),
        (["--bucket", "jobs"], "error: --bucket jobs: write it as gs://jobs"),
        (["--label", "Team=x"], "error: --label Team=x: 'Team' in the label"),
        (["--shape", "tpu_v5e"], "error: training_configs/tpu_v5e.yaml: a TPU needs an image"),
        (["--shape", "one_gpus"], "error: no shape 'one_gpus'; did you mean 'one_gpu'?"),
        (["--set", "train.strategy=tpu"], "error: --set: train.strategy=tpu does not go with"),
        (["--data-path", "tops"], "error: --set: data_path=tops is a place on this machine"),
        (["--resume", "a/b"], "error: --resume a/b: give the name of a job, such as shop_1"),
        (["--resume", ".."], "error: --resume ..: give the name of a job, such as shop_1"),
        (["--tensorboard", "5"], "error: --tensorboard 5: writing to a TensorBoard of Vertex AI"),
    ],
)
def test_mistakes_end_in_one_line(job: str, more: list[str], said: str):
    root = Path(__file__).resolve().parents[3]
    Path("training_configs").symlink_to(root / "training_configs")
    result = CliRunner().invoke(app, ["submit", job, *OPTIONS, *more])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1

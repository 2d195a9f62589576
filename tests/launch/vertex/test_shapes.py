"""Files of machines: what they say, what is refused, and the strategy that uses them."""

import re
from pathlib import Path

import pytest
import yaml
from google.cloud.aiplatform_v1.types import AcceleratorType, WorkerPoolSpec

from tests.launch.vertex.validating import BUILT_IN, machine_violations, violations
from trainer.config import JobConfig, Settings, UserError
from trainer.config.cnf import read
from trainer.launch.vertex import shapes
from trainer.launch.vertex.request import Place, build
from trainer.launch.vertex.settings import VertexSettings
from trainer.launch.vertex.shapes import Pool, Shape

ROOT = Path(__file__).resolve().parents[3]
T4 = {"machineType": "n1-standard-8", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 1}
CLOUD = VertexSettings("my-shop", "europe-west4", "gs://shop-jobs", image="a/mildnet:1")


def config(*overrides: str) -> JobConfig:
    values = {"model_id": "mildnet", "loss": "triplet_semihard", "batch_size": 32}
    return JobConfig.from_mapping(values, overrides, Settings(), source="job.cnf", name="job")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(*pools: dict | None, text: str | None = None) -> Path:
        path = Path("machines.yaml")
        path.write_text(yaml.safe_dump({"workerPoolSpecs": list(pools)}) if text is None else text)
        return path

    return write


def pool(machine: dict | None = None, **others: object) -> dict:
    return {"machineSpec": T4 if machine is None else machine, **others}


@pytest.mark.parametrize(
    ("name", "strategy", "devices", "words"),
    [
        ("cpu", "one", 1, "1 x n1-standard-8"),
        ("one_gpu", "one", 1, "1 x n1-standard-8 with 1 NVIDIA_TESLA_T4"),
        ("one_a100", "one", 1, "1 x a2-highgpu-1g with 1 NVIDIA_TESLA_A100"),
        ("four_gpus", "mirrored", 4, "1 x g2-standard-48 with 4 NVIDIA_L4"),
        (
            "four_machines",
            "multiworker",
            4,
            "1 x n1-standard-8 with 1 NVIDIA_TESLA_T4, "
            "3 x n1-standard-8 each with 1 NVIDIA_TESLA_T4",
        ),
        ("tpu_v5e", "tpu", 4, "1 x ct5lp-hightpu-4t with a TPU of 2x2 chips"),
    ],
)
def test_the_shapes_of_this_project(name: str, strategy: str, devices: int, words: str):
    shape = Shape.load(name)
    assert Path(shape.path).name == f"{name}.yaml"
    assert (shape.strategy, shape.devices, str(shape)) == (strategy, devices, words)
    assert shape.fit(config()).training.strategy == strategy
    assert violations(build(CLOUD, shape, "x_1", Place("gs://abc/x_1", "gs://abc/x.cnf"))) == []


def test_all_shapes_are_tested_and_all_configs_name_one_of_them():
    mark = next(m for m in test_the_shapes_of_this_project.pytestmark if m.name == "parametrize")
    assert shapes.names() == sorted(row[0] for row in mark.args[1])
    named = {
        str(found["config"].value)
        for path in (ROOT / "job_configs").rglob("*.cnf")
        if "config" in (found := read(path))
    }
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_accelerators_are_those_of_the_service():
    known = set(AcceleratorType.__members__)
    assert {*shapes.GPUS, *shapes.TPUS} <= known
    assert known - {*shapes.GPUS, *shapes.TPUS} == {
        "ACCELERATOR_TYPE_UNSPECIFIED",
        "NVIDIA_TESLA_K80",  # no longer to be had
        "TPU_V4_POD",  # not for training jobs
        "TPU_V5_LITEPOD",  # asked for by the machine type
    }


SERIES = (
    *(f"a2-{size}gpu-{n}g" for size in ("high", "mega", "ultra") for n in (1, 2, 3, 4, 8, 16)),
    *(f"a3-{size}gpu-{n}g" for size in ("high", "mega", "ultra") for n in (1, 2, 4, 8, 16)),
    *(f"{series}-highgpu-{n}g" for series in ("a4", "a4x") for n in (1, 2, 4, 8, 16)),
    *(f"g2-standard-{n}" for n in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 192)),
    *(f"g4-standard-{n}" for n in (6, 24, 48, 96, 192, 384)),
    *("n1-standard-4", "n2-standard-8", "e2-standard-4"),
)


@pytest.mark.parametrize("machine", SERIES)
def test_gpus_go_with_the_machines_of_the_documentation(machine: str):
    for gpu, count in [("", 0), *((gpu, n) for gpu in shapes.GPUS for n in (1, 2, 4, 8, 16))]:
        spec = {"machine_type": machine, "accelerator_type": gpu or 0, "accelerator_count": count}
        refused = [*machine_violations(WorkerPoolSpec(machine_spec=spec), "pool")]
        try:
            shapes._check_machine(Pool(machine, 1, gpu, count), "pool 1")
        except UserError:
            assert refused, (machine, gpu, count)
        else:
            assert refused == []


def test_all_machines_of_the_documentation_are_tried():
    assert set(BUILT_IN) <= set(SERIES)


def test_a_shape_is_found_by_path_and_by_name(write):
    path = write(pool())
    assert shapes.find("machines.yaml") == path
    Path("training_configs").mkdir()
    (Path("training_configs") / "mine.yaml").write_text(path.read_text())
    for name in ("mine", "mine.yaml", "training_configs/mine.yaml", "training_configs/mine"):
        assert Shape.load(name).path == "training_configs/mine.yaml"
    with pytest.raises(UserError, match=r"^no shape 'mne'; did you mean 'mine'\?$"):
        shapes.find("mne")
    with pytest.raises(UserError, match=r"^no shape 'zzzzzz'; there are: mine$"):
        shapes.find("zzzzzz")


@pytest.mark.parametrize("name", ["one_gpu", "training_configs/one_gpu.yaml"])
def test_a_library_without_its_checkout_has_no_shapes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.config.settings.PACKAGE", tmp_path / "packages" / "trainer")
    monkeypatch.setattr(shapes, "PACKAGE", tmp_path / "packages" / "trainer")
    for look in (lambda: shapes.find(name), shapes.names):
        with pytest.raises(UserError) as caught:
            look()
        assert str(caught.value) == (
            "no machines to choose from: there is no training_configs/NAME.yaml here nor in "
            f"{tmp_path}/packages; copy that folder of mildnet's repository to the working folder, "
            "or give --shape FILE.yaml"
        )


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({}, "machineType '' is none, such as n1-standard-8"),
        ({"machineType": 8}, "machineType is 8, not a text"),
        ({"machineType": "N1 standard"}, "machineType 'N1 standard' is none"),
        ({**T4, "acceleratorTyp": "x"}, "unknown key 'acceleratorTyp'; did you mean 'accelera"),
        (
            {**T4, "acceleratorType": "NVIDIA_TESLA_T5"},
            "'NVIDIA_TESLA_T5'; did you mean 'NVIDIA_TESLA_T4'?",
        ),
        ({**T4, "acceleratorCount": 3}, "acceleratorCount is 3; of NVIDIA_TESLA_T4 a machine"),
        ({**T4, "acceleratorCount": 0}, "acceleratorCount is 0; it has to be a whole number"),
        ({**T4, "acceleratorCount": True}, "acceleratorCount is True; it has to be a whole"),
        ({**T4, "acceleratorCount": "1"}, "acceleratorCount is '1'; it has to be a whole"),
        ({**T4, "machineType": "n2-standard-8"}, "NVIDIA_TESLA_T4 goes with n1 machines, not"),
        ({"machineType": "n1-standard-8", "acceleratorCount": 1}, "go together; set both"),
        ({"machineType": "n1-standard-8", "acceleratorType": "NVIDIA_L4"}, "set both"),
        ({**T4, "acceleratorType": "NVIDIA_L4"}, "n1-standard-8 takes no NVIDIA_L4"),
        ({**T4, "machineType": "n1-standard-96"}, "n1-standard-96 is too large for 1 NVIDIA_TESLA"),
        (
            {**T4, "machineType": "n1-highmem-64", "acceleratorCount": 2},
            "too large for 2 NVIDIA_TESLA_T4, which take 48 CPUs at most; take a smaller machine",
        ),
        ({"machineType": "n1-standard-7"}, "there is no n1-standard-7; sizes are 1, 2, 4, 8, 16"),
        ({"machineType": "g2-standard-7"}, "there is no g2-standard-7; sizes are 4, 8, 12, 16"),
        ({"machineType": "a2-highgpu-3g"}, "there is no a2-highgpu-3g; sizes are 1, 2, 4, 8"),
        ({"machineType": "a2-highgpu-2g"}, "a2-highgpu-2g comes with acceleratorType NVIDIA_TESLA"),
        (
            {**T4, "machineType": "g2-standard-48"},
            "g2-standard-48 comes with acceleratorType NVIDIA_L4 and acceleratorCount 4",
        ),
        ({**T4, "tpuTopology": "2x2"}, "n1-standard-8 has no TPU; machines with one are"),
        ({**T4, "acceleratorType": "TPU_V2"}, "n1-standard-8 has no TPU"),
        ({"machineType": "cloud-tpu"}, "cloud-tpu takes acceleratorType TPU_V2 or TPU_V3"),
        (
            {"machineType": "cloud-tpu", "acceleratorType": "TPU_V3", "acceleratorCount": 4},
            "acceleratorCount 8, or a multiple of 32 for a pod",
        ),
        (
            {"machineType": "ct5lp-hightpu-4t"},
            "as tpuTopology: 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
        ),
        (
            {"machineType": "ct5lp-hightpu-8t", "tpuTopology": "4x4"},
            "takes no accelerator, and one of these as tpuTopology: 2x4",
        ),
    ],
)
def test_machines_that_are_refused(write, machine: dict, said: str):
    path = write(pool(machine))
    with pytest.raises(UserError, match=f"^machines.yaml: pool 1: .*{re.escape(said)}"):
        Shape.load(str(path))


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ([], "workerPoolSpecs has to be a list of machines"),
        ([None], "pool 1: give machineSpec, replicaCount, diskSpec as key: value lines"),
        ([{"replicaCount": 1}], "pool 1: machineSpec is missing"),
        ([pool(replicaCount=2)], "the first pool is the chief, so its replicaCount is 1, not 2"),
        ([pool(), pool(replicaCount=0)], "pool 2: replicaCount is 0; it has to be a whole number"),
        ([pool(), pool(), pool()], "3 pools; a job has a chief and, in the second pool, workers"),
        ([pool(), pool({"machineType": "n1-standard-8"})], "chief and workers have different acc"),
        ([pool(replicas=1)], "pool 1: unknown key 'replicas'; did you mean 'replicaCount'?"),
        ([pool(diskSpec={"bootDiskType": "pd-sdd"})], "'pd-sdd'; did you mean 'pd-ssd'?"),
        ([pool(diskSpec={"bootDiskSizeGb": 99})], "bootDiskSizeGb is 99; 100 to 64,000 are allow"),
        ([pool(diskSpec={"bootDiskSizeGb": 64001})], "bootDiskSizeGb is 64001; 100 to 64,000"),
        ([pool(diskSpec={"sizeGb": 200})], "diskSpec: unknown key 'sizeGb'"),
        (
            [pool({"machineType": "ct5lp-hightpu-1t", "tpuTopology": "1x1"}), pool()],
            "a TPU takes one pool alone",
        ),
        (
            [pool({"machineType": "ct5lp-hightpu-1t", "tpuTopology": "1x1"}, replicaCount=2)],
            "a TPU takes replicaCount 1, not 2",
        ),
    ],
)
def test_pools_that_are_refused(write, pools: list, said: str):
    path = write(*pools)
    with pytest.raises(UserError, match=f"^machines.yaml: .*{re.escape(said)}"):
        Shape.load(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give workerPoolSpecs as key: value lines"),
        ("[1]", "give workerPoolSpecs as key: value lines"),
        ("workerPoolSpec: []", "unknown key 'workerPoolSpec'; did you mean 'workerPoolSpecs'?"),
        ("workerPoolSpecs: [", "not YAML"),
        ("scheduling: {}\nworkerPoolSpecs: []", "unknown key 'scheduling'"),
        ("a: &a [*a]", "unknown key 'a'"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_files_that_are_refused(write, text: str, said: str):
    path = write(text=text)
    with pytest.raises(UserError, match=f"^machines.yaml: .*{re.escape(said)}"):
        Shape.load(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"machines\.yaml: not a text file in UTF-8"):
        Shape.load(str(path))


@pytest.mark.parametrize(
    ("machine", "pod"),
    [
        ({"machineType": "ct5lp-hightpu-4t", "tpuTopology": "2x2"}, False),
        ({"machineType": "ct5lp-hightpu-8t", "tpuTopology": "2x4"}, False),
        ({"machineType": "ct5lp-hightpu-4t", "tpuTopology": "2x4"}, True),
        ({"machineType": "ct6e-standard-4t", "tpuTopology": "8x8"}, True),
        ({"machineType": "cloud-tpu", "acceleratorType": "TPU_V3", "acceleratorCount": 8}, False),
        ({"machineType": "cloud-tpu", "acceleratorType": "TPU_V2", "acceleratorCount": 32}, True),
    ],
)
def test_tpus_of_several_machines(write, machine: dict, pod: bool):
    shape = Shape.load(str(write(pool(machine))))
    assert (shape.strategy, shape.tpu_pod) == ("tpu", pod)


@pytest.mark.parametrize("asked", ["one", "mirrored", "multiworker", "tpu"])
def test_a_config_that_asks_for_another_strategy(asked: str):
    for name in ("one_gpu", "four_gpus", "four_machines", "tpu_v5e"):
        shape = Shape.load(name)
        if shape.strategy == asked:
            assert shape.fit(config(f"train.strategy={asked}")).training.strategy == asked
            continue
        with pytest.raises(UserError) as caught:
            shape.fit(config(f"train.strategy={asked}"))
        assert str(caught.value) == (
            f"--set: train.strategy={asked} does not go with {shape.path} ({shape}), which takes "
            f"train.strategy={shape.strategy}; leave it out, or choose another shape"
        )


def test_devices_and_batches_that_do_not_fit():
    four = Shape.load("four_gpus")
    with pytest.raises(UserError, match=r"^--set: train\.devices=8, but the machine of .* has 4$"):
        four.fit(config("train.devices=8"))
    with pytest.raises(UserError, match="batch_size=30 can't be divided evenly among the 4 devi"):
        four.fit(config("batch_size=30"))
    assert four.fit(config("batch_size=30", "train.devices=2")).training.devices == 2
    for name in ("four_machines", "tpu_v5e"):
        with pytest.raises(UserError, match=r"^--set: train\.devices=1 has no effect on .*out$"):
            Shape.load(name).fit(config("train.devices=1"))
    with pytest.raises(UserError, match=r"batch_size=30 .* the 4 devices .* a multiple of 4$"):
        Shape.load("four_machines").fit(config("batch_size=30"))


def test_only_the_strategy_of_a_config_changes():
    before = config("lr=0.5")
    after = Shape.load("four_gpus").fit(before)
    assert after.differences(before) == ["train.strategy: mirrored, not auto"]
    assert after.origin("train.strategy").endswith("training_configs/four_gpus.yaml")
    assert after.origin("lr") == "--set"

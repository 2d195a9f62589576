"""Extras that configs need, against what the library itself asks for where a package is missing."""

import re
from pathlib import Path

import pytest

from trainer.config import JobConfig, Settings
from trainer.launch.vertex.extras import OWN, extras_of

ROOT = Path(__file__).resolve().parents[3]
GOOD = {"model_id": "mildnet", "loss": "triplet_semihard"}
#: What the sources ask for, but no job does: these extras are of commands, of this machine, or of
#: every job.
NOT_OF_JOBS = {
    *("beam", "cpu", "debug", "descriptors", "gpu", "notebook", "rerank", "serve", "tune"),
    "vertex",
}


def needed(*overrides: str, **values: str) -> list[str]:
    config = JobConfig.from_mapping({**GOOD, **values}, overrides, Settings(), name="shop")
    return extras_of(config, gpu=False)


@pytest.mark.parametrize(
    ("overrides", "extras"),
    [
        ([], []),
        (["trackers=csv, wandb, hyperdash", "index=annoy"], ["wandb", "hyperdash", "annoy"]),
        (["index=milvus"], ["milvus"]),
        (["model.trunk=kerashub:dinov2_small"], ["kerashub"]),
        (["model.trunk=kerascv:resnet50_imagenet"], ["kerascv"]),
        (["model.trunk=hub:https://tfhub.dev/a/b/1"], ["hub"]),
        (["model.trunk=hub(handle='gs://shop-data/module')"], ["hub"]),
        (["model.trunk=hub:/gcs/shop-data/module"], []),
        (["model.trunk=efficientnet_lite0"], []),
        (["model.trunk=efficientnet_lite0", "model.weights=imagenet"], ["pretrained"]),
        (["model.trunk=vgg16", "model.weights=imagenet"], []),
        (["model.trunk=swinv2", "model.weights=/gcs/a/b.safetensors"], ["pretrained"]),
        (["model.trunk=swinv2", "model.weights=/gcs/a/b.pth"], []),
        (["dataset=cars196"], ["mat"]),
        (["dataset=concat", "dataset.parts=cub200:birds, cars=cars196(val=2):cars"], ["mat"]),
        (["dataset=concat", "dataset.parts=cub200:birds"], []),
    ],
)
def test_what_a_job_needs(overrides: list[str], extras: list[str]):
    assert needed(*overrides) == ["cpu", *extras]


def test_an_embedding_of_tf_hub():
    given = {"model_id": "hub_embedding", "model.hub_handle": "https://tfhub.dev/a/b/1"}
    assert needed(**given) == ["cpu", "hub"]
    assert needed(**{**given, "model.hub_handle": "/gcs/shop-data/module"}) == ["cpu"]


def test_a_gpu():
    config = JobConfig.from_mapping(GOOD, (), Settings(), name="shop")
    assert extras_of(config, gpu=True) == ["gpu"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "job_configs").rglob("*.cnf")), ids=lambda path: path.stem
)
def test_all_job_configs(path: Path):
    """Told apart by their text alone."""
    text = path.read_text(encoding="utf-8")
    marks = {
        "pretrained": r"weights=\S*\.safetensors|(?s:trunk=.efficientnet_lite0.*weights=.imagenet)",
        "mat": r"^[^#]*cars196",
        **{name: rf"^[^#]*\b{name}\b" for name in (*OWN, "hub")},
    }
    expected = {name for name, mark in marks.items() if re.search(mark, text, re.MULTILINE)}
    assert set(extras_of(JobConfig.load(path, settings=Settings()), gpu=False)) == {
        "cpu",
        *expected,
    }


def test_no_extra_is_forgotten():
    asked: set[str] = set()
    for path in (ROOT / "trainer").rglob("*.py"):
        asked.update(re.findall(r"mildnet\[(\w+)\]", path.read_text(encoding="utf-8")))
    # trunks/presets.py asks for what its trunks are called.
    assert asked | {"kerascv", "kerashub"} == {*OWN, "hub", "mat", "pretrained", *NOT_OF_JOBS}

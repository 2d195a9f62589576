"""Every job config: the published values, and that each trains, exports, indexes, searches.

A config joins by being in `job_configs`. Jobs are made small by what anyone can set: pictures of
the least size, narrow layers, two steps on a few generated pictures.
"""

import csv
import json
import math
from pathlib import Path

import keras
import pytest
import yaml

from trainer.config import JobConfig, components
from trainer.config.settings import Settings
from trainer.data.readers.concat import parse_parts
from trainer.launch import job
from trainer.launch.phases import Phases
from trainer.launch.picker import find, find_configs
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import search_images
from trainer.models.shallow import SHALLOW
from trainer.models.trunks.assemble import parse_trunk
from trainer.serving.embedder import Embedder

CHOICES = find_configs(Path(__file__).resolve().parents[2] / "job_configs")
CONFIGS = {choice.full_name: choice.path for choice in CHOICES}

# As published: folder, config, model_id, loss, epochs, triplets in a batch, learning rate.
PUBLISHED = [
    ("", "alexnet", "alexnet", "hinge_loss", 20, 32, 0.001),
    ("", "mildnet", "mildnet_vgg16", "contrastive_loss", 30, 16, 0.001),
    ("", "ranknet", "ranknet", "contrastive_loss", 30, 16, 0.001),
    ("", "vanila_vgg16", "vanila_vgg16", "hinge_loss", 8, 16, 0.001),
    ("", "visnet", "visnet_model", "hinge_loss", 20, 16, 0.001),
    ("", "visnet-lrn2d", "visnet_lrn2d_model", "hinge_loss", 20, 16, 0.001),
    ("ablation_study", "skip_1", "mildnet_vgg16_skip_1", "hinge_loss", 20, 32, 0.001),
    ("ablation_study", "skip_2", "mildnet_vgg16_skip_2", "hinge_loss", 20, 32, 0.001),
    ("ablation_study", "skip_3", "mildnet_vgg16_skip_3", "hinge_loss", 20, 32, 0.001),
    ("ablation_study", "skip_4", "mildnet_vgg16_skip_4", "hinge_loss", 20, 16, 0.001),
    ("low_features", "512_512", "mildnet_512_512", "hinge_loss", 20, 16, 0.001),
    ("low_features", "1024_512", "mildnet_1024_512", "hinge_loss", 20, 16, 0.001),
    ("low_features", "512_no_dropout", "mildnet_512_no_dropout", "hinge_loss", 20, 16, 0.0001),
    ("other_losses", "hinge_new", "mildnet_vgg16", "hinge_new_loss", 18, 16, 0.0001),
    ("other_losses", "angular_1", "mildnet_vgg16", "angular_loss_1", 6, 16, 0.001),
    ("other_losses", "angular_2", "mildnet_vgg16", "angular_loss_2", 6, 16, 0.001),
    ("other_losses", "contrastive", "mildnet_vgg16", "contrastive_loss", 8, 16, 0.001),
    ("other_losses", "lossless", "mildnet_vgg16", "lossless_loss", 6, 16, 0.001),
    ("other_variants", "without_skip", "mildnet_without_skip", "hinge_loss", 8, 16, 0.001),
    ("other_variants", "without_skip_big", "mildnet_without_skip_big", "hinge_loss", 12, 16, 0.001),
    ("other_variants", "vgg19", "mildnet_vgg19", "contrastive_loss", 20, 16, 0.001),
    ("other_variants", "vgg16_big", "mildnet_vgg16_big", "hinge_loss", 8, 16, 0.001),
    ("other_variants", "mobilenet", "mildnet_mobilenet", "hinge_loss", 20, 16, 0.001),
    ("other_variants", "all_trainable", "mildnet_all_trainable", "hinge_loss", 20, 32, 0.001),
    ("other_variants", "cropped", "mildnet_vgg16", "hinge_loss", 20, 16, 0.0001),
]


#: Swin V2 on Stanford Online Products as published: dotted key -> value.
SWINV2 = {
    "image_size": 256,
    "dataset": "sop",
    "dataset.val": 2318,
    "model_id": "mildnet",
    "model.preprocessing": "native",
    "model.pooling": "gap",
    "model.skips": ["none"],
    "model.hidden": [],
    "model.embedding_dim": None,
    "model.normalize": False,
    "model.frozen": 0,
    "loss": "triplet_margin",
    "loss.margin": 1.0,
    "loss.distance": "euclidean",
    "loss.swap": False,
    "sampler": "random_triplets",
    "sampler.per_class": 5,
    "batch_size": 16,
    "augment": "mildnet",
    "augment.horizontal_flip": True,
    "augment.vertical_flip": False,
    "augment.zoom": 0.0,
    "augment.shear": 0.0,
    "augment.rotation": 0.0,
    "optimizer": "adamw",
    "optimizer.beta_1": 0.9,
    "optimizer.beta_2": 0.999,
    "optimizer.epsilon": 1e-8,
    "optimizer.amsgrad": True,
    "optimizer.published_epsilon": True,
    "optimizer.weight_decay": 0.01,
    "lr": 1e-4,
    "schedule": "cosine",
    "schedule.by_epoch": True,
    "schedule.final_lr": 1e-8,
    "schedule.warmup_steps": 0,
    "train_epochs": 15.0,
    "train.decay_exclude": "",
    "train.trunk_lr_scale": 1.0,
    "train.precision": "float32",
    "train.accumulate": 1,
    "train.clip_norm": None,
    "train.ema": None,
}


#: Prototrain's ranker as released: dotted key -> value.
RANKER = {
    "image_size": 224,
    "model_id": "mildnet",
    "model.trunk": "resnet50v2",
    "model.weights": "imagenet",
    "model.preprocessing": "native",
    "model.pooling": "gap",
    "model.skips": ["none"],
    "model.hidden": [],
    "model.embedding_dim": 512,
    "model.embedding_activation": "linear",
    "model.normalize": True,
    "model.frozen": 0,
    "loss": "ranker",
    "loss.margin": 0.1,
    "loss.fidelity": "corrected",
    "sampler": "pairs",
    "sampler.intra_domain": 0.0,
    "sampler.category_by": "batch",
    "batch_size": 64,
    "optimizer": "mo",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.0,
    "lr": 0.01,
    "schedule": "step",
    "schedule.boundaries": [50000.0],
    "schedule.factor": 0.1,
    "schedule.warmup_steps": 0,
    "steps": 250000,
    "train.clip_value": None,
    "train.clip_norm": None,
    "train.precision": "float32",
}

#: What sets the ranker's configs apart.
RANKER_DATA = {
    "sop": {
        "dataset.val": 0.1, "sampler.category_share": 0.8, "loss.negatives": "both",
        "sampler.query_domain": "", "query_domain": "",
    },
    "inshop": {
        "dataset.val": 0.1, "dataset.boxes": True, "sampler.category_share": 0.0,
        "loss.negatives": "both", "sampler.query_domain": "",
        "query_domain": "query", "gallery_domain": "gallery",
    },
    "consumer2shop": {
        "dataset.boxes": True, "sampler.category_share": 0.0, "loss.negatives": "positives",
        "sampler.query_domain": "street", "sampler.positive_domain": "shop",
        "query_domain": "street", "gallery_domain": "shop",
    },
}  # fmt: skip


#: Product recognition 2023, what the five phases share: dotted key -> value.
PHASES = {
    "model.trunk": "convnext(preset='xxlarge', head='linear')",
    "model.preprocessing": "clip",
    "model.embedding_dim": None,
    "dataset": "concat",
    "query_domain": "query",
    "gallery_domain": "gallery",
    "augment": "autoaugment",
    "optimizer": "adamw",
    "optimizer.weight_decay": 0.1,
    "schedule": "cosine",
    "train.trunk_lr_scale": 0.01,
    "train.decay_vectors": False,
    "train.clip_norm": 5.0,
    "train.precision": "mixed_bfloat16",
}
ARCFACE = {
    "model.embedding_dropout": 0.2, "loss": "subcenter_arcface", "loss.centers": 3,
    "loss.scale": 30.0, "loss.margin": None, "loss.margin_low": 0.05, "loss.margin_span": 0.45,
    "memory": "", "sampler": "shuffled",
}  # fmt: skip
XBM = {
    "model.embedding_dropout": 0.0, "loss": "contrastive_similarity", "loss.margin": 0.5,
    "memory": "xbm", "memory.size": 32000, "memory.weight": 1.0, "memory.momentum": None,
    "sampler": "classes_per_batch", "sampler.images_per_class": 2, "sampler.class_weight": "size",
}  # fmt: skip
#: And what sets them apart: image_size, batch_size, accumulate, lr, warm-up, epochs; Amazon's set.
PHASE_VALUES = {
    "arcface_1st": (ARCFACE, 224, 48, 1, 3e-4, 4500, 3, ""),
    "arcface_2nd": (ARCFACE, 256, 32, 1, 3e-4, 4500, 5, ""),
    "xbm_1st": (XBM, 256, 32, 1, 1e-4, 1000, 3, "mean_06"),
    "xbm_2nd": (XBM, 256, 32, 4, 1e-5, 1500, 3, "mean_05"),
    "xbm_3rd": (XBM, 256, 32, 4, 6e-6, 1500, 3, "mean_05"),
}


def full_name(folder: str, name: str) -> str:
    return f"mildnet_{folder}/mildnet_{name}" if folder else name


@pytest.fixture(autouse=True)
def policy():
    """Leave the precision of the process as it was: jobs set it."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def load(name: str, *overrides: str) -> JobConfig:
    return JobConfig.load(CONFIGS[name], overrides, Settings({}))


@pytest.mark.parametrize(("folder", "name", "model_id", "loss", "epochs", "batch", "lr"), PUBLISHED)
def test_a_config_has_the_published_values(folder, name, model_id, loss, epochs, batch, lr):
    config = load(full_name(folder, name))
    assert (config.model_id, config.loss) == (model_id, loss)
    assert (config.train_epochs, config.batch_size, config.lr) == (epochs, batch, lr)
    assert config.optimizer == ("rms" if name == "vgg16_big" else "mo")
    assert config.image_size == (227 if name == "alexnet" else 224)
    assert (config.dataset, config.sampler, config.augment) == ("triplets", "triplets", "mildnet")
    if name == "cropped":
        assert (config.train_csv, config.val_csv, config.parameters["dataset"]["images"]) == (
            "tops_cropped_train.csv", "tops_cropped_val_full.csv", "tops_cropped.zip",
        )  # fmt: skip
    else:
        assert config.train_csv == "tops_train_shuffle.csv"
        assert config.val_csv == "tops_val_full.csv"
    if config.optimizer == "mo":
        assert config.parameters["optimizer"] == {
            "momentum": 0.9, "nesterov": True, "weight_decay": 0.0,
        }  # fmt: skip


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_swin_v2_has_the_published_values(preset):
    config = load(f"image_retrieval/swinv2_{preset}_sop")
    values = config.to_dict()
    assert {key: values[key] for key in SWINV2} == SWINV2
    trunk, parameters = parse_trunk(values["model.trunk"])
    assert trunk.name == "swinv2"
    defaults = {"embed_dim": None, "depths": (), "heads": (), "patch": 4, "window": None}
    assert parameters | defaults | {"preset": preset, "drop_path": 0.1} == parameters
    assert f"swinv2-{preset}-patch4-window" in values["model.weights"]


@pytest.mark.parametrize("data", RANKER_DATA)
def test_the_ranker_has_the_published_values(data):
    values = load(f"prototrain/ranker_{data}").to_dict()
    wanted = RANKER | RANKER_DATA[data] | {"dataset": data}
    assert {key: values[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", PHASE_VALUES)
def test_the_phases_have_the_published_values(name):
    values = load(f"product_recognition/{name}").to_dict()
    loss, size, batch, accumulate, lr, warmup, epochs, amazon = PHASE_VALUES[name]
    wanted = PHASES | loss | {
        "image_size": size, "batch_size": batch, "train.accumulate": accumulate, "lr": lr,
        "schedule.warmup_steps": warmup, "train_epochs": epochs,
    }  # fmt: skip
    assert {key: values[key] for key in wanted} == wanted
    parts = {part.component.name: part.parameters for part in parse_parts(values["dataset.parts"])}
    assert parts["product10k"]["test"] == "train"
    assert "product_challenge" in parts
    assert amazon in parts.get("amazon_reviews", {"file": ""})["file"]


@pytest.mark.parametrize("file", ["phases", "phases_icons"])
def test_the_phases_follow_one_another(file):
    folder = Path(CONFIGS["product_recognition/xbm_1st"]).parent
    phases = Phases.load(str(folder / f"{file}.yaml")).phases
    assert [phase.name for phase in phases] == list(PHASE_VALUES)
    runs = [phase.folder.path for phase in phases]
    assert [phase.config.init_from for phase in phases] == ["", *runs[:-1]]


def test_the_other_configs_of_swin_v2_are_what_was_wished_for():
    names = sorted(name for name in CONFIGS if name.startswith("image_retrieval/swinv2_"))
    wished = [load(name) for name in names if not name.endswith(("_sop", "_fashion_mnist"))]
    assert {config.loss for config in wished} == {
        "multi_similarity", "triplet_hard", "contrastive", "proxy_anchor",
    }  # fmt: skip
    assert {config.parameters["model"]["embedding_dim"] for config in wished} == {256, 512}
    for config in wished:
        assert (config.dataset, config.sampler) == ("sop", "classes_per_batch")
        assert config.augment == "standard"
        assert config.parameters["model"]["normalize"]
        assert config.parameters["schedule"]["warmup_steps"] > 0
        assert config.training.precision != "float32"
        assert config.training.ema is not None
        assert config.training.trunk_lr_scale < 1


def test_the_published_configs_are_all_there_and_found_by_their_bare_names():
    names = {full_name(*row[:2]) for row in PUBLISHED}
    assert len(names) == 25
    assert names <= set(CONFIGS)
    for folder, name, *_ in PUBLISHED:
        full = full_name(folder, name)
        assert find(full.rsplit("/", 1)[-1], CHOICES) == CONFIGS[full]


def test_the_machine_that_a_config_names_is_described():
    for name in CONFIGS:
        machine = load(name).config
        if machine:
            (pool,) = yaml.safe_load(Path(machine).read_text())["workerPoolSpecs"]
            assert pool["replicaCount"] == 1
            assert pool["machineSpec"]["acceleratorCount"] == 1


def small(name: str) -> list[str]:
    """Return what makes the job of a config small."""
    config = load(name)
    model = config.parameters["model"]
    trunk, _ = parse_trunk(model["trunk"])
    if trunk.name == "swinv2":
        model["trunk"] = "swinv2(embed_dim=8, depths=(1,), heads=(1,), window=4)"
    if trunk.name == "resnet50v2":
        # It comes in one size; tests/models/trunks has it.
        model["trunk"] = "convnet_small(widths=(8, 16))"
    if trunk.name == "convnext":
        model["trunk"] = "convnext(depths=(1,), widths=(8,), head='linear', projection=8)"
    sizes = [32, int(trunk.tags["minimum"])]
    if model["shallow"] != "none":
        sizes.append(SHALLOW[model["shallow"]].minimum)
    overrides = {
        "model.trunk": model["trunk"],
        "model.weights": "none",
        "model.hidden": ",".join("8" for _ in model["hidden"]),
        "model.embedding_dim": 8 if model["embedding_dim"] else "none",
        "image_size": max(sizes),
        "dataset": "synthetic",
        "dataset.classes": 12,
        "dataset.views": 4,
        "dataset.size": 32,
        "train_csv": "",
        "val_csv": "",
        # What these are does not follow from the data set that takes the place of the config's.
        "augment": config.augment,
        "sampler": "random_triplets" if config.sampler == "triplets" else config.sampler,
        "batch_size": 4,
        "steps": 2,
        "trackers": "csv",
        "train.log_every": 1,
        "train.verify": "none",
    }
    if config.sampler == "classes_per_batch":
        overrides["sampler.images_per_class"] = 2
    if config.sampler == "pairs":
        # So that a category of the few generated products fills a batch.
        overrides["batch_size"] = 2
    if config.query_domain:
        overrides |= {"query_domain": "street", "gallery_domain": "shop"}
    if config.parameters["schedule"]["warmup_steps"]:
        overrides["schedule.warmup_steps"] = 1
    return [f"{key}={value}" for key, value in overrides.items()]


#: One whose embedding is a map that is neither pooled nor normalised.
RELEASED = ("vanila_vgg16", ("model.fidelity=released", "loss.fidelity=released"))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [*((name, ()) for name in CONFIGS), RELEASED],
    ids=[*CONFIGS, f"{RELEASED[0]} as released"],
)
def test_a_config_trains_exports_indexes_and_searches(name, overrides, pictures, tmp_path):
    config = load(name, *small(name), *overrides, f"data_path={pictures}")
    result = job.run(config, run_dir=str(tmp_path / "run"))
    folder = Path(result.run_dir)
    assert result.steps == 2
    losses = [float(row["loss"]) for row in csv.DictReader((folder / "training.csv").open())]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for stage in ("untrained", "color_histogram", "trained"):
        assert 0 <= evaluation[stage]["metrics"]["recall_at_1"] <= 1
    assert json.loads((folder / "neighbours.json").read_text())
    if config.parameters["model"]["embedding_dim"]:
        assert Embedder(folder / "model").dim == 8

    queries = sorted(str(path) for path in pictures.rglob("*.jpg"))[:2]
    found = search_images(RunFolder.open(result.run_dir), queries, 3)
    assert [row["query"] for row in found] == [query for query in queries for _ in range(3)]
    assert JobConfig.load(folder / "config.cnf", settings=Settings({})) == config


def test_every_model_of_the_project_has_a_config():
    used = {load(name).model_id for name in CONFIGS}
    assert used >= {row[2] for row in PUBLISHED}
    released = {
        name for name, component in components("model").items() if component.released is not None
    }
    assert released <= used

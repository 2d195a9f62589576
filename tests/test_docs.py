"""Nothing documented goes unrun: the blocks and links of README, CONTRIBUTING and docs.

The blocks of a file run in order, in a folder that holds what the guides speak of (see
:func:`workplace`). Python blocks of a file share one namespace. Commands of this library run in
this process, as they are written, but for options that make them small (:func:`small`). Any other
command has to be listed in `BY_HAND`, so that a new one is a decision and not an oversight.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shlex
import textwrap
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.main import get_command
from typer.testing import CliRunner

import execute
import trainer.cli
import trainer.task
from tests.models import convnext_nets
from tests.reference.swinv2_cases import CASES, weight
from trainer.config import JobConfig, UserError
from trainer.data.readers.items import read_items
from trainer.launch.commands.options import WithDefault
from trainer.launch.phases import Phases
from trainer.launch.tuning.space import Space

ROOT = Path(__file__).resolve().parents[1]
DOCS = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))),
]

#: What a block may be marked as; `text` is for people only.
LANGUAGES = {"python", "sh", "cnf", "csv", "yaml", "text"}

APPS = {
    ("mildnet",): trainer.cli.app,
    ("python", "execute.py"): execute.app,
    ("python", "-m", "trainer.task"): trainer.task.app,
}

#: Commands of the guides that only a person runs, and why no test does.
BY_HAND = {
    "make demo": "makes an environment and trains for minutes",
    "make test": "is what runs this",
    "tensorboard --logdir runs": "serves until it is stopped",
    "export TF_CONFIG='{"
    '"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}'
    "}'": "several machines: tests/training/test_workers.py trains on two processes",
    "mildnet train shop.cnf --run-dir /shared/runs/shop": "several machines, see TF_CONFIG",
    "python3 -m venv .venv": "on a machine with a GPU",
    '.venv/bin/pip install -c constraints.txt -e ".[gpu,notebook]"': "on a machine with a GPU",
    "python execute.py --local --config mildnet --yes --set data_path=street2shop": (
        "trains VGG16 from ImageNet's weights; tests/launch/test_gallery.py runs every config"
    ),
    "python -m trainer.task --model-id mildnet_vgg16 --loss contrastive_loss --optimizer mo "
    "--train-csv tops_train_shuffle.csv --val-csv tops_val_full.csv --train-epocs 30 "
    "--batch-size 16 --lr 0.001 --data-path street2shop --job-dir runs/flags": (
        "the same; tests/launch/test_task.py runs a job by these flags"
    ),
    "mildnet convert mildnet-h5 weights-improvement-20-0.02.h5 --model-id mildnet_vgg16 "
    "--to runs/released": "needs weights of the authors: tests/models/weights converts files alike",
    '.venv/bin/pip install -c constraints.txt -e ".[gpu,pretrained]"': "on a machine with a GPU",
    '.venv/bin/pip install -c constraints.txt -e ".[wandb]"': "changes the environment",
    '.venv/bin/pip install -c constraints.txt -e ".[tune]"': "changes the environment",
    "mildnet tune shop.cnf --space space.yaml --to /shared/search --storage /shared/search.log": (
        "several machines: tests/launch/tuning/test_study.py shares a study between processes"
    ),
    "mildnet tune shop.cnf --space space.yaml --to search "
    "--storage postgresql://user@db/optuna --study shop": "needs a database",
    "sbatch --array=0-5 --wrap "
    "'mildnet tune shop.cnf --space grid.yaml --to grid --index-from-env auto'": "needs a cluster",
    "wandb login": "asks for a key",
    "wandb sync runs/offline/wandb/offline-run-*": "needs an account",
    "mildnet train job_configs/demo/synthetic.cnf --run-dir runs/online --set trackers=csv,wandb "
    "--set tracker.wandb.project=shop": "needs an account; the offline job beside it runs",
    "sudo apt install --no-install-recommends oxygen-icon-theme gnome-icon-theme tango-icon-theme "
    "mate-icon-theme elementary-xfce-icon-theme faenza-icon-theme": "changes the machine",
    "mildnet data icon-themes --to data/icons": (
        "needs the themes: tests/data/test_icon_themes.py writes some of its own"
    ),
    "mildnet train job_configs/prototrain/icons.cnf": "needs the themes, too",
    "mildnet rank --model runs/shop --gallery dev/gallery.csv --queries dev/queries.csv "
    "--post challenge --to ranks.npy": "needs a finished run: tests/launch/test_ranking.py has one",
    "mildnet train --model-module my_ranker --run-dir runs/looked --debug": (
        "needs a terminal: tests/launch/test_debugging.py has one"
    ),
    "curl -O ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip": "a download",
    "unzip -q Stanford_Online_Products.zip -d data": "a download",
    "mkdir -p weights": "for downloads",
    **dict.fromkeys(
        (
            f"curl -L -o weights/{name}.safetensors "
            f"https://huggingface.co/microsoft/{name}/resolve/main/model.safetensors"
            for name in ("swinv2-base-patch4-window16-256", "swinv2-tiny-patch4-window8-256")
        ),
        "a download",
    ),
    '.venv/bin/pip install -c constraints.txt -e ".[gpu,pretrained,beam]"': (
        "on a machine with a GPU"
    ),
    "curl -L -o weights/open_clip_pytorch_model.bin https://huggingface.co/laion/"
    "CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup/resolve/main/"
    "open_clip_pytorch_model.bin": ("a download"),
    "mildnet phases job_configs/product_recognition/phases.yaml --set train.log_every=100": (
        "needs downloads and a GPU; tests/launch/test_gallery.py runs every config"
    ),
    "mildnet convert open-clip weights/open_clip_pytorch_model.bin --to runs/clip "
    "--set data_path=data": "needs downloads: tests/launch/test_converting.py converts files alike",
    "mildnet rank --model runs/product_recognition/5_xbm_3rd --data data/development_test_data "
    "--gallery data/development_test_data/gallery.csv "
    "--queries data/development_test_data/queries.csv --post challenge --to ranks.npy": (
        "needs downloads: tests/launch/test_ranking.py ranks lists alike"
    ),
    "mildnet export runs/product_recognition/5_xbm_3rd --to exported --precision float16 "
    "--image-size 272": "needs downloads and a GPU: docs/inference.md exports small runs",
    "mildnet convert swinv2 weights/swinv2-base-patch4-window16-256.safetensors "
    "--to runs/pretrained --set dataset=sop --set data_path=data": (
        "needs downloads: tests/launch/test_converting.py converts files alike"
    ),
    **dict.fromkeys(
        (
            *(
                f"mildnet train job_configs/image_retrieval/swinv2_base_sop{name}.cnf "
                f"--set data_path=data {options}"
                for name, options in (
                    ("", "--run-dir runs/swinv2-base"),
                    ("", "--set model.weights=none --set steps=1 --run-dir runs/untrained"),
                    ("_multi_similarity", "--run-dir runs/multi-similarity"),
                )
            ),
            "mildnet evaluate runs/pretrained",
            "mildnet evaluate runs/swinv2-base",
            "mildnet report runs/swinv2-base runs/multi-similarity --to compared.html",
        ),
        "needs downloads and a GPU; tests/launch/test_gallery.py runs every config",
    ),
    '.venv/bin/pip install -c constraints.txt -e ".[beam]"': "changes the environment",
    **dict.fromkeys(
        (
            f"mildnet amazon-reviews --reviews {reviews} --metadata {metadata}"
            f"    --model {place}runs/phase-2 --to {to}Amazon-review{options}"
            for reviews, metadata, place, to, options in (
                (
                    *("dump/Appliances.json.gz", "dump/meta_Appliances.json.gz", "", "data/"),
                    " --threshold 0.5 --threshold 0.6",
                ),
                (
                    *("'dump/[A-Z]*.json.gz'", "'dump/meta_*.json.gz'", "", "data/"),
                    " --threshold 0.5 --threshold 0.6",
                ),
                (
                    *("dump/Appliances.json.gz", "dump/meta_Appliances.json.gz", "", "data/"),
                    "    -- --direct_running_mode multi_processing --direct_num_workers 2",
                ),
                (
                    *("'gs://shop/dump/[A-Z]*.json.gz'", "'gs://shop/dump/meta_*.json.gz'"),
                    *("gs://shop/", "gs://shop/"),
                    "    -- --runner DataflowRunner --project shop --region europe-west4"
                    " --temp_location gs://shop/tmp    --sdk_container_image"
                    " europe-docker.pkg.dev/shop/images/mildnet --max_num_workers 20",
                ),
                *(
                    (
                        *("'/shared/dump/[A-Z]*.json.gz'", "'/shared/dump/meta_*.json.gz'"),
                        *("/shared/", "/shared/"),
                        f"    -- --runner {runner} --environment_type DOCKER"
                        f"    --environment_config registry.example/mildnet{more}",
                    )
                    for runner, more in (
                        ("FlinkRunner --flink_master flink:8081", " --parallelism 16"),
                        ("SparkRunner --spark_master_url spark://spark:7077", ""),
                    )
                ),
            )
        ),
        "needs the dump: tests/launch/amazon_reviews makes a small one, and a server for it",
    ),
    '.venv/bin/pip install -c constraints.txt -e ".[serve,cpu]"': "changes the environment",
    "mildnet serve runs/shop": "serves until it is stopped: tests/launch/test_serving.py has one",
    "mildnet serve runs/shop --host 0.0.0.0 --api-key-file keys": "the same",
    "mildnet serve runs/shop --index shop-index": "the same",
    "openssl rand -hex 24 > keys": "for the service",
    "mildnet index merge runs/shop/index": "tests/launch/test_merging_changes.py has many",
    **dict.fromkeys(
        (
            "curl -F picture=@customer-photo.jpg http://127.0.0.1:8080/v1/search",
            "curl -F picture=@customer-photo.jpg -F k=5 -F category=mug -F box=10,5,30,30 "
            "http://127.0.0.1:8080/v1/search",
            'curl "http://127.0.0.1:8080/v1/neighbours/img/17-4.jpg?k=5&domain=shop"',
            'curl -H "Content-Type: application/json" -d \'{"url": "https://shop.example/hat.jpg", '
            '"k": 5}\' http://127.0.0.1:8080/v1/search-url',
            "curl http://127.0.0.1:8080/v1/catalogue",
            'curl "http://127.0.0.1:8080/v1/products?offset=0&limit=100&category=mug"',
            "curl http://127.0.0.1:8080/v1/products/img/17-4.jpg",
            'curl -o hat.jpg "http://127.0.0.1:8080/v1/pictures/img/17-4.jpg?size=256"',
            "curl -X PUT -F picture=@customer-photo.jpg -F label=mug-7 -F category=mug "
            "http://127.0.0.1:8080/v1/products/new/mug-7",
            "curl -X DELETE http://127.0.0.1:8080/v1/products/new/mug-7",
            'curl -H "X-API-Key: $(cat keys)" -F picture=@customer-photo.jpg '
            "http://127.0.0.1:8080/v1/search",
        ),
        "needs the service: tests/serving/api asks all of this",
    ),
    "mildnet train job_configs/demo/synthetic.cnf --set dataset=amazon_reviews "
    "--set data_path=data/Amazon-review": "needs what the dump becomes",
    "sbatch --array=1-4 --wrap 'mildnet embed runs/shop --items shop --to shards "
    "--shard $SLURM_ARRAY_TASK_ID/4'": "needs a cluster",
    **dict.fromkeys(
        (
            "mildnet embed runs/shop --items gs://shop/catalogue --to gs://shop/shards --shard 1/4",
            "mildnet embed merge gs://shop/shards --to merged",
            "mildnet embed gs://shop/runs/shop --items gs://shop/catalogue --to gs://shop/embedded "
            "--beam    -- --runner DataflowRunner --project shop --region europe-west4 "
            "--temp_location gs://shop/tmp    --sdk_container_image "
            "europe-docker.pkg.dev/shop/images/mildnet --max_num_workers 20",
            "mildnet embed merge gs://shop/embedded --to merged",
        ),
        "needs a bucket: tests/launch/embedding has one in memory",
    ),
    **dict.fromkeys(
        (
            '.venv/bin/pip install -c constraints.txt -e ".[vertex]"',
            "gcloud auth login",
            "gcloud auth application-default login",
            "gcloud config set project my-shop",
            "gcloud services enable aiplatform.googleapis.com storage.googleapis.com "
            "logging.googleapis.com",
            "gcloud services enable artifactregistry.googleapis.com cloudbuild.googleapis.com",
            "gcloud storage buckets create gs://my-shop-jobs --location=europe-west4 "
            "--uniform-bucket-level-access",
            "gcloud iam service-accounts create trainer",
            "gcloud storage buckets add-iam-policy-binding gs://my-shop-jobs "
            "--member=serviceAccount:trainer@my-shop.iam.gserviceaccount.com "
            "--role=roles/storage.objectAdmin",
            *(
                "gcloud projects add-iam-policy-binding my-shop "
                "--member=serviceAccount:trainer@my-shop.iam.gserviceaccount.com "
                f"--role=roles/{role}"
                for role in ("logging.logWriter", "aiplatform.user")
            ),
            "gcloud storage cp -r shop gs://my-shop-jobs/data",
            "mildnet submit job_configs/demo/synthetic.cnf --shape cpu",
            "gcloud storage cp -r gs://my-shop-jobs/mildnet/synthetic_1 runs",
            "mildnet search runs/synthetic_1 customer-photo.jpg",
            "mildnet submit job_configs/mildnet.cnf --shape one_a100 "
            "--data-path gs://my-shop-jobs/data/street2shop --spot --timeout 12h "
            "--label team=search",
            "tensorboard --logdir gs://my-shop-jobs/mildnet/synthetic_1/logs",
            "gcloud ai tensorboards create --display-name=mildnet --region=europe-west4",
            "gcloud artifacts repositories create images --repository-format=docker "
            "--location=europe-west4",
            "gcloud builds submit --tag europe-west4-docker.pkg.dev/my-shop/images/mildnet:1 "
            "--timeout=1h",
            "mildnet submit job_configs/demo/synthetic.cnf --shape one_gpu "
            "--image europe-west4-docker.pkg.dev/my-shop/images/mildnet:1",
        ),
        "needs a Google Cloud project: tests/launch/vertex submits jobs to one on this machine",
    ),
    '.venv/bin/pip install -c constraints.txt -e ".[milvus]"': "changes the environment",
    "milvus-lite server --data-dir milvus-data --host 127.0.0.1 --port 19530": (
        "serves until it is stopped"
    ),
    **dict.fromkeys(
        (
            "export MILVUS_TOKEN=root:Milvus",
            "mildnet index runs/shop --embeddings merged --to cluster-index --set index=milvus "
            "--set index.uri=http://milvus:19530 --set index.collection=shop",
            "mildnet search runs/shop customer-photo.jpg --index cluster-index",
        ),
        "needs a server: tests/retrieval/indexes/test_milvus.py has one on this machine",
    ),
}

#: Files whose commands reproduce long runs: options and configs are checked, nothing is run.
LONG = {"docs/results.md", "docs/benchmarks.md"}

#: Makes any job small: a net that learns nothing much, in seconds.
SMALL_JOB = {
    "model.trunk": "convnet_small(widths=(16, 32))",
    "model.weights": "none",
    "model.frozen": 0,
    "model.embedding_dim": 16,
    "image_size": 32,
    "batch_size": 8,
    "steps": 5,
    "schedule.warmup_steps": 2,
}
SMALL_DATA = {"dataset.classes": 16, "dataset.views": 6, "dataset.size": 32}
#: The catalogue below has too few items for the default of 256 centroids a code.
SMALL_INDEX = {"ivf_pq": {"index.bits": 4}}


@dataclass(frozen=True)
class Block:
    """A fenced block: where its first line is, its language, its text."""

    file: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def commands(self) -> list[str]:
        """Return the command lines of a `sh` block, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_blocks(file: str, text: str) -> list[Block]:
    blocks: list[Block] = []
    body: list[str] = []
    opened: tuple[int, str] | None = None
    indent = ""
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"( *)```(.*)$", line)
        if opened is None and fence:
            indent, opened, body = fence[1], (number + 1, fence[2].strip()), []
        elif opened is not None and fence and not fence[2]:
            blocks.append(Block(file, *opened, textwrap.dedent("\n".join(body) + "\n")))
            opened = None
        elif opened is not None:
            body.append(line)
            assert not line.strip() or line.startswith(indent), f"{file}:{number}: indentation"
    assert opened is None, f"{file}:{opened[0]}: the block is never closed"
    return blocks


def blocks_of(file: str) -> list[Block]:
    return read_blocks(file, (ROOT / file).read_text(encoding="utf-8"))


def inline_code(file: str) -> list[str]:
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", (ROOT / file).read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def split_command(command: str) -> tuple[Any, list[str]]:
    """Return the app of a command of this library with its arguments, (None, []) for others."""
    words = shlex.split(command, comments=True)
    for lead, app in APPS.items():
        if tuple(words[: len(lead)]) == lead:
            return app, words[len(lead) :]
    return None, []


def parse(app: Any, arguments: list[str]) -> dict[str, Any]:
    """Return the values of a command's options without running it; a wrong option raises."""
    command: Any = get_command(app)
    arguments = list(arguments)
    while getattr(command, "commands", None) and arguments:
        if isinstance(command, WithDefault):
            arguments = command.named(arguments)
        command = command.commands[arguments.pop(0)]
    return command.make_context("command", arguments).params


def config_of(values: dict[str, Any]) -> JobConfig | None:
    """Return the config that a command trains with, None if it does not train."""
    name, overrides = values.get("config"), values.get("overrides") or []
    if values.get("model_module"):
        return JobConfig.from_module(values["model_module"], overrides)
    if name is None or values.get("list_configs"):
        return None
    path = Path(name)
    if not path.suffix:
        path = next(Path("job_configs").rglob(f"{name}.cnf"))
    return JobConfig.load(path, overrides)


def small(app: Any, arguments: list[str]) -> list[str]:
    """Return the arguments with options behind them that make the command small."""
    values = parse(app, arguments)
    config = config_of(values)
    wanted: dict[str, Any] = {}
    if config is not None:
        wanted = SMALL_JOB | (SMALL_DATA if config.dataset == "synthetic" else {})
    if config is not None and config.model_module:
        wanted = {key: SMALL_JOB[key] for key in ("image_size", "batch_size", "steps")}
    for index, changes in SMALL_INDEX.items():
        if f"index={index}" in (values.get("overrides") or []):
            wanted = wanted | changes
    fewer = ["--trials", "1"] if values.get("trials") else []
    return [
        *arguments,
        *fewer,
        *(word for key in wanted for word in ("--set", f"{key}={wanted[key]}")),
    ]


PRODUCTS, VIEWS = 18, 6


def make_catalogue(folder: Path) -> None:
    """Write `shop/` (and the same pictures as folders and as triplets): what the guides name."""
    random = np.random.default_rng(0)
    rows = []
    for product in range(PRODUCTS):
        colour = random.integers(30, 226, 3)
        for view in range(VIEWS):
            pixels = np.clip(colour + random.normal(0, 20, (40, 48, 3)), 0, 255)
            name = f"img/{product}-{view}.jpg"
            split = "train" if product < 10 else "val" if product < 14 else "test"
            place = folder / "by-product" / f"product-{product}" / f"{view}.jpg"
            for path in (folder / "shop" / name, place):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
            domain = "street" if view % 2 else "shop"
            rows.append([name, f"product-{product}", split, domain, ("mug", "hat")[product % 2]])
    header = ["path", "label", "split", "domain", "category"]
    write_csv(folder / "shop" / "items.csv", [header, *rows])
    write_csv(folder / "shop" / "catalogue.csv", [header, *(r for r in rows if r[3] == "shop")])
    new = [[*row[:3], "shop", row[4]] for row in rows if row[3] == "street"][-6:]
    write_csv(folder / "shop" / "arrivals.csv", [header, *new])
    (folder / "customer-photo.jpg").write_bytes((folder / "shop" / rows[-1][0]).read_bytes())

    tops = folder / "tops"
    (tops / "tops").mkdir(parents=True)
    for path in (folder / "shop" / "img").iterdir():
        (tops / "tops" / path.name).write_bytes(path.read_bytes())
    for name, first in (("train.csv", 0), ("val.csv", 10)):
        triplets = [
            (f"{p}-0.jpg", f"{p}-1.jpg", f"{(p + 1) % 18}-2.jpg") for p in range(first, first + 8)
        ]
        write_csv(tops / name, triplets)

    street = folder / "street2shop"
    street.mkdir()
    with zipfile.ZipFile(street / "tops.zip", "w") as archive:
        for path in (tops / "tops").iterdir():
            archive.write(path, f"tops/{path.name}")
    for name, source in (("tops_train_shuffle", "train"), ("tops_val_full", "val")):
        (street / f"{name}.csv").write_bytes((tops / f"{source}.csv").read_bytes())


def make_checkpoint(folder: Path) -> None:
    """Write `model.safetensors` and `config.json` of a small Swin V2, as Hugging Face has them."""
    shapes = np.load(ROOT / "tests/reference/swinv2_goldens.npz")["plain|shapes"]
    arrays = {name: weight(name, tuple(shape)) for name, shape in json.loads(str(shapes)).items()}
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors")
    config = {"model_type": "swinv2", "patch_size": 4, "pretrained_window_sizes": [0, 0]}
    (folder / "config.json").write_text(json.dumps(config | CASES["plain"]))


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guides")
    make_catalogue(folder)
    make_checkpoint(folder / "swinv2")
    (folder / "clip").mkdir()
    clip = convnext_nets.checkpoint("linear")
    save_file(clip, folder / "clip" / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def workplace(catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with what the guides speak of, and a process that is left as it was.

    shop/items.csv, shop/catalogue.csv, shop/arrivals.csv and shop/img/, by-product/LABEL/, tops/
    with triplets, street2shop/ with triplets as MILDNet names them, customer-photo.jpg, swinv2/
    and clip/ with a checkpoint each, shop.cnf (the demo's config on shop/), job_configs/.
    """
    for path in catalogue.iterdir():
        os.symlink(path, tmp_path / path.name)
    os.symlink(ROOT / "job_configs", tmp_path / "job_configs")
    monkeypatch.chdir(tmp_path)
    for name in ("MILDNET_DATA_PATH", "MILDNET_JOB_DIR", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))
    logger = logging.getLogger("trainer")
    before = logger.level, list(logger.handlers), logger.propagate
    policy = keras.config.dtype_policy()
    yield tmp_path
    logger.level, logger.handlers, logger.propagate = before
    keras.config.set_dtype_policy(policy)


def run_command(block: Block, command: str) -> None:
    app, arguments = split_command(command)
    if block.file in LONG:
        if app is not None:
            config_of(parse(app, arguments))
        benchmark = re.search(r"python -m benchmarks (\w+)", command)
        if benchmark:
            assert (ROOT / "benchmarks" / f"{benchmark[1]}.py").is_file(), (
                f"{block.place}: {command}"
            )
        return
    if app is None or command in BY_HAND:
        assert command in BY_HAND, (
            f"{block.place}: {command!r} is no command of this library: if only a person can run "
            "it, list it in BY_HAND"
        )
        return
    result = CliRunner().invoke(app, small(app, arguments))
    if result.exit_code and not isinstance(result.exception, SystemExit):
        raise result.exception or RuntimeError(command)
    assert result.exit_code == 0, f"{block.place}: {command}\n{result.output}"


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    # Empty lines in front, so that a traceback shows the line of the document.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(ROOT / block.file), "exec"), namespace)  # noqa: S102 - our own guides


def check_config(block: Block) -> None:
    """A whole config has to load; a part of one, on top of the demo's."""
    path = Path("block.cnf")
    path.write_text(block.text)
    lines = [line for line in block.text.splitlines() if line.strip() and line[0] != "#"]
    whole = any(line.startswith("model_id") for line in lines) and "loss=" in block.text
    try:
        if whole:
            JobConfig.load(path)
            path.rename("shop.cnf")
        else:
            JobConfig.load("job_configs/demo/synthetic.cnf", lines)
    except UserError as error:
        raise AssertionError(f"{block.place}: {error}") from None


def check_yaml(block: Block) -> None:
    """Phases, or what a search tries, in the file that the first line names: phases have to name
    configs that load, a search has to fit the demo's job."""
    name = block.text.splitlines()[0].removeprefix("# ")
    Path(name).write_text(block.text)
    try:
        if "\nphases:" in block.text:
            Phases.load(name)
        else:
            Space(name, "job_configs/demo/synthetic.cnf")
    except UserError as error:
        raise AssertionError(f"{block.place}: {error}") from None


def check_csv(block: Block, folder: Path) -> None:
    """A table with a header has to be an items.csv, one without a list of triplets."""
    rows = list(csv.reader(io.StringIO(block.text)))
    if "path" in rows[0]:
        path = folder / "block.csv"
        path.write_text(block.text)
        assert read_items(str(path)).problems == (), block.place
    else:
        assert {len(row) for row in rows} == {3}, block.place


def run_blocks(blocks: list[Block], folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        assert block.language in LANGUAGES, f"{block.place}: language {block.language!r}"
        if block.language == "python":
            run_python(block, namespace)
        elif block.language == "sh":
            for command in block.commands():
                run_command(block, command)
        elif block.language == "cnf":
            check_config(block)
        elif block.language == "yaml":
            check_yaml(block)
        elif block.language == "csv":
            check_csv(block, folder)


@pytest.mark.parametrize("file", DOCS)
def test_every_block_runs(file: str, workplace: Path) -> None:
    run_blocks(blocks_of(file), workplace)


@pytest.mark.parametrize("file", DOCS)
def test_every_command_in_a_sentence_has_options_that_exist(file: str) -> None:
    targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
    for code in inline_code(file):
        app, arguments = split_command(code) if not code.endswith("...") else (None, [])
        if app is not None and arguments:
            parse(app, arguments)
        if code.startswith("make "):
            assert set(code.split()[1:]) <= set(targets), f"{file}: {code}"


@pytest.mark.parametrize("file", DOCS)
def test_every_link_leads_somewhere(file: str) -> None:
    folder = (ROOT / file).parent
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / file).read_text(encoding="utf-8"))
    broken = [
        link
        for link in links
        if not re.match(r"https?://|mailto:|#", link) and not (folder / link.split("#")[0]).exists()
    ]
    assert not broken, f"{file}: nothing is at {', '.join(broken)}"


def test_what_only_a_person_runs_is_still_in_the_guides() -> None:
    written = {
        command
        for file in DOCS
        for block in blocks_of(file)
        if block.language == "sh"
        for command in block.commands()
    }
    assert set(BY_HAND) <= written


def test_blocks_are_found_also_in_lists_and_never_left_open() -> None:
    text = (
        "- a list\n\n  ```sh\n  make demo\n  mildnet \\\n    describe\n  ```\n\n```text\nx\n```\n"
    )
    first, second = read_blocks("some.md", text)
    assert (first.place, first.language) == ("some.md:4", "sh")
    assert first.commands() == ["make demo", "mildnet    describe"]
    assert second.text == "x\n"
    with pytest.raises(AssertionError, match=r"some\.md:2: the block is never closed"):
        read_blocks("some.md", "```sh\nmildnet\n")


@pytest.mark.parametrize(
    ("language", "text", "error"),
    [
        ("sh", "rm -rf shop", "no command of this library"),
        ("sh", "mildnet describe loss no_such_loss", "unknown loss"),
        ("sh", "mildnet train job_configs/demo/synthetic.cnf --set loss.margn=1", "loss.margn"),
        ("sh", "mildnet search runs/none photo.jpg --no-such-option", "--no-such-option"),
        ("sh", "mildnet search runs/none photo.jpg", "not a run folder"),
        ("cnf", "loss.margn=0.2", "loss.margn"),
        ("yaml", "# p.yaml\nphases: [gone.cnf]", "gone.cnf: no such file"),
        ("yaml", "# space.yaml\nloss.margn: {choices: [0.2]}", "did you mean 'loss.margin'"),
        ("csv", "path,lable\na.jpg,1", "lable"),
        ("csv", "path,label\na.jpg", "the header has 2"),
        ("python", "raise ValueError('from the guide')", "from the guide"),
        ("pyhton", "1", "language 'pyhton'"),
    ],
)
def test_a_block_that_is_wrong_fails_and_says_why(
    language: str, text: str, error: str, workplace: Path
) -> None:
    block = Block("some.md", 1, language, text + "\n")
    # Wrong options end in click's errors, wrong keys in a UserError, the rest in assertions.
    with pytest.raises(Exception, match=re.escape(error)):
        run_blocks([block], workplace)

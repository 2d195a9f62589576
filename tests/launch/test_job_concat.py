"""A whole job on several data sets as one: trained on two, measured on a third."""

import json
from pathlib import Path

import pytest

from tests.data import product_sets
from trainer.launch import job

from .conftest import small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    product_sets.product10k(folder)
    product_sets.amazon_reviews(folder, (4, 5, 1, 3))
    product_sets.challenge(folder, products=5)
    return folder


def test_two_steps_on_two_sets_and_the_challenge_searched(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MILDNET_CACHE", str(tmp_path / "cache"))
    config = small_config(
        data,
        "dataset=concat",
        f"data_path={data}",
        "dataset.parts=product10k(test='train'):Product10K, "
        "amazon_reviews(min_images=2):Amazon-review, "
        "product_challenge:development_test_data",
        "dataset.train_only=product10k, amazon_reviews",
        "val_split=test",
        "query_domain=query",
        "gallery_domain=gallery",
        "sampler.images_per_class=2",
        "sampler.class_weight=size",
        "batch_size=8",
        "steps=2",
    )
    done = job.run(config, run_dir=str(tmp_path / "run"))
    assert done.steps == 2
    found = json.loads((Path(done.run_dir) / "evaluation.json").read_text())
    facts = json.loads((Path(done.run_dir) / "environment.json").read_text())["data"]
    assert facts["train"]["images"] == 6 * (3 + 2) + 4 + 5 + 3
    assert facts["train"]["classes"] == 6 + 3
    trained = found["trained"]
    assert (trained["queries"], trained["gallery"]) == (5, 10)
    assert 0 < trained["metrics"]["truncated_map"] <= 1
    assert trained["metrics"]["truncated_map"] == trained["metrics"]["map_at_1000"]

"""The key `miner`: with a loss over triplets, on labelled batches."""

import pytest

from trainer.config import JobConfig, Settings, UserError, registry

MINED = {"model_id": "mildnet", "loss": "triplet_margin", "miner": "distance_weighted"}


def load(*overrides, **changes):
    return JobConfig.from_mapping({**MINED, **changes}, overrides, Settings({}), source="x.cnf")


def fails(*overrides, **changes):
    with pytest.raises(UserError) as error:
        load(*overrides, **changes)
    return str(error.value)


def test_a_miner_asks_for_batches_of_labels():
    config = load(**{"miner.cutoff": 0.6})
    assert (config.miner, config.sampler) == ("distance_weighted", "classes_per_batch")
    assert config.example_rows() == 1
    assert config.parameters["miner"] == {
        "cutoff": 0.6,
        "nonzero_loss_cutoff": 1.4,
        "positives": 3,
    }
    assert load(train_csv="a.csv").sampler == "classes_per_batch"
    assert load(miner="").sampler == "random_triplets"
    assert load("miner=").example_rows() == 3


def test_a_saved_config_gives_the_same_job_back():
    for config in (load(**{"miner.positives": 2}), load(miner="")):
        again = JobConfig.from_mapping(config.to_dict(), (), Settings({}))
        assert again == config
        assert again.fingerprint() == config.fingerprint()
    assert load().fingerprint() != load(**{"miner.cutoff": 0.7}).fingerprint()
    assert load().fingerprint() != load(miner="").fingerprint()


def test_a_miner_that_is_taken_back_or_replaced_takes_its_keys_along():
    keys = {"miner.cutoff": 0.6}
    assert load("miner=", **keys).parameters.get("miner") is None
    assert load("miner=easy_positive", **keys).parameters["miner"]["negatives"] == "semihard"


def test_a_miner_is_built_with_the_seed_of_the_job():
    miner = load(seed=7, **{"miner.cutoff": 0.6}).build("miner", 7)
    assert (miner.seed, miner.cutoff) == (7, 0.6)
    with pytest.raises(
        UserError, match=r"miner\.nonzero_loss_cutoff: nonzero_loss_cutoff=0.3 must"
    ):
        load(**{"miner.nonzero_loss_cutoff": 0.3}).build("miner", 7)


def test_what_does_not_go_together_is_said_in_one_line():
    of_triplets = [
        name
        for name, found in registry.components("loss").items()
        if found.tags["takes"] == "triplets"
    ]
    assert fails(loss="triplet_semihard") == (
        "x.cnf: miner 'distance_weighted' finds triplets, but loss 'triplet_semihard' learns from "
        f"labels; fitting losses: {', '.join(of_triplets)}"
    )
    message = fails(sampler="random_triplets")
    assert message.startswith(
        "x.cnf: miner 'distance_weighted' learns from labels, but sampler 'random_triplets' gives "
        "triplets; fitting samplers: classes_per_batch"
    )
    assert fails(miner="distance_wieghted") == (
        "x.cnf: unknown miner 'distance_wieghted'; did you mean 'distance_weighted'?"
    )
    assert fails(**{"miner.cutof": 1}) == (
        "x.cnf: unknown key 'miner.cutof'; did you mean 'miner.cutoff'?"
    )
    assert fails(miner="", **{"miner.cutoff": 1}) == (
        "x.cnf: miner.cutoff is set, but no miner; set miner, one of "
        + ", ".join(registry.components("miner"))
    )

"""The key `memory`: with a loss over all pairs of labelled batches."""

import pytest

from trainer.config import JobConfig, Settings, UserError, registry
from trainer.config.registry import components

REMEMBERED = {"model_id": "mildnet", "loss": "contrastive_similarity", "memory": "xbm"}
FITTING = ", ".join(n for n, c in components("loss").items() if c.tags.get("memory") == "yes")


def load(*overrides, **changes):
    return JobConfig.from_mapping(
        {**REMEMBERED, **changes}, overrides, Settings({}), source="x.cnf"
    )


def fails(*overrides, **changes):
    with pytest.raises(UserError) as error:
        load(*overrides, **changes)
    return str(error.value)


def test_the_defaults_are_the_published_ones():
    config = load()
    assert config.parameters["memory"] == {
        "size": 32000,
        "weight": 1.0,
        "start_after": 0,
        "momentum": None,
    }
    assert config.parameters["loss"]["margin"] == 0.5
    assert config.sampler == "classes_per_batch"
    assert load("memory.momentum=0.999").parameters["memory"]["momentum"] == 0.999
    assert load(memory="").parameters.get("memory") is None


def test_a_saved_config_gives_the_same_job_back():
    for config in (load(**{"memory.size": 64, "memory.momentum": 0.99}), load("memory=")):
        assert JobConfig.from_mapping(config.to_dict(), settings=Settings({})) == config
    assert load().fingerprint() != load("memory.start_after=9").fingerprint()
    assert load().fingerprint() != load("memory=").fingerprint()


def test_a_memory_is_built_around_the_loss_of_the_job():
    config = load(**{"memory.size": 64, "memory.weight": 0.5})
    memory = config.build("memory", config.build("loss"))
    assert (memory.size, memory.weight, memory.loss.margin) == (64, 0.5, 0.5)
    with pytest.raises(UserError, match=r"x.cnf: memory\.momentum: momentum=1.0 must be above 0"):
        load(**{"memory.momentum": 1}).build("memory", config.build("loss"))


@pytest.mark.parametrize("name", components("loss"))
def test_losses_without_all_pairs_are_refused_before_anything_is_read(name):
    if registry.get("loss", name).tags.get("memory") == "yes":
        assert load(loss=name).memory == "xbm"
        return
    assert fails(loss=name) == (
        f"x.cnf: memory 'xbm' needs a loss over all pairs of labelled batches, which {name!r} is "
        f"not; fitting losses: {FITTING}"
    )


def test_what_does_not_fit_is_named():
    assert fails(loss="triplet_margin", miner="hard").startswith("x.cnf: memory 'xbm' needs a loss")
    assert fails(memory="xmb") == "x.cnf: unknown memory 'xmb'; did you mean 'xbm'?"
    assert fails(**{"memory.sise": 1}) == (
        "x.cnf: unknown key 'memory.sise'; did you mean 'memory.size'?"
    )
    assert fails(memory="", **{"memory.size": 9}) == (
        "x.cnf: memory.size is set, but no memory; set memory, one of xbm"
    )
    assert fails(batch_size=64, **{"memory.size": 32}) == (
        "x.cnf: memory.size=32 is less than batch_size=64; a memory holds one batch at least"
    )
    assert fails(batch_size=64000) == (
        "x.cnf: memory.size=32000 is less than batch_size=64000; a memory holds one batch at least"
    )
    assert "set loss, one of batch_all" in fails(
        model_id="", loss="", model_module="some.module", dataset=""
    )

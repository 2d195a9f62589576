"""The space file: what is read from it, what is refused, and which combinations there are."""

import pytest

from trainer.config import UserError
from trainer.launch.tuning.space import Space, suffix

from .searches import JOB, write_files


def read(tmp_path, text, *overrides, job=JOB):
    return Space(*write_files(tmp_path, text, job), overrides)


def test_values_have_the_type_that_the_key_declares(tmp_path):
    space = read(
        tmp_path,
        """
        lr: {low: 1e-4, high: 1, log: true}
        steps: {low: 100, high: 1e3}
        batch_size: {choices: [16, "32"]}
        train.xla: {choices: [yes, false]}
        train.clip_norm: {choices: [none, 1]}
        loss.margin: {low: 0.1, high: 0.35, step: 0.1}
        """,
    )
    found = {parameter.key: parameter for parameter in space.parameters}
    assert (found["lr"].low, found["lr"].high, found["lr"].log) == (0.0001, 1.0, True)
    assert (found["steps"].low, found["steps"].high) == (100, 1000)
    assert type(found["steps"].high) is int
    assert found["batch_size"].choices == (16, 32)
    assert found["train.xla"].choices == (True, False)
    assert found["train.clip_norm"].choices == (None, 1.0)
    # 0.1 + 2 * 0.1 as a person writes it, and nothing beyond high.
    assert found["loss.margin"].values == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\nloss.margn: {choices: [0.1]}", r"space\.yaml:2: unknown key 'loss.margn'.*'loss.mar"),
        ("lrr: {choices: [1]}", r"space\.yaml:1: unknown key 'lrr'; did you mean 'lr'"),
        ("train.clip_nrm: {choices: [1]}", r"did you mean 'train.clip_norm'"),
        ("lr: {choices: []}", r":1: lr: choices is a list of one value or more"),
        ("lr: {low: -1, high: 1}", r":1: lr: -1.0 is too small"),
        ("batch_size: {low: 1.5, high: 3}", r":1: batch_size: '1.5' is not a whole number"),
        ("lr: {choices: [fast]}", r":1: lr: 'fast' is not a number"),
        ("lr: {choices: [1, 1.0]}", r":1: lr: 1.0 comes twice"),
        ("loss: {choices: [tripletsemihard]}", r":1: loss: unknown loss.*'triplet_semihard'"),
        ("lr: {low: 2, high: 1}", r":1: lr: low is 2.0, which is not below high, 1.0"),
        ("lr: {low: 1}", r":1: lr: high is missing"),
        ("lr: {lo: 1, high: 2}", r":1: lr: unknown 'lo'; did you mean 'low'"),
        ("lr: {low: 1, high: 2, choices: [1]}", r":1: lr: choices and high do not go together"),
        ("lr: {low: 1, high: 2, log: true, step: 1}", r"log and step do not go together"),
        ("train.weight_x: {low: 0, high: 2}", r"unknown key 'train.weight_x'"),
        ("loss.margin: {low: 0, high: 1, log: true}", r"log needs low above 0"),
        ("batch_size: {low: 8, high: 64, step: 0.5}", r"step is 0.5; it is a whole number above"),
        ("augment: {low: 1, high: 2}", r":1: augment: give choices"),
        ("schedule: {choices: [cosine]}\ntrackers: {choices: [csv]}", r":2: trackers does not cha"),
        ("lr: [0.1, 0.2]", r":1: lr: give choices: \[...\], or low: and high:"),
        ("lr: {choices: [1]}\nlr: {choices: [2]}", r":2: 'lr' comes twice, first in line 1"),
        ("lr: {choices: [1}", r":1: not YAML: expected"),
        ("- lr", r"space\.yaml: not a space"),
        ("", r"space\.yaml: not a space"),
        ("fixed: {steps: 3}", r"space\.yaml: names no key"),
        ("lr: {choices: [1]}\nfixed: {stesp: 3}", r":2: unknown key 'stesp'.*'steps'"),
        ("lr: {choices: [1]}\nfixed: {lr: 3}", r":1: lr is searched, so it can't be set as well"),
        ("steps: {choices: [1]}\ntrain_epocs: {choices: [1]}", r"steps or train_epochs, not both"),
        ("lr: {choices: [1], when: {loss: ntxent}}", r":1: lr: when names 'loss', which is no key"),
        (
            "loss: {choices: [ntxent]}\nlr: {choices: [1], when: {loss: triplet_hard}}",
            r":2: lr: when: loss is never triplet_hard",
        ),
        (
            "lr: {choices: [1], when: {batch_size: 16}}\n"
            "batch_size: {choices: [16], when: {lr: 1}}",
            r"when goes round in a circle",
        ),
        ("!!python/object/apply:os.system ['true']", r"not YAML|not a space"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(tmp_path, text, error):
    with pytest.raises(UserError, match=error) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_space_that_is_missing_or_no_text_is_refused(tmp_path):
    _, job = write_files(tmp_path)
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read: no such file"):
        Space(tmp_path / "none.yaml", job)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes\.yaml: not a text file"):
        Space(tmp_path / "bytes.yaml", job)


def test_what_is_set_on_the_command_line_wins_over_what_is_fixed(tmp_path):
    text = "lr: {choices: [0.1]}\nfixed: {steps: 3, batch_size: 64}"
    config = read(tmp_path, text, "steps=5").config({"lr": 0.1})
    assert (config.steps, config.batch_size, config.lr) == (5, 64, 0.1)
    with pytest.raises(UserError, match=r":1: lr is searched"):
        read(tmp_path, text, "lr=1")


def test_a_parameter_is_set_where_the_component_takes_it_and_when_holds(tmp_path):
    space = read(
        tmp_path,
        """
        loss.temperature: {choices: [0.05, 0.1]}
        loss.margin: {choices: [0.1, 0.3]}
        loss: {choices: [triplet_semihard, ntxent]}
        lr: {choices: [0.01, 0.1], when: {loss: [ntxent]}}
        """,
    )
    assert space.combinations() == [
        {"loss": "triplet_semihard", "loss.margin": 0.1},
        {"loss": "triplet_semihard", "loss.margin": 0.3},
        *(
            {"loss": "ntxent", "loss.temperature": temperature, "lr": lr}
            for temperature in (0.05, 0.1)
            for lr in (0.01, 0.1)
        ),
    ]
    # The job's own loss.margin stays behind with its loss.
    assert space.config(space.combinations()[2]).parameters["loss"]["temperature"] == 0.05


def test_a_loss_that_needs_another_sampler_takes_no_parameters_of_the_first(tmp_path):
    space = read(
        tmp_path,
        "sampler.images_per_class: {choices: [2, 4]}\n"
        "loss: {choices: [triplet_semihard, triplet_margin]}",
    )
    assert [params.get("sampler.images_per_class") for params in space.combinations()] == [
        2,
        4,
        None,
    ]
    assert space.config(space.combinations()[2]).sampler == "random_triplets"


def test_a_grid_needs_ends(tmp_path):
    with pytest.raises(UserError, match=r"lr: a grid needs choices, or low, high and step"):
        read(tmp_path, "lr: {low: 0.1, high: 1}").combinations()
    keys = ["lr", "loss.margin", "train.ema", "train.clip_norm"]
    lines = [f"{key}: {{low: 0.01, high: 0.9, step: 0.01}}" for key in keys]
    with pytest.raises(UserError, match=r"a grid of more than 100,000 trials"):
        read(tmp_path, "\n".join(lines)).combinations()


def test_the_suffix_is_a_name_for_a_file():
    params = {"lr": 0.001, "model.trunk": "convnet_small(widths=(8, 16))", "train.clip_norm": None}
    name = suffix(params)
    assert name == "lr=0.001_model.trunk=convnet_small-widths=-8-16-_train.clip_norm=none"
    assert len(suffix({"init_from": "a/b" * 100})) <= 100

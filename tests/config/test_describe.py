"""What `mildnet describe` prints."""

from pathlib import Path

import pytest
from rich.console import Console

from trainer.config import JobConfig, TrainOptions, UserError, components, options
from trainer.config.describe import PAGES, describe, parameter_help
from trainer.config.registry import ROOMS


def printed(*arguments: str) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(describe(*arguments))
    console.file.close()
    return console.export_text()


def test_all_kinds_with_their_names():
    text = printed()
    for kind in [*ROOMS, *PAGES]:
        assert f"\n{kind} " in text
    assert "model_id" in text
    assert "trackers" in text
    for name in components("loss"):
        assert name in text


def test_one_kind(shelf: Path):
    assert [line.rstrip() for line in printed("sampler").splitlines()] == [
        "sampler            what",
        "classes_per_batch  P classes of K images.",
        "random_triplets    Triplets drawn at random.",
        "triplets           Rows in file order.",
    ]


def test_one_component(shelf: Path):
    text = "\n".join(line.rstrip() for line in printed("model", "small_wide").splitlines())
    assert text == (
        "small_wide  model\n"
        "\n"
        "A small model.\n"
        "\n"
        "Formula: none.\n"
        "\n"
        "Returns:\n"
        "    What it was called with.\n"
        "\n"
        'In a config: model_id="small_wide"\n'
        "\n"
        "model.widths  list of int  = 64, 128\n"
        "    channels of each block, from first to last.\n"
        "model.weights  str | none  = none\n"
        "    file to load.\n"
        "model.note  str  = (empty)\n"
        "    any text.\n"
        "model.layers  list of str  = (empty)\n"
        "    names of layers."
    )


def test_a_component_whose_code_differs_from_its_paper(shelf: Path):
    text = " ".join(printed("model", "small_old").split())
    assert text.endswith(
        "model.fidelity corrected | released = corrected released: as its authors' code computes "
        "it, not as published; here widths=8, note=old"
    )


def test_tags_required_parameters_and_none_at_all(shelf: Path):
    assert printed("loss", "hinge_loss").startswith("hinge_loss  loss, takes triplets\n")
    assert "dataset.train_csv  str  needed" in printed("dataset", "triplets")
    assert "No parameters." in printed("index", "flat")
    assert "tracker.csv.file  str  = training.csv" in printed("tracker", "csv")


def test_pages():
    config = printed("config")
    for key in options.parameters_of(JobConfig):
        assert f"\n{key}  " in f"\n{config}"
    assert "model_id  str  needed" in config
    assert "train_epocs is another spelling of train_epochs." in config
    train = printed("train")
    for key in options.parameters_of(TrainOptions):
        assert f"\ntrain.{key}  " in f"\n{train}"
    assert printed("train", "keep").startswith("train.keep  int  = 3\n")
    assert "lr" in printed("config", "lr")
    assert "optimizer" not in printed("config", "lr")
    assert "MILDNET_DATA_PATH" in printed("settings")
    assert "MILDNET_DATA_PATH" not in printed("settings", "MILDNET_JOB_DIR")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("losses",), "nothing is called 'losses'; did you mean 'loss'?"),
        (("loss", "hinge"), "unknown loss 'hinge'; did you mean 'hinge_loss'?"),
        (("train", "kep"), "train has no key 'kep'; did you mean 'keep'?"),
        (
            ("settings", "HYPERDASH"),
            "settings has no key 'HYPERDASH'; did you mean 'HYPERDASH_KEY'?",
        ),
    ],
)
def test_unknown_names(arguments: tuple[str, ...], message: str):
    with pytest.raises(UserError) as caught:
        describe(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ROOMS)
def test_every_real_component_can_be_described(kind: str):
    for name, component in components(kind).items():
        text = printed(kind, name)
        for parameter in component.parameters:
            assert parameter in text


def test_parameter_help():
    doc = (
        "Head.\n\nArgs:\n    a: one,\n        and more: of it.\n\n    b (int): two.\n"
        "    **c: three.\n\nReturns:\n    d: not this.\n"
    )
    assert parameter_help(doc) == {"a": "one, and more: of it.", "b": "two.", "c": "three."}
    assert parameter_help("Head.") == {}
    assert parameter_help("Head.\n\nArgs:\n    a: last") == {"a": "last"}

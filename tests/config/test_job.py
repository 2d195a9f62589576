"""A job config: defaults by resolution, errors by name, and the way to a file and back."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import JobConfig, Settings, TrainOptions, UserError, cnf, components

SMALL = 'model_id="small"\nloss="triplet_semihard"\n'


def fails(configs, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        configs.load(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_original_config(configs):
    config = configs.load(
        'model_id="small"\nloss="hinge_loss"\noptimizer="mo"\ntrain_csv="a.csv"\nval_csv="b.csv"\n'
        'train_epocs="30"\nbatch_size="32"\nlr="0.001"\nconfig=training_configs/gpu.yaml\n'
    )
    assert (config.model_id, config.loss, config.optimizer) == ("small", "hinge_loss", "mo")
    assert (config.train_epochs, config.steps, config.batch_size, config.lr) == (
        30,
        None,
        32,
        0.001,
    )
    assert (config.dataset, config.sampler, config.augment) == ("triplets", "triplets", "mildnet")
    assert config.config == "training_configs/gpu.yaml"
    assert config.parameters["dataset"] == {
        "train_csv": "a.csv",
        "val_csv": "b.csv",
        "images": "x.zip",
    }
    assert "train_epochs=30.0\n" in config.to_cnf()
    assert "train_epocs" not in config.to_cnf()


def test_defaults(configs):
    config = configs.load(SMALL)
    assert (config.optimizer, config.schedule, config.index) == ("mo", "constant", "flat")
    assert (config.dataset, config.sampler, config.augment) == (
        "items",
        "classes_per_batch",
        "none",
    )
    assert (config.lr, config.batch_size, config.seed, config.image_size) == (0.001, 16, 0, 224)
    assert (config.train_split, config.val_split, config.test_split) == ("train", "val", "test")
    assert (config.query_domain, config.gallery_domain, config.data_path) == ("", "", "")
    assert (config.train_epochs, config.steps, config.max_bad_share) == (10, None, 0.01)
    assert (config.trackers, config.job_dir) == (("csv", "tensorboard"), "runs")
    assert config.training == TrainOptions()
    assert config.parameters["sampler"] == {"images_per_class": 4}
    assert config.parameters["tracker.csv"] == {"file": "training.csv"}


@pytest.mark.parametrize(
    ("loss", "dataset", "sampler"),
    [
        ("hinge_loss", "items", "random_triplets"),
        ("hinge_loss", "triplets", "triplets"),
        ("triplet_semihard", "items", "classes_per_batch"),
        ("triplet_semihard", "triplets", "classes_per_batch"),
    ],
)
def test_sampler_by_what_the_loss_takes(configs, loss: str, dataset: str, sampler: str):
    text = f"model_id=small\nloss={loss}\ndataset={dataset}\ntrain_csv=a.csv\n"
    assert configs.load(text).sampler == sampler


def test_csv_keys_do_not_reach_another_data_set(configs):
    config = configs.load(SMALL + "dataset=items\ntrain_csv=a.csv\n")
    assert config.parameters["dataset"] == {"file": "items.csv"}
    assert config.augment == "none"


def test_csv_keys_may_be_given_as_parameters_but_not_twice_differently(configs):
    text = SMALL + "dataset=triplets\ndataset.train_csv=a.csv\n"
    assert configs.load(text).parameters["dataset"]["train_csv"] == "a.csv"
    assert configs.load(text, "train_csv=a.csv").parameters["dataset"]["train_csv"] == "a.csv"
    assert fails(configs, text, "train_csv=b.csv") == (
        "x.cnf:4: dataset.train_csv and train_csv differ; set one of them"
    )


def test_override_of_a_csv_key_of_a_saved_config(configs):
    saved = configs.load("model_id=small\nloss=hinge_loss\ntrain_csv=a.csv\n").to_cnf()
    config = configs.load(saved, "train_csv=b.csv")
    assert config.parameters["dataset"]["train_csv"] == "b.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown keys and names
        (
            SMALL + "\nlos.margin=1",
            "x.cnf:4: unknown key 'los.margin'; did you mean 'loss.margin'?",
        ),
        (SMALL + "loss.margn=1", "x.cnf:3: unknown key 'loss.margn'; did you mean 'loss.margin'?"),
        (
            SMALL + "loss.q=1",
            "x.cnf:3: unknown key 'loss.q'; loss 'triplet_semihard' takes: margin, soft",
        ),
        (SMALL + "index.q=1", "x.cnf:3: unknown key 'index.q'; index 'flat' takes no parameters"),
        (SMALL + "batchsize=1", "x.cnf:3: unknown key 'batchsize'; did you mean 'batch_size'?"),
        (SMALL + "train.ema_=0", "x.cnf:3: unknown key 'train.ema_'; did you mean 'train.ema'?"),
        (
            SMALL + "tracker.csv.fil=a",
            "x.cnf:3: unknown key 'tracker.csv.fil'; did you mean 'tracker.csv.file'?",
        ),
        (
            SMALL + "tracker.cvs.file=a",
            "x.cnf:3: unknown key 'tracker.cvs.file'; did you mean 'tracker.csv.file'?",
        ),
        (SMALL + "zzzz=1", "x.cnf:3: unknown key 'zzzz'; see `mildnet describe config`"),
        (SMALL + "training=1", "x.cnf:3: unknown key 'training'; did you mean 'trainer'?"),
        ("model=small\nloss=hinge_loss", "x.cnf:1: unknown key 'model'; did you mean 'model_id'?"),
        ("model_id=smal\nloss=x", "x.cnf:1: model_id: unknown model 'smal'; did you mean 'small'?"),
        (
            "model_id=small\nloss=hinge",
            "x.cnf:2: unknown loss 'hinge'; did you mean 'hinge_loss'?",
        ),
        (
            SMALL + "trackers=csv,boards",
            "x.cnf:3: trackers: unknown tracker 'boards'; did you mean 'tensorboard'?",
        ),
        (SMALL + "trackers=csv,csv", "x.cnf:3: trackers: one tracker is named twice"),
        # missing keys
        ("", 'x.cnf: model_id is missing; set it, such as model_id="mildnet_mobilenet"'),
        ("model_id=small", 'x.cnf: loss is missing; set it, such as loss="triplet_semihard"'),
        (
            'model_id=""',
            'x.cnf:1: model_id is missing; set it, such as model_id="mildnet_mobilenet"',
        ),
        (
            SMALL + "dataset=triplets",
            "x.cnf:3: dataset 'triplets' needs dataset.train_csv; set it (str)",
        ),
        # twice
        (SMALL + "lr=1\nlr=1", "x.cnf:4: 'lr' is set twice, first in line 3"),
        (
            SMALL + "train_epochs=1\ntrain_epocs=1",
            "x.cnf:4: 'train_epocs' and 'train_epochs' are the same key; set one",
        ),
        (
            SMALL + "train_epocs=1\nsteps=9",
            "x.cnf:4: steps and train_epochs are both set; set one",
        ),
        # values
        (SMALL + "batch_size=many", "x.cnf:3: batch_size: 'many' is not a whole number"),
        (SMALL + "batch_size=0", "x.cnf:3: batch_size: 0 is too small; it must be 1 or more"),
        (SMALL + "batch_size=1.5", "x.cnf:3: batch_size: '1.5' is not a whole number"),
        (SMALL + "batch_size=", "x.cnf:3: batch_size: '' is not a whole number"),
        (SMALL + "lr=0", "x.cnf:3: lr: 0.0 is too small; it must be more than 0"),
        (SMALL + "lr=nan", "x.cnf:3: lr: 'nan' is not a number"),
        (SMALL + "lr=inf", "x.cnf:3: lr: 'inf' is not a number"),
        (
            SMALL + "train_epochs=0",
            "x.cnf:3: train_epochs: 0.0 is too small; it must be more than 0",
        ),
        (SMALL + "steps=0", "x.cnf:3: steps: 0 is too small; it must be 1 or more"),
        (SMALL + "image_size=0", "x.cnf:3: image_size: 0 is too small; it must be 1 or more"),
        (SMALL + "seed=-1", "x.cnf:3: seed: -1 is too small; it must be 0 or more"),
        (
            SMALL + "seed=2147483648",
            "x.cnf:3: seed: 2147483648 is too large; it must be 2147483647 or less",
        ),
        (
            SMALL + "max_bad_share=1.5",
            "x.cnf:3: max_bad_share: 1.5 is too large; it must be 1 or less",
        ),
        (SMALL + "loss.margin=wide", "x.cnf:3: loss.margin: 'wide' is not a number"),
        (SMALL + "loss.soft=2", "x.cnf:3: loss.soft: '2' is not true or false"),
        (SMALL + "train.ema=1", "x.cnf:3: train.ema: 1.0 is too large; it must be less than 1"),
        (
            SMALL + "train.precision=half",
            "x.cnf:3: train.precision: 'half' is not one of float32, mixed_float16, mixed_bfloat16",
        ),
        (
            SMALL + "train.trainable=(",
            "x.cnf:3: train.trainable: '(' is not a regular expression: "
            "missing ), unterminated subpattern at position 0",
        ),
        # combinations
        (
            "model_id=small\nloss=hinge_loss\nsampler=classes_per_batch",
            "x.cnf:3: loss 'hinge_loss' learns from triplets, but sampler 'classes_per_batch' "
            "gives labels; fitting samplers: random_triplets, triplets",
        ),
        (
            SMALL + "sampler=triplets",
            "x.cnf:3: loss 'triplet_semihard' learns from labels, but sampler 'triplets' "
            "gives triplets; fitting samplers: classes_per_batch",
        ),
        (
            SMALL + "train.devices=2\ntrain.strategy=one",
            "x.cnf:3: train.devices=2 does not go with train.strategy=one; "
            "use train.strategy=mirrored",
        ),
        # the format
        (SMALL + "lr", "x.cnf:3: no '=' in 'lr'; a line is key=value or # comment"),
    ],
)
def test_errors_name_file_line_key_and_the_way_out(configs, text: str, message: str):
    assert fails(configs, text) == message


def test_file_errors_reach_the_caller(configs):
    with pytest.raises(UserError, match=r"^nowhere\.cnf: there is no such file$"):
        JobConfig.load("nowhere.cnf", settings=Settings())


def test_overrides_win_and_are_named_in_errors(configs):
    config = configs.load(SMALL + "loss.margin=0.1\n", "loss.margin=0.3", "seed=7", "seed=8")
    assert (config.parameters["loss"]["margin"], config.seed) == (0.3, 8)
    assert config.origin("loss.margin") == config.origin("seed") == "--set"
    assert fails(configs, SMALL, "loss.margin=x") == "--set: loss.margin: 'x' is not a number"
    assert fails(configs, SMALL, "los.margin=1") == (
        "--set: unknown key 'los.margin'; did you mean 'loss.margin'?"
    )


OLD = 'model_id="small_old"\nmodel.fidelity="released"\nloss="triplet_semihard"\n'


def test_fidelity_decides_defaults_and_explicit_values_win(configs):
    config = configs.load(OLD)
    assert config.parameters["model"]["widths"] == (8,)
    assert config.build("model", 64) == (64, (8,), None, "old", ())
    assert configs.load(OLD, "model.note=mine").build("model", 64) == (64, (8,), None, "mine", ())
    assert configs.load(OLD, "model.fidelity=").build("model", 64)[1] == (16, 32)
    assert "is not one of corrected, released" in fails(configs, OLD, "model.fidelity=paper")
    text = fails(configs, OLD, "model_id=small", "model.fidelity=released")
    assert text.startswith("--set: unknown key 'model.fidelity'; model 'small' takes: widths")


def test_fidelity_of_a_saved_config_can_be_overridden(configs):
    released = configs.load(OLD, "model.note=mine")
    saved = released.to_cnf()
    assert configs.load(saved) == released
    assert configs.load(saved).fingerprint() == released.fingerprint()
    assert "model.widths" not in saved
    assert 'model.widths="8"' in released.to_cnf(origins=True)
    corrected = configs.load(saved, "model.fidelity=corrected")
    assert corrected.build("model", 64) == (64, (16, 32), None, "mine", ())
    assert corrected.fingerprint() != released.fingerprint()
    again = JobConfig.from_mapping(released.to_dict(), ["model.fidelity=corrected"], Settings())
    assert again == corrected


def test_override_without_a_value_goes_back_to_the_default(configs):
    text = SMALL + "loss.margin=0.7\nlr=5\ndata_path=here\n"
    config = configs.load(text, "loss.margin=", "lr=", "data_path=")
    assert config.parameters["loss"]["margin"] == 0.2
    assert (config.lr, config.origin("lr"), config.data_path) == (0.001, "default", "")
    assert fails(configs, text, "model_id=").startswith("x.cnf: model_id is missing; set it")
    assert fails(configs, text, "lrr=") == "--set: unknown key 'lrr'; did you mean 'lr'?"


def test_another_component_by_override_drops_only_what_the_file_set_for_the_old_one(configs):
    text = "model_id=small\nloss=hinge_loss\nloss.form=old\n"
    assert "loss.form" not in configs.load(text, "loss=triplet_semihard").to_dict()
    message = fails(configs, text, "loss=triplet_semihard", "loss.form=old")
    assert message == "--set: unknown key 'loss.form'; loss 'triplet_semihard' takes: margin, soft"
    without = "model_id=small\nloss=hinge_loss\noptimizer.momentum=0.5\n"
    assert configs.load(without, "optimizer=adam").parameters["optimizer"] == {}
    message = fails(configs, text + "loss.fom=old\n", "loss=triplet_semihard")
    assert message.startswith("x.cnf:4: unknown key 'loss.fom'")


def test_a_data_set_that_follows_from_train_csv_is_replaced_like_one_that_is_named(configs):
    text = 'model_id="small"\nloss="hinge_loss"\ntrain_csv="a.csv"\ndataset.images="y.zip"\n'
    assert configs.load(text).parameters["dataset"]["images"] == "y.zip"
    other = configs.load(text, "dataset=items", "train_csv=")
    assert other.parameters["dataset"] == {"file": "items.csv"}
    assert "dataset.images" in fails(configs, text, "dataset=items", "dataset.images=z.zip")


def test_length_in_steps_and_in_epochs(configs):
    steps = configs.load(SMALL + "steps=9\n")
    assert (steps.steps, steps.train_epochs) == (9, None)
    epochs = configs.load(SMALL + "steps=9\n", "train_epocs=2.5")
    assert (epochs.steps, epochs.train_epochs) == (None, 2.5)
    back = configs.load(SMALL + "train_epocs=3\n", "steps=4")
    assert (back.steps, back.train_epochs) == (4, None)
    kept = configs.load(SMALL + "train_epocs=3\n", "steps=none")
    assert (kept.steps, kept.train_epochs) == (None, 3)
    neither = configs.load(SMALL + "train_epochs=none\nsteps=none\n")
    assert (neither.steps, neither.train_epochs) == (None, 10)


def test_origins(configs):
    settings = Settings(
        {"MILDNET_DATA_PATH": "/d", "MILDNET_JOB_DIR": "gs://b/jobs"},
        {"MILDNET_DATA_PATH": "settings.cfg:3", "MILDNET_JOB_DIR": "environment MILDNET_JOB_DIR"},
    )
    config = configs.load(SMALL + "train.xla=yes\n", "lr=0.5", settings=settings)
    assert (config.data_path, config.job_dir) == ("/d", "gs://b/jobs")
    assert config.origin("data_path") == "settings.cfg:3"
    assert config.origin("job_dir") == "environment MILDNET_JOB_DIR"
    assert config.origin("loss") == "x.cnf:2"
    assert config.origin("train.xla") == "x.cnf:3"
    assert config.origin("lr") == "--set"
    assert config.origin("loss.margin") == config.origin("sampler") == "default"
    annotated = config.to_cnf(origins=True)
    assert any(
        line.startswith("lr=0.5 ") and line.endswith("  # --set") for line in annotated.split("\n")
    )
    assert configs.load(annotated) == config


def test_a_config_wins_over_settings_even_with_nothing(configs):
    settings = Settings({"MILDNET_DATA_PATH": "/d"}, {"MILDNET_DATA_PATH": "settings.cfg:3"})
    assert configs.load(SMALL + 'data_path=""\n', settings=settings).data_path == ""
    assert configs.load(SMALL + "data_path=mine\n", settings=settings).data_path == "mine"


def test_settings_are_read_when_none_are_given(configs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MILDNET_DATA_PATH", "/from/environment")
    config = JobConfig.load(configs.write(SMALL))
    assert config.data_path == "/from/environment"
    assert config.origin("data_path") == "environment variable MILDNET_DATA_PATH"


def test_names(configs):
    def name(path: str) -> str:
        return JobConfig.load(configs.write(SMALL, path), settings=Settings()).name

    assert name("fashion_mnist.cnf") == "fashion_mnist"
    assert name("runs/fashion_7/config.cnf") == "fashion_7"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("shop (1).cnf", "shop_1_"),
        ("a,b c.cnf", "a_b_c"),
        (".hidden.cnf", "_hidden"),
        ("-x.cnf", "_x"),
        ("runs/swin v2/config.cnf", "swin_v2"),
        ("größe.cnf", "größe"),
    ],
)
def test_a_name_made_of_a_files_can_be_given_again(configs, path: str, name: str):
    config = JobConfig.load(configs.write(SMALL, path), settings=Settings())
    assert config.name == name
    for again in (
        JobConfig.load(configs.write(config.to_cnf(), "again.cnf"), settings=Settings()),
        JobConfig.from_mapping(config.to_dict(), (), Settings()),
    ):
        assert again == config
        assert again.name == name
    stem = path.removesuffix("/config.cnf").removesuffix(".cnf").rpartition("/")[2]
    assert config.origin("name") == ("default" if name == stem else f"from {stem!r}")


@pytest.mark.parametrize("name", ["a b", "../a", "a/b", "-x", "."])
def test_a_name_that_is_given_is_taken_as_it_is_or_refused(configs, name: str):
    with pytest.raises(UserError, match=r"^--set: name=.* does not name a folder: letters"):
        configs.load(SMALL, f"name={name}")
    assert configs.load(SMALL, "name=a=1+2-b.c").name == "a=1+2-b.c"


def test_components_and_build(configs):
    config = configs.load(SMALL + "model.widths=8, 9\ntracker.csv.file=a.csv\n")
    component, parameters = config.component("model")
    assert component.name == "small"
    assert parameters == {"widths": (8, 9), "weights": None, "note": "", "layers": ()}
    parameters["note"] = "changed"
    assert config.parameters["model"]["note"] == ""
    assert config.build("model", 32) == (32, (8, 9), None, "", ())
    assert config.build("tracker", "run", name="csv") == ("run", "a.csv")
    with pytest.raises(KeyError):
        config.component("tracker", "boards")


def test_a_value_that_a_component_refuses(configs):
    def refusal(*lines: str) -> str:
        with pytest.raises(UserError) as caught:
            configs.load(SMALL + "\n".join(lines)).build("model", 32)
        assert isinstance(caught.value.__cause__, ValueError)
        return str(caught.value)

    assert refusal("model.widths=0") == "x.cnf:3: model.widths: widths must be above 0, not (0,)"
    # The message names no parameter, so the error points at the component.
    assert refusal("model.weights=bad") == "x.cnf:1: model_id: two lines of reason"


def test_parameters_of_a_tracker_that_is_off(configs):
    config = configs.load(SMALL + "trackers=tensorboard\ntracker.csv.file=a.csv\n")
    assert config.trackers == ("tensorboard",)
    assert "tracker.csv" not in config.parameters
    assert configs.load(SMALL + 'trackers=""\n').trackers == ()


def test_from_mapping(configs):
    given = {"model_id": "small", "loss": "hinge_loss", "lr": 1, "model.widths": [1, 2]}
    config = JobConfig.from_mapping(given, ["seed=3"], Settings(), name="n")
    assert (config.lr, config.seed, config.name) == (1.0, 3, "n")
    assert isinstance(config.lr, float)
    assert config.parameters["model"]["widths"] == (1, 2)
    with pytest.raises(UserError, match=r"^here: lr: None is not a number$"):
        JobConfig.from_mapping({**given, "lr": None}, settings=Settings(), source="here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.note", "two\nlines"),
        ("model.note", "a\0b"),
        ("model.layers", ["a,b"]),
        ("model.layers", [" a"]),
        ("model.layers", ["(a"]),
        ("model.layers", [""]),
    ],
)
def test_values_that_a_file_could_not_hold(configs, key: str, value: object):
    given = {"model_id": "small", "loss": "hinge_loss", key: value}
    with pytest.raises(UserError, match=rf"^config: {key}: .*(one line|cannot be written)"):
        JobConfig.from_mapping(given, settings=Settings())


def test_round_trip_of_random_configs(configs):
    rng = random.Random(11)
    alphabet = "abc #\"'=\\,$`%é服[]()"

    def text() -> str:
        return "".join(rng.choice(alphabet) for _ in range(rng.randrange(8)))

    for _ in range(150):
        triplets = rng.random() < 0.5
        given = {
            "model_id": rng.choice(["small", "small_wide", "small_old"]),
            "loss": rng.choice(["hinge_loss", "triplet_semihard"]),
            "lr": rng.choice([1, 0.1, 1e-30, 1 / 3, 12345678.9]),
            "loss.margin": rng.uniform(-1, 1),
            "model.note": text(),
            "model.weights": text() or None,
            "model.widths": [rng.randrange(999) for _ in range(rng.randrange(4))],
            "data_path": text(),
            "train_split": text(),
            "job_dir": text(),
            "seed": rng.randrange(2**31),
            "trackers": rng.sample(["csv", "tensorboard"], rng.randrange(3)),
            "tracker.csv.file": text(),
            "train.xla": rng.random() < 0.5,
            "train.clip_norm": rng.choice([None, 0.5, 3]),
            "train.monitor": rng.choice([None, "map_at_r"]),
            "train.decay_exclude": rng.choice(["", r"a\b|'c' # \"d\"", ".*"]),
            rng.choice(["steps", "train_epochs"]): rng.randrange(1, 99),
        }
        if given["model_id"] == "small_old":
            given["model.fidelity"] = rng.choice(["corrected", "released"])
            if rng.random() < 0.5:
                del given["model.note"]
        if triplets:
            given["train_csv"] = text() + "x"
            given["dataset.images"] = text()
        config = JobConfig.from_mapping(given, settings=Settings())
        for again in (
            configs.load(config.to_cnf()),
            configs.load(config.to_cnf(origins=True)),
            JobConfig.from_mapping(json.loads(json.dumps(config.to_dict())), settings=Settings()),
        ):
            assert again == config
            assert again.to_dict() == config.to_dict()
            assert again.fingerprint() == config.fingerprint()


def test_the_effective_config_holds_every_key(configs):
    values = configs.load(SMALL).to_dict()
    assert values["sampler.images_per_class"] == 4
    assert values["model.widths"] == [16, 32]
    assert values["train.keep"] == 3
    assert values["tracker.csv.file"] == "training.csv"
    assert "steps" not in values
    assert list(values)[:2] == ["model_id", "model.widths"]


def test_fingerprint_changes_with_what_changes_the_weights(configs):
    config = configs.load(SMALL)
    assert len(config.fingerprint()) == 64
    for same in ("job_dir=x", "trackers=csv", "config=y", "index=hnsw", "train.keep=9"):
        assert configs.load(SMALL, same).fingerprint() == config.fingerprint(), same
    assert configs.load(SMALL, "loss.margin=0.2").fingerprint() == config.fingerprint()
    others = ["loss.margin=0.3", "lr=1", "seed=1", "train.xla=true", "model.note=x", "steps=9"]
    prints = {configs.load(SMALL, other).fingerprint() for other in others}
    assert len(prints | {config.fingerprint()}) == 1 + len(others)


def test_differences_name_the_keys(configs):
    config = configs.load(SMALL)
    assert config.differences(configs.load(SMALL, "job_dir=x", "index=hnsw")) == []
    other = configs.load(SMALL, "loss.margin=0.3", "steps=9")
    assert config.differences(other) == [
        "loss.margin: 0.2, not 0.3",
        "train_epochs: 10.0, not (not set)",
        "steps: (not set), not 9",
    ]


def test_every_real_default_survives_the_way_to_a_file_and_back():
    for kind in ("dataset", "sampler", "augment", "model", "loss", "index", "optimizer"):
        for component in components(kind).values():
            for parameter in component.parameters.values():
                if not parameter.required:
                    text = cnf.plain_text(parameter.default)
                    assert parameter.parse(text) == parameter.default, (component, parameter)


def test_loading_a_config_imports_no_tensorflow(tmp_path: Path):
    path = tmp_path / "x.cnf"
    path.write_text("model_id=mildnet\nloss=triplet_semihard\n")
    code = (
        "import sys\n"
        "from trainer.config import JobConfig\n"
        "JobConfig.load(sys.argv[1]).to_cnf()\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_replacing_a_component_drops_what_the_file_set_for_the_old_one():
    values = {
        "model_id": "mildnet",
        "loss": "triplet_semihard",
        "dataset": "synthetic",
        "dataset.classes": 8,
        "loss.margin": 0.3,
    }
    config = JobConfig.from_mapping(values, ["dataset=items", "loss=triplet_hard"])
    assert "dataset.classes" not in config.to_dict()
    assert config.to_dict()["loss.margin"] == 0.3  # triplet_hard has a margin too
    with pytest.raises(UserError, match=r"--set: unknown key 'dataset\.classes'"):
        JobConfig.from_mapping(values, ["dataset=items", "dataset.classes=9"])
    with pytest.raises(UserError, match=r"config: unknown key 'dataset\.classes'"):
        JobConfig.from_mapping({**values, "dataset": "items"})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://root:Sesame77@host:19530", "written to disk: put it into .* MILVUS_TOKEN"),
        ("root:Sesame77@host:19530", "written to disk: put it into .* MILVUS_TOKEN"),
        ("https://root:Sesame/77@host", "written to disk: put it into .* MILVUS_TOKEN"),
        ("https://host?token=Sesame77", "written to disk: put it into .* MILVUS_TOKEN"),
        ("http://host:x", "'http://host:x' is not an address such as"),
        ("http://host:99999", "'http://host:99999' is not an address such as"),
        ("http://host:0", "'http://host:0' is not an address such as"),
        ("http://[::1", r"'http://\[::1' is not an address such as"),
        ("http://:19530", "'http://:19530' is not an address such as"),
        ("shop.db", "'shop.db' is not an address such as"),
    ],
)
def test_an_address_with_a_secret_or_that_is_none_is_refused_before_it_is_written(address, message):
    values = {"model_id": "mildnet", "loss": "triplet_semihard", "index": "milvus"}
    good = JobConfig.from_mapping({**values, "index.uri": "http://[::1]:19530"})
    assert good.parameters["index"]["uri"] == "http://[::1]:19530"
    with pytest.raises(UserError, match=rf"^--set: index\.uri: .*{message}") as told:
        JobConfig.from_mapping(values, [f"index.uri={address}"])
    assert "Sesame" not in str(told.value)

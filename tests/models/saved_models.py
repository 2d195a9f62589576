"""Small SavedModels in the layouts of TF-Hub, made on the spot: an image feature vector each.

Both compute a convolution, batch normalisation, ReLU and a mean over the map.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
SIZE, WIDTH, EPSILON, KEEP = 12, 6, 1e-3, 0.9


def start() -> dict[str, np.ndarray]:
    """Return values of the variables, by name."""
    random = np.random.default_rng(5)
    return {
        "conv/kernel": random.normal(0, 0.4, (3, 3, 3, WIDTH)).astype("float32"),
        "norm/gamma": random.uniform(0.5, 1.5, WIDTH).astype("float32"),
        "norm/beta": random.normal(0, 0.5, WIDTH).astype("float32"),
        "norm/moving_mean": random.normal(0, 0.2, WIDTH).astype("float32"),
        "norm/moving_variance": random.uniform(0.5, 1.5, WIDTH).astype("float32"),
    }


def features(images: Any, values: dict[str, Any], training: bool) -> tuple[Any, Any, Any]:
    """Return the feature vector, and mean and variance of the batch."""
    x = tf.nn.conv2d(images, values["conv/kernel"], 2, "SAME")
    mean, variance = tf.nn.moments(x, (0, 1, 2))
    used = (mean, variance) if training else (values["norm/moving_mean"],)
    used = used if training else (*used, values["norm/moving_variance"])
    x = (x - used[0]) * tf.math.rsqrt(used[1] + EPSILON) * values["norm/gamma"]
    x = tf.nn.relu(x + values["norm/beta"])
    return tf.reduce_mean(x, (1, 2)), mean, variance


class Reusable(tf.Module):
    """A reusable SavedModel of TensorFlow 2."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {
            name: tf.Variable(value, name=name, trainable="moving" not in name)
            for name, value in start().items()
        }
        self.regularization_losses: list[Any] = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((), tf.bool)])
    def _unused(self, images, training):  # a second function, as there often is
        return images

    @tf.function
    def __call__(self, images, training=False):
        found, mean, variance = features(images, self.kept, training)
        if training:
            for name, value in (("mean", mean), ("variance", variance)):
                moving = self.kept[f"norm/moving_{name}"]
                moving.assign(KEEP * moving + (1 - KEEP) * value)
        return found


def make_v2(folder: Path) -> Path:
    """Write a reusable SavedModel of TensorFlow 2."""
    module = Reusable()
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    for training in (False, True):
        module.__call__.get_concrete_function(spec, training=training)
    tf.saved_model.save(module, str(folder))
    return folder


def make_v2_signature(folder: Path) -> Path:
    """Write a SavedModel of TensorFlow 2 that has a signature alone."""
    module = Reusable()
    plain = tf.Module()
    plain.kept = module.kept
    plain.serve = tf.function(
        lambda images: {"features": features(images, plain.kept, False)[0]},
        input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, "images")],
    )
    tf.saved_model.save(plain, str(folder), {"serving_default": plain.serve})
    return folder


def make_v1(folder: Path, resource: bool = True) -> Path:
    """Write a module as `hub.Module` took it: one graph without tags, one with the tag `train`."""
    builder = v1.saved_model.Builder(str(folder))
    with tf.Graph().as_default(), v1.Session() as session:
        _graph(False, resource)
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, [], _signatures(), strip_default_attrs=True)
    with tf.Graph().as_default():
        _graph(True, resource)
        builder.add_meta_graph(["train"], _signatures(), strip_default_attrs=True)
    builder.save()
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder


def _graph(training: bool, resource: bool) -> None:
    images = v1.placeholder(tf.float32, (None, None, None, 3), name="images")
    with v1.variable_scope("", use_resource=resource):
        values = {
            name: v1.get_variable(name, initializer=value, trainable="moving" not in name)
            for name, value in start().items()
        }
    found, mean, variance = features(images, values, training)
    if training:
        for name, value in (("mean", mean), ("variance", variance)):
            moving = values[f"norm/moving_{name}"]
            update = v1.assign_sub(moving, (1 - KEEP) * (moving - value))
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        tf.identity(found, name="features")


def _signatures() -> dict[str, Any]:
    graph = v1.get_default_graph()
    tensors = [graph.get_tensor_by_name(f"{name}:0") for name in ("images", "features")]
    inputs, outputs = (
        {n: v1.saved_model.build_tensor_info(t)}
        for n, t in zip(("images", "default"), tensors, strict=True)
    )
    return {"default": v1.saved_model.build_signature_def(inputs, outputs, "default")}

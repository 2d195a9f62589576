"""Values and gradients against those of tensorflow-addons, TensorFlow Similarity,
pytorch-metric-learning and torch, kept in tests/reference (its README says how they are made)."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.reference.golden_batches import labelled, pairs, proxies, triplets, unpack
from trainer import losses
from trainer.config import registry

REFERENCE = Path(__file__).parents[1] / "reference"

GOLDENS = {
    f"{source}: {key}": packed
    for source in ("tfa", "pml")
    for key, packed in np.load(REFERENCE / f"{source}_goldens.npz").items()
}


def merge_twins(x, gradient):
    """Sum the gradients of equal rows: which of two equal negatives is taken is arbitrary."""
    _, group = np.unique(x, axis=0, return_inverse=True)
    merged = np.zeros_like(gradient)
    np.add.at(merged, group.ravel(), gradient)
    return merged


@pytest.mark.parametrize("golden", GOLDENS)
def test_value_and_gradient_equal_the_other_library(golden):
    name, parameters = golden.split(": ", 1)[1].split("|")
    parameters = json.loads(parameters)
    loss = losses.get(name, **parameters)
    if hasattr(loss, "prepare"):
        compare_with_proxies(name, parameters, GOLDENS[golden])
        return
    takes = registry.get("loss", name).tags["takes"]
    if takes == "triplets":
        batches = {case: (None, x) for case, x in triplets().items()}
    else:
        batches = pairs() if takes == "pairs" else labelled()
    found = unpack(GOLDENS[golden], {case: x for case, (_, x) in batches.items()})
    assert found
    for case, (value, gradient) in found.items():
        labels, x = batches[case]
        at = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(at)
            ours = loss(labels, at)
        slope = tape.gradient(ours, at).numpy()
        if case == "twins":
            slope, gradient = merge_twins(x, slope), merge_twins(x, gradient)
        np.testing.assert_allclose(ours.numpy(), value, rtol=2e-5, atol=1e-6, err_msg=case)
        np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=2e-5, err_msg=case)


def compare_with_proxies(name, parameters, golden):
    batches, shapes = labelled(), {}
    losses_of = {}
    for case, (labels, x) in batches.items():
        loss = losses_of[case] = losses.get(name, **parameters)
        classes, start = proxies(labels, x.shape[1], loss.per_class)
        loss.prepare(classes, x.shape[1])
        loss.set_weights([start])
        shapes |= {case: x, f"{case}, proxies": start}
    found = unpack(golden, shapes)
    assert set(found) == set(shapes)
    for case, (labels, x) in batches.items():
        at, (weight,) = tf.constant(x), losses_of[case].trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(at)
            ours = losses_of[case](labels, at)
        slopes = tape.gradient(ours, [at, weight.value])
        for key, slope in zip((case, f"{case}, proxies"), slopes, strict=True):
            value, gradient = found[key]
            np.testing.assert_allclose(ours.numpy(), value, rtol=2e-5, atol=1e-6, err_msg=key)
            np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=2e-5, err_msg=key)


def test_the_goldens_cover_every_loss():
    assert {key.split(": ", 1)[1].split("|")[0] for key in GOLDENS} == set(
        registry.components("loss")
    )

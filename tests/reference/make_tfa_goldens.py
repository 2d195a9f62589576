"""Losses by tensorflow-addons and TensorFlow Similarity -> tfa_goldens.npz.

Run in an environment of its own (the README beside this file): `python make_tfa_goldens.py`.
Keys are `loss|parameters as JSON`, both being those of this library.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa
import tensorflow_similarity.losses as tfsim
from golden_batches import labelled, pack, triplets

NAMES = {"euclidean": "L2", "squared_euclidean": "squared-L2", "angular": "angular"}

# Where the definitions differ on purpose: tensorflow-addons averages over pairs without any
# negative, and over items without a positive.
SKIP = {
    "triplet_semihard": {"one class", "all different"},
    "triplet_hard": {"one class", "all different", "singletons"},
    "multi_similarity": {"all different", "one class"},
}


def rivals():
    """Yield (loss, parameters, function of labels and embeddings)."""
    for margin in (1.0, 0.2):
        for name, theirs in NAMES.items():
            parameters = {"margin": margin, "distance": name}
            yield (
                "triplet_semihard",
                parameters,
                lambda y, x, m=margin, d=theirs: tfa.losses.triplet_semihard_loss(y, x, m, d),
            )
            yield (
                "triplet_hard",
                parameters,
                lambda y, x, m=margin, d=theirs: tfa.losses.triplet_hard_loss(y, x, m, False, d),
            )
    yield (
        "triplet_hard",
        {"soft": True, "distance": "euclidean"},
        lambda y, x: tfa.losses.triplet_hard_loss(y, x, soft=True, distance_metric="L2"),
    )
    for beta, epsilon in ((40.0, 0.1), (10.0, 0.3)):
        loss = tfsim.MultiSimilarityLoss(beta=beta, epsilon=epsilon)
        yield "multi_similarity", {"beta": beta, "epsilon": epsilon}, normalised(loss)
    loss = tfsim.TripletLoss("cosine", "hard", "hard", margin=0.3)
    yield "triplet_hard", {"margin": 0.3, "distance": "cosine"}, normalised(loss)


def normalised(loss):
    """TensorFlow Similarity expects its embeddings to be of length 1; ours makes them so."""
    return lambda y, x: loss(y, tf.math.l2_normalize(x, axis=1))


def contrastive_loss(x, margin):
    """The mean over both pairs of each triplet."""
    distance = tf.norm(x[:, :1] - x[:, 1:], axis=2)
    same = tf.tile([[1.0, 0.0]], [x.shape[0], 1])
    each = tfa.losses.contrastive_loss(tf.reshape(same, [-1]), tf.reshape(distance, [-1]), margin)
    return tf.reduce_mean(each)


def measured(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_mean(function(x))
    return value.numpy(), tape.gradient(value, x).numpy()


def main():
    goldens = {}
    batches = labelled()
    inputs = {case: x for case, (_, x) in batches.items()}
    for loss, parameters, function in rivals():
        found = {}
        for case, (labels, x) in batches.items():
            if case not in SKIP[loss]:
                y = tf.constant(labels)
                found[case] = measured(lambda e, y=y, f=function: f(y, e), x)
        goldens[f"{loss}|{json.dumps(parameters)}"] = pack(found, inputs)
    for margin in (1.0, 2.0):
        found = {
            case: measured(lambda e, m=margin: contrastive_loss(e, m), x)
            for case, x in triplets().items()
        }
        key = f"contrastive_loss|{json.dumps({'margin': margin})}"
        goldens[key] = pack(found, triplets())
    np.savez_compressed(Path(__file__).with_name("tfa_goldens.npz"), **goldens)
    print(f"{len(goldens)} losses by tensorflow-addons and TensorFlow Similarity")


if __name__ == "__main__":
    main()

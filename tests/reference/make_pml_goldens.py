"""Losses by pytorch-metric-learning and torch -> pml_goldens.npz.

Run in an environment of its own (the README beside this file): `python make_pml_goldens.py`.
Keys are `loss|parameters as JSON`, both being those of this library.
"""

import json
from pathlib import Path

import numpy as np
import torch
from golden_batches import labelled, pack, triplets
from pytorch_metric_learning import distances, losses, miners, reducers

# Whether equal rows have a similarity below 1, and so count in the mean, is up to rounding.
SKIP = [("twins", "contrastive", {"distance": "cosine"})]


def distance(name):
    if name == "cosine":
        return distances.CosineSimilarity()
    return distances.LpDistance(
        normalize_embeddings=False, power=2 if name == "squared_euclidean" else 1
    )


def rivals():
    """Yield (loss, parameters, loss function of theirs, miner or None)."""
    for name in ("euclidean", "squared_euclidean", "cosine"):
        for margin in (0.2, 1.0):
            parameters = {"margin": margin, "distance": name}
            theirs = losses.TripletMarginLoss(margin=margin, distance=distance(name))
            yield "batch_all", parameters, theirs, None
            theirs = losses.TripletMarginLoss(
                margin=margin, distance=distance(name), reducer=reducers.MeanReducer()
            )
            yield "triplet_hard", parameters, theirs, miners.BatchHardMiner(distance=distance(name))
        similar = name == "cosine"
        theirs = losses.ContrastiveLoss(float(similar), float(not similar), distance=distance(name))
        yield "contrastive", {"distance": name}, theirs, None
        near, far = (0.8, 0.3) if similar else (0.3, 0.9)
        yield (
            "contrastive",
            {"distance": name, "pos_margin": near, "neg_margin": far},
            losses.ContrastiveLoss(near, far, distance=distance(name)),
            None,
        )
    for temperature in (0.07, 0.5):
        yield "ntxent", {"temperature": temperature}, losses.NTXentLoss(temperature), None
    for parameters in (
        {"alpha": 2.0, "beta": 50.0, "base": 0.5},
        {"alpha": 1.0, "beta": 10.0, "base": 0.2},
    ):
        theirs = losses.MultiSimilarityLoss(**parameters)
        yield "multi_similarity", {**parameters, "epsilon": None}, theirs, None
        for epsilon in (0.1, 0.4):
            miner = miners.MultiSimilarityMiner(epsilon)
            yield "multi_similarity", {**parameters, "epsilon": epsilon}, theirs, miner


def measured(function, x):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = function(x)
    value.backward()
    return value.item(), x.grad.numpy()


def main():
    goldens = {}
    batches = labelled()
    inputs = {case: x for case, (_, x) in batches.items()}
    for loss, parameters, function, miner in rivals():
        found = {}
        for case, (labels, x) in batches.items():
            if (case, loss, parameters) in SKIP:
                continue
            y = torch.tensor(labels)
            found[case] = measured(
                lambda e, f=function, m=miner, y=y: f(e, y, m(e, y) if m else None), x
            )
        goldens[f"{loss}|{json.dumps(parameters)}"] = pack(found, inputs)
    for parameters in ({"margin": 1.0}, {"margin": 0.3}, {"margin": 1.0, "swap": True}):
        theirs = torch.nn.TripletMarginLoss(eps=1e-12, **parameters)
        found = {
            case: measured(lambda e, f=theirs: f(e[:, 0], e[:, 1], e[:, 2]), x)
            for case, x in triplets().items()
        }
        goldens[f"triplet_margin|{json.dumps(parameters)}"] = pack(found, triplets())
        if "swap" not in parameters:
            goldens[f"hinge_loss|{json.dumps(parameters)}"] = pack(found, triplets())
    np.savez_compressed(Path(__file__).with_name("pml_goldens.npz"), **goldens)
    print(f"{len(goldens)} losses by pytorch-metric-learning and torch")


if __name__ == "__main__":
    main()

"""Choices and weights of the miners of pytorch-metric-learning -> miner_goldens.npz.

Run in the environment of `make_pml_goldens.py`: `python make_miner_goldens.py`. Keys are
`miner|parameters as JSON|case`, all of this library and of `golden_batches.py`: int (3, T) for
choices of anchor, positive, negative; float64 (B, B) for probabilities of negatives, a row of zeros
being an anchor for which none is drawn.
"""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from golden_batches import labelled
from pytorch_metric_learning import distances, miners
from pytorch_metric_learning.miners import distance_weighted_miner


def distance(name):
    if name == "cosine":
        return distances.CosineSimilarity()
    power = 2 if name == "squared_euclidean" else 1
    return distances.LpDistance(normalize_embeddings=False, power=power)


def choices():
    """Yield (miner, parameters, miner of theirs)."""
    for name in ("euclidean", "squared_euclidean", "cosine"):
        yield "hard", {"distance": name}, miners.BatchHardMiner(distance=distance(name))
        for negatives in ("semihard", "hard", "easy"):
            theirs = miners.BatchEasyHardMiner(
                pos_strategy="easy", neg_strategy=negatives, distance=distance(name)
            )
            yield "easy_positive", {"negatives": negatives, "distance": name}, theirs


def chosen(miner, labels, x):
    found = miner(torch.tensor(x, dtype=torch.float64), torch.tensor(labels))
    # Four lists are pairs, of which positives and negatives have the same anchors here.
    anchor, positive, negative = found if len(found) == 3 else (found[0], found[1], found[3])
    return torch.stack([anchor, positive, negative]).numpy()


def probabilities(miner, labels, x):
    """The weights that their miner is about to draw with."""
    drawn = mock.Mock(return_value=(torch.tensor([], dtype=torch.long),) * 3)
    with mock.patch.object(distance_weighted_miner.lmu, "get_random_triplet_indices", drawn):
        miner(torch.tensor(x, dtype=torch.float64), torch.tensor(labels))
    return torch.nan_to_num(drawn.call_args.kwargs["weights"]).numpy()


def main():
    goldens = {}
    for case, (labels, x) in labelled().items():
        for name, parameters, theirs in choices():
            # Which of two equal rows is chosen is arbitrary.
            if case != "twins" and len(set(labels)) > 1:
                key = f"{name}|{json.dumps(parameters)}|{case}"
                goldens[key] = chosen(theirs, labels, x).astype(np.int32)
        for near, far in ((0.5, 1.4), (0.8, 1.2), (0.1, 1.9)):
            theirs = miners.DistanceWeightedMiner(cutoff=near, nonzero_loss_cutoff=far)
            parameters = {"cutoff": near, "nonzero_loss_cutoff": far}
            key = f"distance_weighted|{json.dumps(parameters)}|{case}"
            goldens[key] = probabilities(theirs, labels, x)
    np.savez_compressed(Path(__file__).with_name("miner_goldens.npz"), **goldens)
    print(f"{len(goldens)} choices and weights by pytorch-metric-learning")


if __name__ == "__main__":
    main()

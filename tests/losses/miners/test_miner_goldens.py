"""Choices and weights against those of pytorch-metric-learning, kept in tests/reference."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.reference.golden_batches import labelled
from trainer import losses

GOLDENS = dict(np.load(Path(__file__).parents[2] / "reference" / "miner_goldens.npz"))
KINDS = sorted({key.rpartition("|")[0] for key in GOLDENS})


@pytest.mark.parametrize("kind", KINDS)
def test_choices_and_weights_equal_the_other_library(kind):
    name, parameters = kind.split("|")
    miner = losses.get_miner(name, **json.loads(parameters))
    compared = 0
    for case, (labels, x) in labelled().items():
        golden = GOLDENS.get(f"{kind}|{case}")
        if golden is None:
            continue
        if name == "distance_weighted":
            ours = np.array(miner.weights(labels, x), np.float64)
            total = ours.sum(axis=1, keepdims=True)
            ours = np.divide(ours, total, out=np.zeros_like(ours), where=total > 0)
            np.testing.assert_allclose(ours, golden, rtol=1e-3, atol=1e-6, err_msg=case)
            compared += (golden > 0).sum()
            continue
        anchor, positive, negative, valid = (np.array(part) for part in miner(labels, x))
        ours = np.stack([anchor, positive, negative])[:, valid]
        np.testing.assert_array_equal(ours, golden, err_msg=case)
        compared += golden.shape[1]
    assert compared > 50

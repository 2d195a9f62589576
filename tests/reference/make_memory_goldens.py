"""Losses against pytorch-metric-learning's memory of batches -> memory_goldens.npz.

Run in the environment of `make_pml_goldens.py`: `python make_memory_goldens.py`. Keys are
`loss|parameters as JSON`, both being those of this library. Each holds, for the batches of
`golden_batches.remembered` one after another, the loss against the memory and its gradient by the
batch: a row a batch, the loss first.
"""

import json
from pathlib import Path

import numpy as np
import torch
from golden_batches import MEMORY, remembered
from make_pml_goldens import rivals
from pytorch_metric_learning.losses import CrossBatchMemory

#: With references, its `LiftedStructureLoss` compares places in the batch with places among them.
LEFT_OUT = ("lifted_structure", "npairs", "contrastive_similarity")


def main():
    goldens = {}
    for loss, parameters, function, miner in rivals():
        if loss in LEFT_OUT:
            continue
        batches = remembered()
        dim = batches[0][1].shape[1]
        memory = CrossBatchMemory(function, dim, memory_size=MEMORY, miner=miner)
        memory.embedding_memory = memory.embedding_memory.double()
        rows = []
        for labels, x in batches:
            x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
            value = memory(x, torch.tensor(labels))
            value.backward()
            rows.append(np.concatenate([[value.item()], x.grad.numpy().ravel()]))
        goldens[f"{loss}|{json.dumps(parameters)}"] = np.array(rows, np.float32)
    np.savez_compressed(Path(__file__).with_name("memory_goldens.npz"), **goldens)
    print(f"{len(goldens)} losses against a memory by pytorch-metric-learning")


if __name__ == "__main__":
    main()

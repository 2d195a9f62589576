"""The other side of `python -m benchmarks learning`: PyTorch with pytorch-metric-learning.

Runs in an environment of its own: nothing but the standard library, numpy, torch and
pytorch-metric-learning. Written as one would by hand for a set that fits in memory: all pictures
are one tensor, a batch is cut out of it and moved in one call, and no time goes to files.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import (  # type: ignore[import-not-found]
    losses,
    miners,
    samplers,
)
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """The net of the benchmark, with the starting values that Keras takes."""

    def __init__(self, widths: list[int], dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
            nn.init.trunc_normal_(conv.weight, std=1.0, a=-2.0, b=2.0)
            # Keras' he_normal: cut off at two deviations, then widened to the variance meant.
            with torch.no_grad():
                conv.weight *= (2.0 / (9 * before)) ** 0.5 / 0.87962566103423978
            # Pooling before the ReLU, as on the other side: the same result for less work.
            layers += [conv, nn.BatchNorm2d(width, eps=1e-3), nn.MaxPool2d(2), nn.ReLU()]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(before, dim)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, D) of length 1 for images (B, 3, S, S), 0..255."""
        features = self.trunk(images / 255.0).mean((2, 3))
        return functional.normalize(self.head(features))


def moved(images: torch.Tensor, rotation: float, zoom: float) -> torch.Tensor:
    """Return images (B, 3, S, S) turned by up to `rotation` degrees, zoomed, borders repeated."""
    count = len(images)
    angle = torch.deg2rad((2 * torch.rand(count) - 1) * rotation)
    scale = 1 + (2 * torch.rand(count, 2) - 1) * zoom
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    affine = torch.cat([turn * scale[:, None, :], torch.zeros(count, 2, 1)], 2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def parts(loss: str) -> tuple[Any, Any]:
    """Return miner and loss."""
    if loss == "multi_similarity":
        return miners.MultiSimilarityMiner(epsilon=0.1), losses.MultiSimilarityLoss()
    miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    return miner, losses.TripletMarginLoss(margin=0.2)


def train(spec: dict[str, Any]) -> None:
    """Train as `spec` says; save the embeddings of the test pictures, print images a second."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    # The sampler draws from this one.
    np.random.seed(spec["seed"])
    data = np.load(spec["pictures"])
    layout = torch.channels_last

    def tensor(name: str) -> torch.Tensor:
        pixels = torch.from_numpy(data[name]).permute(0, 3, 1, 2)
        return pixels.to(torch.float32, memory_format=layout)

    images, labels = tensor("train"), torch.from_numpy(data["train_label"])
    size, steps = spec["classes"] * spec["per_class"], spec["steps"]
    sampler = samplers.MPerClassSampler(
        labels, m=spec["per_class"], batch_size=size, length_before_new_iter=size * steps
    )
    rows = torch.tensor(list(sampler)).reshape(steps, size)
    net = Net(spec["widths"], spec["dim"]).to(memory_format=layout)
    miner, loss_of = parts(spec["loss"])
    optimizer = torch.optim.Adam(net.parameters(), lr=spec["lr"], eps=1e-7)
    start = 0.0
    for step, chosen in enumerate(rows):
        if step == spec["warmup"]:
            start = time.perf_counter()
        batch = moved(images[chosen], spec["rotation"], spec["zoom"])
        embeddings = net(batch.contiguous(memory_format=layout))
        loss = loss_of(embeddings, labels[chosen], miner(embeddings, labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part) for part in tensor("test").split(256)]).numpy()
    np.save(spec["out"], found)
    print(json.dumps({"images_per_second": size * (steps - spec["warmup"]) / seconds}))


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))

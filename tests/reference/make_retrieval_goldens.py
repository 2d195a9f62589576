"""Retrieval metrics by pytorch-metric-learning and scikit-learn -> retrieval_goldens.npz.

Run in an environment of its own (the README beside this file says which packages):
`python make_retrieval_goldens.py`.
"""

from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import average_precision_score

NAMES = (
    "precision_at_1",
    "r_precision",
    "mean_average_precision_at_r",
    "mean_average_precision",
    "mean_reciprocal_rank",
)


def scores(embeddings, labels, is_query):
    """Both libraries' means; the queries are in the gallery if there is no mask."""
    everything = torch.from_numpy(embeddings)
    if is_query is None:
        query, gallery = slice(None), slice(None)
    else:
        query, gallery = is_query, ~is_query
    size = len(labels[gallery]) - (is_query is None)
    calculator = AccuracyCalculator(include=NAMES, k=size, device=torch.device("cpu"))
    found = calculator.get_accuracy(
        everything[query],
        torch.from_numpy(labels[query]),
        everything[gallery],
        torch.from_numpy(labels[gallery]),
        ref_includes_query=is_query is None,
    )
    exact = embeddings.astype(np.float64)
    rows = np.arange(len(labels))
    precisions = []
    for row in rows[query]:
        others = rows[gallery][rows[gallery] != row]
        truth = labels[others] == labels[row]
        if truth.any():
            precisions.append(average_precision_score(truth, exact[others] @ exact[row]))
    return np.array([*(found[name] for name in NAMES), np.mean(precisions)])


def main():
    """Two sets: few large classes, many small ones (some with one image)."""
    random = np.random.default_rng(0)
    content = {"names": np.array([*NAMES, "sklearn_average_precision"])}
    for name, classes in (("large", 6), ("small", 120)):
        labels = random.integers(classes, size=240)
        centres = random.standard_normal((classes, 12))
        embeddings = centres[labels] + 1.6 * random.standard_normal((240, 12))
        embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype("f4")
        is_query = random.random(240) < 0.4
        content |= {
            f"{name}_embeddings": embeddings,
            f"{name}_labels": labels,
            f"{name}_is_query": is_query,
            f"{name}_all": scores(embeddings, labels, None),
            f"{name}_split": scores(embeddings, labels, is_query),
        }
    np.savez_compressed(Path(__file__).with_name("retrieval_goldens.npz"), **content)


if __name__ == "__main__":
    main()

"""k-reciprocal distances by torchreid's copy of the authors' code -> rerank_goldens.npz.

Run in an environment of its own (the README beside this file says which packages):
`python make_rerank_goldens.py`.
"""

import importlib.util
from importlib import metadata
from pathlib import Path

import numpy as np

#: name -> queries, items, dimensions, products, k1, k2, weight of the plain distance.
CASES = {
    "published": (25, 95, 16, 12, 20, 6, 0.3),
    "small": (10, 50, 8, 15, 5, 1, 0.5),
    "odd": (17, 60, 12, 9, 7, 3, 0.0),
}


def load():
    """Return the function, without torchreid's other files, which need torch and OpenCV."""
    file = next(f for f in metadata.files("torchreid") if f.name == "rerank.py")
    spec = importlib.util.spec_from_file_location("rerank", file.locate())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.re_ranking


def distances(first, second):
    """Euclidean distances, which torchreid squares."""
    apart = first.astype(np.float64)[:, None] - second.astype(np.float64)[None]
    return np.sqrt((apart**2).sum(axis=2))


def main():
    """Products as noisy points around centres, rows of unit length."""
    re_ranking = load()
    random = np.random.default_rng(0)
    content = {}
    for name, (queries, items, dim, products, k1, k2, weight) in CASES.items():
        centres = random.standard_normal((products, dim))
        rows = centres[random.integers(products, size=queries + items)]
        rows = rows + 0.7 * random.standard_normal(rows.shape)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        asking, gallery = rows[:queries], rows[queries:]
        found = re_ranking(
            distances(asking, gallery),
            distances(asking, asking),
            distances(gallery, gallery),
            k1=k1,
            k2=k2,
            lambda_value=weight,
        )
        content |= {
            f"{name}_queries": asking,
            f"{name}_gallery": gallery,
            f"{name}_parameters": np.array([k1, k2, weight]),
            f"{name}_distances": found.astype(np.float32),
        }
    np.savez_compressed(Path(__file__).with_name("rerank_goldens.npz"), **content)


if __name__ == "__main__":
    main()
